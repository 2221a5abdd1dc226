"""Selection against what NumPy's sorts say."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import select


class SelectTest(parameterized.TestCase):
  @parameterized.parameters(1, 3, 7, 20)
  def test_top_is_in_time_order_and_of_equals_the_earlier(self, count):
    scores = jnp.array([[2.0, 5.0, 2.0, -jnp.inf, 2.0, 9.0, -jnp.inf]])
    index, real = select.top(scores, count)
    order = [5, 1, 0, 2, 4]
    want = sorted(order[:count])
    self.assertEqual(index[0][: len(want)].tolist(), want)
    self.assertEqual(int(real.sum()), len(want))
    self.assertTrue((index < 7).all())

  @parameterized.parameters(1, 4, 30)
  def test_kept_are_the_best_of_the_allowed(self, count):
    rng = np.random.default_rng(count)
    scores = rng.integers(0, 5, (3, 1, 12)).astype(np.float32)  # many are equal
    allowed = rng.random((3, 9, 12)) < 0.6
    got = np.asarray(select.kept(jnp.asarray(scores), jnp.asarray(allowed), count))
    for r, t in np.ndindex(3, 9):
      best = sorted(np.flatnonzero(allowed[r, t]), key=lambda s: (-scores[r, 0, s], s))
      self.assertEqual(np.flatnonzero(got[r, t]).tolist(), sorted(best[:count]))

  def test_so_far_lists_what_each_query_of_a_chunk_may_keep(self):
    R, T, count, size = 2, 24, 3, 6
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (R, T)).astype(np.float32)
    scores[0, [4, 13]] = -np.inf
    documents = np.array([[0] * 24, [0] * 5 + [1] * 2 + [2] * 17])
    lists = np.asarray(
      select.so_far(*map(jnp.asarray, (scores, documents)), count, size)
    )
    self.assertEqual(lists.shape, (R, T // size, count + size))
    for r, t in np.ndindex(R, T):
      seen = np.arange(T) <= t
      seen = seen & (documents[r] == documents[r, t]) & (scores[r] > -np.inf)
      best = sorted(np.flatnonzero(seen), key=lambda s: (-scores[r, s], s))[:count]
      listed = lists[r, t // size]
      allowed = (listed >= 0) & seen[listed]
      last = int(select.last_place(jnp.asarray(allowed), count))
      places = np.arange(listed.size) <= last
      self.assertEqual(listed[allowed & places].tolist(), best)

  def test_at_most_compares_the_numbers(self):
    mask = select.AtMost(jnp.array([[3, 0]]), jnp.array([[0, 3, 4]]))
    want = [[True, True, False], [True, False, False]]
    self.assertEqual(mask.dense(2, 3)[0, 0].tolist(), want)

  def test_added_is_the_transpose_of_rows(self):
    x = jax.random.normal(jax.random.key(0), (2, 7, 3))
    y = jax.random.normal(jax.random.key(1), (2, 5, 3))
    index = jnp.array([[0, 6, 6, 2, -1], [1, 1, 1, 5, 0]])
    left = jnp.vdot(select.rows(x, index), y)
    right = jnp.vdot(x, select.added(y, index, 7))
    np.testing.assert_allclose(left, right, rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
