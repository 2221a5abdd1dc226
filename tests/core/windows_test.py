import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import masks
from attnjax.core.grids import neighborhood, permutation


def _forms(longest):
  for length in range(1, longest + 1):
    for window in range(1, length + 1):
      for stride in range(1, window + 1):
        for causal in (False, True):
          yield length, window, stride, causal


class BoundsTest(parameterized.TestCase):
  def test_a_window_holds_its_query_and_grows_with_it(self):
    for length, window, stride, causal in _forms(14):
      i = np.arange(length)
      low, high = neighborhood.bounds(i, length, window, stride, causal)
      form = (length, window, stride, causal)
      self.assertTrue(((low <= i) & (i < high) & (0 <= low) & (high <= length)).all())
      self.assertTrue((np.diff(low) >= 0).all() and (np.diff(high) >= 0).all(), form)
      if not causal:
        np.testing.assert_array_equal(high - low, window, str(form))
      else:
        self.assertLessEqual((high - low).max(), window, form)
        np.testing.assert_array_equal(high, i + 1)

  def test_inverse_is_the_transposed_mask(self):
    for length, window, stride, causal in _forms(16):
      i = np.arange(length)
      low, high = neighborhood.bounds(i, length, window, stride, causal)
      seen = (low[:, None] <= i) & (i < high[:, None])
      first, last = neighborhood.inverse(i, length, window, stride, causal)
      got = (first <= i[:, None]) & (i[:, None] < last)
      np.testing.assert_array_equal(got, seen, str((length, window, stride, causal)))
      self.assertTrue(seen.any(axis=0).all())

  def test_an_odd_window_is_symmetric_inside(self):
    low, high = neighborhood.bounds(np.arange(3, 10), 13, 7)
    np.testing.assert_array_equal(np.arange(3, 10) - low, 3)
    np.testing.assert_array_equal(high - 1 - np.arange(3, 10), 3)

  def test_an_even_window_has_one_more_on_the_left(self):
    low, high = neighborhood.bounds(np.array([5]), 12, 4)
    self.assertEqual((low.item(), high.item()), (3, 7))

  def test_a_short_axis_is_seen_whole(self):
    low, high = neighborhood.bounds(np.arange(3), 3, 7, 2)
    np.testing.assert_array_equal(low, 0)
    np.testing.assert_array_equal(high, 3)

  def test_traced_lengths_give_the_static_bounds(self):
    run = jax.jit(lambda i, length: neighborhood.bounds(i, length, 5, 3))
    for length in (4, 5, 12):
      i = np.arange(length)
      want = neighborhood.bounds(i, length, 5, 3)
      jax.tree.map(np.testing.assert_array_equal, run(i, jnp.int32(length)), want)


class OrderTest(parameterized.TestCase):
  def test_dilation_groups_are_strided_slices(self):
    order, low, high = neighborhood.ordered(11, 3, 2, 3, False)
    np.testing.assert_array_equal(order, [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8])
    for start, length in ((0, 4), (4, 4), (8, 3)):
      a, b = neighborhood.bounds(np.arange(length), length, 3, 2)
      np.testing.assert_array_equal(low[start : start + length], start + a)
      np.testing.assert_array_equal(high[start : start + length], start + b)

  @parameterized.parameters((1, False), (2, True), (3, False))
  def test_packed_documents_are_axes_one_after_the_other(self, dilation, causal):
    lengths, options = (7, 1, 10), (4, 3, dilation, causal)
    ids = jnp.repeat(jnp.array([[5, 2, 5]]), jnp.array(lengths), axis=1)
    start, parts = 0, []
    for length in lengths:
      parts.append([start + x for x in neighborhood.ordered(length, *options)])
      start += length
    got = jax.jit(lambda ids: neighborhood.packed(ids, *options))(ids)
    for g, *want in zip(got, *parts):
      np.testing.assert_array_equal(g[0], np.concatenate(want))

  def test_negative_ids_have_an_empty_interval(self):
    _, low, high = neighborhood.packed(jnp.array([[-1, -1, 3, 3, -1]]), 2, 1, 1, False)
    np.testing.assert_array_equal((high - low)[0], [0, 0, 2, 2, 0])

  def test_runs(self):
    run, place, length = neighborhood.runs(jnp.array([4, 4, -1, 4, 4, 4]))
    np.testing.assert_array_equal(run, [0, 0, 1, 2, 2, 2])
    np.testing.assert_array_equal(place, [0, 1, 0, 0, 1, 2])
    np.testing.assert_array_equal(length, [2, 2, 1, 3, 3, 3])


class WindowsTest(parameterized.TestCase):
  def _mask(self, **options):
    low = jnp.array([[[0, 1, 3]], [[1, 1, 2]]])
    return neighborhood.Windows(low, low + jnp.array([2, 1, 0]), (5, 4), **options)

  def test_dense_is_the_product_of_the_intervals(self):
    seen = np.zeros((3, 5, 4), bool)
    seen[0, 0:2, 1:3] = True
    seen[1, 1:2, 1:2] = True
    got = self._mask().dense(3, 20)
    np.testing.assert_array_equal(got[0, 0], seen.reshape(3, 20))

  def test_extra_keys_are_seen_unless_the_interval_is_empty(self):
    got = self._mask().dense(3, 22)[0, 0, :, 20:]
    np.testing.assert_array_equal(got, [[True, True], [True, True], [False, False]])

  def test_steps(self):
    low = jnp.array([[[1, 2]]])
    mask = neighborhood.Windows(low, low + 5, (8,), step=2)
    want = [[0, 1, 0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0, 1, 0]]
    np.testing.assert_array_equal(mask.dense(2, 8)[0, 0], np.array(want, bool))

  def test_blocks_that_are_empty_or_full_are_so(self):
    mask = self._mask()
    dense = np.asarray(mask.dense(3, 22))[0, 0]
    kind = np.asarray(masks.kinds(mask, (1, 1, 3, 22), 1, 2, refine=False))[0, 0]
    found = 0
    for t, s in np.ndindex(kind.shape):
      block = dense[t, 2 * s : 2 * s + 2]
      if kind[t, s] != masks.PARTIAL:
        self.assertEqual(int(block.all()) + int(block.any()), kind[t, s])
        found += 1
    self.assertGreater(found, 20)


class TilesTest(parameterized.TestCase):
  @parameterized.parameters(
    ((7,), (3,), (1,)),
    ((13,), (2,), (3,)),
    ((5, 9), (2, 4), (1, 2)),
    ((3, 4, 5), (2, 1, 3), (2, 3, 1)),
  )
  def test_unpermute_is_the_inverse(self, shape, tile, dilation):
    x = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    y = permutation.permute(x, tile, dilation)
    self.assertEqual(y.shape[0], 2 * np.prod(dilation))
    self.assertEqual(y.shape[1] % np.prod(tile), 0)
    got = permutation.unpermute(y, shape, tile, dilation)
    np.testing.assert_array_equal(got, x)

  def test_tiles_are_contiguous_and_groups_go_to_the_batch(self):
    x = jnp.arange(1, 41).reshape(1, 4, 10)
    y = permutation.permute(x, (2, 3), (1, 2))
    self.assertEqual(y.shape, (2, 24))
    np.testing.assert_array_equal(y[0, :6], [1, 3, 5, 11, 13, 15])
    np.testing.assert_array_equal(y[1, 6:12], [8, 10, 0, 18, 20, 0])

  @parameterized.parameters(1, 2)
  def test_rows_are_windows_of_each_example(self, size):
    x = jax.random.normal(jax.random.key(0), (2, 10, 3, 4))
    index = np.array([[[0, 3, 3], [9, 1, 0]], [[5, 5, 5], [2, 8, 4]]])[:size]
    got = permutation.rows(x, index)
    self.assertEqual(got.shape, (4, 3, 3, 4))
    for b in range(2):
      want = x[b, index[b % size]]
      np.testing.assert_array_equal(got[2 * b : 2 * b + 2], want)


if __name__ == "__main__":
  absltest.main()
