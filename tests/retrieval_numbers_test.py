"""Numbers of retrieval, by hand and by all orders of equal scores; the temperature."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.nn import temperature
from experiments import retrieval
from experiments.data import concepts

SCORES = jnp.array([[0.9, 0.1, 0.5], [0.3, 0.3, 0.1], [0.2, 0.2, 0.2]])
RIGHT = jnp.array([0, 1, 2])


def _orders(scores):
  """All orders of items that put greater scores first."""
  for order in itertools.permutations(range(len(scores))):
    if all(scores[a] >= scores[b] for a, b in zip(order, order[1:])):
      yield order


class RankTest(parameterized.TestCase):
  def test_by_hand(self):
    self.assertEqual(retrieval.ranks(SCORES, RIGHT).tolist(), [1, 1.5, 2])
    self.assertEqual(retrieval.ranks(SCORES, RIGHT[::-1]).tolist(), [2, 1.5, 2])
    np.testing.assert_allclose(retrieval.recall_at(SCORES, RIGHT, 1), [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(retrieval.recall_at(SCORES, RIGHT, 2), [1, 1, 2 / 3])
    found = retrieval.summary(SCORES, RIGHT, (1, 3))
    self.assertAlmostEqual(found["recall_at_1"], (1 + 1 / 2 + 1 / 3) / 3, places=6)
    self.assertEqual(found["recall_at_3"], 1.0)
    self.assertEqual((found["median_rank"], found["mean_rank"]), (1.5, 1.5))
    self.assertContainsSubset(["recall_at_10"], retrieval.summary(SCORES, RIGHT))

  def test_are_means_over_all_orders(self):
    scores = np.array([0.5, 0.2, 0.5, 0.5, 0.9, 0.2])
    relevant = np.array([True, False, False, True, False, True])
    precisions, places = [], []
    for order in _orders(scores):
      hits = relevant[list(order)]
      precisions.append((np.cumsum(hits) / np.arange(1, 7))[hits].mean())
      places.append(order.index(3) + 1)
    got = retrieval.average_precision(scores[None], relevant[None])
    np.testing.assert_allclose(got, [np.mean(precisions)])
    one, right = jnp.asarray(scores)[None], jnp.array([3])
    self.assertAlmostEqual(float(retrieval.ranks(one, right)[0]), np.mean(places))
    for k in range(1, 7):
      want = np.mean(np.array(places) <= k)
      got = float(retrieval.recall_at(one, right, k)[0])
      self.assertAlmostEqual(got, want, places=6)

  def test_items_may_be_excluded(self):
    exclude = jnp.array(
      [[False, False, True], [True, False, False], [False, True, False]]
    )
    found = retrieval.ranks(SCORES, RIGHT, exclude)
    self.assertEqual(found.tolist(), [1, 1, 1.5])
    found = retrieval.recall_at(SCORES, RIGHT, 1, exclude)
    np.testing.assert_allclose(found, [1, 1, 1 / 2])
    summary = retrieval.summary(SCORES, RIGHT, (1,), exclude)
    self.assertAlmostEqual(summary["recall_at_1"], 2.5 / 3, places=6)
    self.assertAlmostEqual(summary["mean_rank"], 3.5 / 3, places=6)
    subset = jnp.array([[True, False, True], [True, True, False], [True, True, True]])
    found = retrieval.recall_within(SCORES, RIGHT, subset, 1)
    np.testing.assert_allclose(found, [1, 1 / 2, 1 / 3])

  def test_average_precision_of_the_first(self):
    scores = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]] * 3)
    relevant = np.array(
      [[True, False, True, False, True], [False, False, True, True, False], [False] * 5]
    )
    for k, want in (
      (1, [1, 0, 0]),
      (2, [1 / 2, 0, 0]),  # over the lesser of 2 and 3 relevant items
      (3, [(1 + 2 / 3) / 3, 1 / 3 / 2, 0]),
      (9, [(1 + 2 / 3 + 3 / 5) / 3, (1 / 3 + 2 / 4) / 2, 0]),
    ):
      found = retrieval.average_precision(scores, relevant, k)
      np.testing.assert_allclose(found, want)
    exclude = np.arange(5) == np.array([[1], [0], [0]])
    found = retrieval.average_precision(scores, relevant, 2, exclude)
    np.testing.assert_allclose(found, [1, 1 / 2 / 2, 0])

  def test_average_precision_of_the_first_of_equal_scores(self):
    scores = np.array([0.5, 0.2, 0.5, 0.5, 0.9, 0.2])
    relevant = np.array([True, False, False, True, False, True])
    for k in range(1, 7):
      precisions = []
      for order in _orders(scores):
        hits = relevant[list(order)]
        precision = (np.cumsum(hits) / np.arange(1, 7))[:k]
        precisions.append(precision[hits[:k]].sum() / min(k, 3))
      found = retrieval.average_precision(scores[None], relevant[None], k)
      np.testing.assert_allclose(found, [np.mean(precisions)])

  def test_average_precision_by_hand(self):
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, np.nan]])
    relevant = np.array([[True, False, True], [False] * 3, [False, False, True]])
    got = retrieval.average_precision(scores, relevant)
    np.testing.assert_allclose(got, [(1 + 2 / 3) / 2, 0, 1 / 3])

  def test_nan_is_last(self):
    scores = jnp.array([[jnp.nan, 0.0, -1.0]])
    self.assertEqual(retrieval.ranks(scores, jnp.array([0])).tolist(), [3])

  def test_the_best_caption_of_a_video_counts(self):
    scores = jnp.array([[0.1, 0.8], [0.9, 0.3], [0.4, 0.6], [9.0, 9.0]])
    found = retrieval.of_owners(scores, jnp.array([0, 0, 1, -1]))
    np.testing.assert_allclose(found, [[0.9, 0.4], [0.8, 0.6]])
    none = retrieval.of_owners(scores, jnp.array([0, 0, 0, -1]))
    self.assertEqual(none[:, 1].tolist(), [-jnp.inf, -jnp.inf])


class TemperatureTest(absltest.TestCase):
  def test_begins_at_one_over_007_and_stays_below_100(self):
    scale = temperature.Temperature()
    self.assertAlmostEqual(float(scale(jnp.ones(()))), 1 / 0.07, places=4)

    def run(log):
      return jnp.exp(temperature.at_most(log, math.log(100)))

    for log, want in ((2.0, math.exp(2)), (9.0, 100.0)):
      value, slope = jax.value_and_grad(run)(jnp.asarray(log))
      self.assertAlmostEqual(float(value), want, delta=1e-3)
      self.assertAlmostEqual(float(slope), want, delta=1e-3)


class ConceptsTest(absltest.TestCase):
  def test_captions_sum_two_frames(self):
    world = concepts.world(3, 9, 5)
    np.testing.assert_allclose(np.linalg.norm(world, axis=1), np.ones(9), rtol=1e-6)
    draw = np.random.default_rng(0)
    made = concepts.example(draw, world, frames=4, frame_noise=0.0, text_noise=0.0)
    np.testing.assert_allclose(made["frames"], world[made["shown"]], rtol=1e-6)
    self.assertLen(set(made["shown"].tolist()), 4)
    one, two = made["told"]
    self.assertLess(one, two)
    frames = made["frames"]
    np.testing.assert_allclose(made["text"], frames[one] + frames[two], rtol=1e-5)

  def test_noise_has_the_length_that_is_asked_for(self):
    world = concepts.world(0, 4, 400)
    draw = np.random.default_rng(1)
    made = concepts.example(draw, world, frames=4, frame_noise=0.15, text_noise=0.3)
    noise = made["frames"] - world[made["shown"]]
    np.testing.assert_allclose(np.linalg.norm(noise, axis=1), 0.15, rtol=0.15)
    told = world[made["shown"][made["told"]]].sum(0)
    self.assertAlmostEqual(np.linalg.norm(made["text"] - told), 0.3, delta=0.05)


if __name__ == "__main__":
  absltest.main()
