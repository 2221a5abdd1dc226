"""Problems that claims draw: known answers. Rows that are shared, and costs."""

from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from experiments.claims import rows
from experiments.claims.claim import Score
from experiments.claims.systems import (
  aaren,
  gated_attention,
  hyperzzw,
  lightning2,
  nprf,
  superlinear,
)
from experiments.claims.tasks import python_text


class ProblemsTest(parameterized.TestCase):
  @parameterized.parameters(
    (gated_attention.examples, "x"),
    (aaren.series, "series"),
    (lightning2.texts, "tokens"),
    (superlinear.texts, "tokens"),
    (nprf.texts, "tokens"),
    (hyperzzw.examples, "image"),
  )
  def test_seeds_and_splits_differ_and_repeat(self, draw, name):
    one = draw(0, "test")[name]
    again = getattr(draw, "__wrapped__", draw)(0, "test")[name]
    np.testing.assert_array_equal(one, again)
    for other in (draw(1, "test")[name], draw(0, "validation")[name]):
      size = min(len(one), len(other))
      self.assertGreater((one[:size] != other[:size]).mean(), 0.1)

  def test_triggers_ask_for_the_mean_of_the_features_before(self):
    x, y = gated_attention.examples(0, "test").values()
    trigger, feature = x[:8, :, :1], x[:8, :, 1:]
    for t in range(gated_attention.LENGTH):
      mean = feature[:, :t].mean(axis=1) if t else np.zeros_like(feature[:, 0])
      np.testing.assert_allclose(y[:8, t], trigger[:, t] * mean, atol=1e-5)
    self.assertAlmostEqual(float(x[:, :, 0].mean()), 0.2, delta=0.02)

  def test_series_are_sums_of_three_sines_and_noise(self):
    found = aaren.series(0, "test")["series"]
    # Sizes are uniform from 0.3 to 1: a sine has 0.463 / 2 of power.
    self.assertAlmostEqual(float(found.var()), 3 * 0.2317 + 0.01, delta=0.05)
    jumps = np.diff(found, n=8, axis=1)  # noise is multiplied by (16 choose 8)
    self.assertGreater(float(jumps.var()), 12870 * 0.01)

  def test_texts_are_of_one_chain_of_order_three(self):
    counts = []
    for split in ("train", "test"):
      tokens, labels = lightning2.texts(0, split).values()
      np.testing.assert_array_equal(tokens[:, 1:], labels[:, :-1])
      context = (tokens[:, :-2] * 4 + tokens[:, 1:-1]) * 4 + tokens[:, 2:]
      table = np.zeros((64, 4))
      np.add.at(table, (context, labels[:, 2:]), 1)
      counts.append(table / np.maximum(table.sum(axis=1, keepdims=True), 1))
    often = table.sum(axis=1) > 500
    self.assertLess(abs(counts[0] - counts[1])[often].max(), 0.1)
    self.assertGreater(counts[0].std(), 0.2)

  def test_the_needle_is_asked_for_at_the_end(self):
    tokens, labels = superlinear.texts(0, "test").values()
    values = (tokens >= 16) & (tokens < 24)
    np.testing.assert_array_equal(values.sum(axis=1), 1)
    np.testing.assert_array_equal(tokens[values] - 16, labels[:, 0])
    self.assertFalse(values[:, 192:].any())
    np.testing.assert_array_equal(tokens[:, -1], 24)

  def test_copies_come_from_seven_places_before(self):
    tokens, labels = nprf.texts(0, "test").values()
    self.assertTrue((labels[:, :7] == -1).all())
    for t in range(7, 64):
      np.testing.assert_array_equal(labels[:, t], tokens[:, t - 7])

  def test_digits_are_in_one_split_each(self):
    sizes = [len(hyperzzw.examples(0, split)["label"]) for split in data.SPLITS]
    self.assertEqual(sorted(sizes), [297, 500, 1000])
    whole = np.concatenate([hyperzzw.examples(0, s)["image"] for s in data.SPLITS])
    known = hyperzzw._digits()["image"]
    order = [np.lexsort(x.reshape(len(x), -1).T) for x in (whole, known)]
    np.testing.assert_array_equal(whole[order[0]], known[order[1]])

  def test_without_global_branches_their_slow_nets_give_nothing(self):
    shapes = jax.eval_shape(hyperzzw.WHOLE, jax.random.key(0)).net
    net = jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes)
    local = hyperzzw.scaled(net, 0.0)
    leaves = zip(jax.tree.leaves(net), jax.tree.leaves(local))
    changed = [(x.shape, y.max()) for x, y in leaves if (x != y).any()]
    # The biases and kernels of three output layers, 8 wide.
    shapes = (1,), (8, 1), (12,), (8, 12), (12,), (8, 12)
    self.assertEqual(changed, [(shape, 0.0) for shape in shapes])

  def test_a_linear_map_of_the_pixels_around_is_a_convolution(self):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    want = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    got = hyperzzw.around(x) @ kernel.reshape(27, 4)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

  def test_bytes_are_windows_of_the_split(self):
    tokens, labels = python_text.problem(held_out=4).examples(0, "test").values()
    np.testing.assert_array_equal(tokens[:, 1:], labels[:, :-1])
    text = bytes(data.load("stdlib").source("test").bytes)
    for row in tokens:
      self.assertIn(bytes(row.astype(np.uint8)), text)


class RowsTest(absltest.TestCase):
  def test_a_row_that_claims_share_is_trained_once(self):
    calls = []

    def scores(build, problem, recipe, runs):
      calls.append(list(runs))
      return [Score(rate, float(seed), 1) for rate, seed in runs]

    with mock.patch.object(rows, "_scores", scores):
      row = rows.trained("ours", "mechanism", None, None, None)
      row.train([(1e-3, 0), (1e-2, 0)])
      found = row.train([(1e-2, 0), (1e-2, 1)])
      row.train([(1e-2, 1)])
    self.assertEqual(calls, [[(1e-3, 0), (1e-2, 0)], [(1e-2, 1)]])
    self.assertEqual([one.validation for one in found], [0.0, 1.0])


if __name__ == "__main__":
  absltest.main()
