"""The problem of a mark far away: who is asked, what is right, who can know."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments.claims.tasks import mark


class MarkTest(absltest.TestCase):
  def test_the_mark_and_those_asked(self):
    problem = mark.problem(apart=6, rows=1, train=8, held_out=6)
    batch = problem.examples(0, "test")
    self.assertEqual(batch["image"].shape, (6, 16, 16, 1))
    tokens = batch["image"][..., 0].reshape(6, 8, 2, 8, 2).mean((2, 4))
    for means, labels in zip(tokens, batch["labels"]):
      row, column = np.unravel_index(abs(means).argmax(), means.shape)
      away = np.abs(np.indices((8, 8)) - np.array([row, column])[:, None, None])
      asked = (away.max(0) >= 6) & (away[0] <= 1)
      self.assertTrue(asked.any())
      bright = int(means[row, column] > 0)
      np.testing.assert_array_equal(labels, np.where(asked, bright, -1))
    again = problem.examples(1, "test")["image"]
    self.assertGreater(np.abs(again - batch["image"]).max(), 0.0)

  def test_scores_of_the_answer_and_of_its_opposite(self):
    problem = mark.problem(apart=6, train=8, held_out=6)
    batch = problem.examples(0, "test")
    bright = jnp.asarray(batch["labels"].max((1, 2)))[:, None, None]
    right = jnp.broadcast_to(jax.nn.one_hot(bright, 2), (6, 8, 8, 2))
    self.assertEqual(problem.score(lambda x: right, batch), 1.0)
    self.assertEqual(problem.score(lambda x: 1 - right, batch), 0.0)
    got = problem.loss(lambda x: jnp.zeros((6, 8, 8, 2)), batch)
    self.assertAlmostEqual(float(got), np.log(2), places=5)

  def test_random_keys(self):
    np.testing.assert_array_equal(mark.random_keys(16).sum(-1), [16] * 64)


if __name__ == "__main__":
  absltest.main()
