import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core.grids import partition

PARTITIONS = (
  partition.Partition((7,), 3),
  partition.Partition((10,), 2, 3, 4),
  partition.Partition((1,), 4, 1, 2),
  partition.Partition((5, 9), (2, 3), (1, 2)),
  partition.Partition((6, 4), 3, offset=(1, 2)),
  partition.Partition((5, 7), (4, 2), offset=2),
  partition.grid((9, 10), (4, 3)),
  partition.grid((3, 8), 7),
  partition.Partition((3, 4, 5), (2, 3, 1), (1, 1, 2), (1, 0, 3)),
)
HALOS = (
  partition.Halos((7,), 3, 1),
  partition.Halos((4,), 2, 5),
  partition.Halos((5, 6), (2, 3), (3, 0)),
  partition.Halos((3, 4, 5), (2, 1, 3), (1, 2, 1)),
)


def _numbered(shape):
  """Two copies of the grid whose tokens have the numbers 1 to T, and as many again."""
  T = math.prod(shape)
  return np.arange(1, 2 * T + 1).reshape(2, *shape)


@functools.cache
def _cuts():
  """Of each partition the windows of the numbered grid, and what joins them again."""

  def run(grids):
    split = [cut.split(x) for cut, x in zip(PARTITIONS + HALOS, grids)]
    heads = [x[..., None, None] * jnp.arange(1, 7).reshape(2, 3) for x in split]
    return split, [cut.join(y) for cut, y in zip(PARTITIONS + HALOS, heads)]

  grids = [_numbered(cut.shape) for cut in PARTITIONS + HALOS]
  found = jax.jit(run)(grids)
  return dict(zip(PARTITIONS + HALOS, zip(grids, *found)))


class PlacesTest(parameterized.TestCase):
  @parameterized.parameters(*PARTITIONS, *HALOS)
  def test_split_takes_the_tokens_of_the_places(self, cut):
    x, got, _ = _cuts()[cut]
    self.assertEqual(got.shape, (2, cut.number, cut.tokens))
    flat = np.pad(x.reshape(2, -1), ((0, 0), (0, 1)))  # place -1 is the zero
    np.testing.assert_array_equal(got, flat[:, cut.places()])
    np.testing.assert_array_equal(got[0] > 0, cut.valid())

  @parameterized.parameters(*PARTITIONS, *HALOS)
  def test_join_is_the_inverse_of_split(self, cut):
    x, _, got = _cuts()[cut]
    want = x[..., None, None] * np.arange(1, 7).reshape(2, 3)
    np.testing.assert_array_equal(got, want)

  @parameterized.parameters(*PARTITIONS)
  def test_each_token_has_one_place(self, cut):
    places = cut.places()
    found = np.sort(places[places >= 0])
    np.testing.assert_array_equal(found, np.arange(math.prod(cut.shape)))

  @parameterized.parameters(*HALOS)
  def test_halos_surround_their_blocks(self, cut):
    coordinates = np.stack(np.unravel_index(np.arange(math.prod(cut.shape)), cut.shape))
    for inner, window in zip(cut.blocks.places(), cut.places()):
      first = coordinates[:, inner[inner >= 0]].min(axis=1)
      low = first - cut.halo
      high = first + np.array(cut.size) + cut.halo
      near = (coordinates.T >= low) & (coordinates.T < high)
      want = np.flatnonzero(near.all(axis=1))
      np.testing.assert_array_equal(np.sort(window[window >= 0]), want)


class PartitionTest(parameterized.TestCase):
  def test_windows_are_numbered_row_by_row(self):
    places = partition.Partition((4, 6), (2, 3)).places()
    np.testing.assert_array_equal(places[0], [0, 1, 2, 6, 7, 8])
    np.testing.assert_array_equal(places[1], [3, 4, 5, 9, 10, 11])
    np.testing.assert_array_equal(places[2], [12, 13, 14, 18, 19, 20])

  def test_dilated_windows_stay_in_blocks(self):
    places = partition.Partition((14,), 3, 2).places()
    want = [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11], [12, -1, -1], [13, -1, -1]]
    np.testing.assert_array_equal(places, want)

  def test_a_grid_takes_points_far_apart(self):
    cut = partition.grid((6, 4), (3, 2))
    self.assertEqual(cut.counts, (2, 2))
    np.testing.assert_array_equal(cut.places()[0], [0, 2, 8, 10, 16, 18])
    np.testing.assert_array_equal(cut.places()[3], [5, 7, 13, 15, 21, 23])

  def test_windows_as_large_as_the_axis_are_grids(self):
    window, dilated = (
      partition.Partition((3, 5), (3, 5)),
      partition.grid((3, 5), (3, 5)),
    )
    np.testing.assert_array_equal(window.places(), dilated.places())

  @parameterized.parameters(
    ((8,), 4, 2), ((9, 6), (3, 2), (1, 1)), ((7, 5), 3, 1), ((4, 5, 4), 2, 1)
  )
  def test_ids_tell_what_a_shift_has_joined(self, shape, size, offset):
    cut = partition.Partition(shape, size, offset=offset)
    ids, places = cut.ids(), cut.places()
    coordinates = np.stack(np.unravel_index(places.clip(0), shape), -1)
    reach = np.array(cut.size)
    for w in range(cut.number):
      for a, b in itertools.combinations(np.flatnonzero(places[w] >= 0), 2):
        gap = abs(coordinates[w, a] - coordinates[w, b])
        self.assertEqual(ids[w, a] == ids[w, b], (gap < reach).all())
    np.testing.assert_array_equal(ids < 0, places < 0)

  def test_runs_traced_and_differentiated(self):
    cut = partition.Partition((5, 7), (2, 3), offset=1)
    x = jax.random.normal(jax.random.key(0), (1, 5, 7, 2))
    weight = jnp.cos(jnp.arange(cut.number * cut.tokens))
    weight = weight.reshape(1, cut.number, cut.tokens, 1)
    got = jax.jit(jax.grad(lambda x: (cut.split(x) * weight).sum()))(x)
    want = jnp.broadcast_to(cut.join(weight), x.shape)
    np.testing.assert_array_equal(got, want)

  @parameterized.parameters(
    ({"size": 0}, "size = 0; each entry must be at least 1"),
    ({"size": (2, 3, 1)}, r"size = \(2, 3, 1\) on a grid of 2 axes"),
    ({"size": 2, "offset": -1}, "offset = -1; each entry must be at least 0"),
    ({"size": 2, "dilation": (1, 0)}, r"dilation = \(1, 0\); each entry"),
  )
  def test_errors_name_the_entry(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      partition.Partition((4, 5), **options)

  def test_arrays_that_do_not_fit_are_refused(self):
    cut = partition.Partition((4, 5), 2)
    with self.assertRaisesRegex(
      ValueError, r"x \(1, 5, 4\) must have the axes \(4, 5\)"
    ):
      cut.split(jnp.zeros((1, 5, 4)))
    with self.assertRaisesRegex(
      ValueError, r"y \(1, 4, 6\) must have the axes \(6, 4\)"
    ):
      cut.join(jnp.zeros((1, 4, 6)))


class OrderTest(parameterized.TestCase):
  @parameterized.parameters(((8,),), ((8, 8),), ((4, 4, 4),), ((2, 2),), ((8, 8, 8),))
  def test_the_curve_goes_to_neighbours(self, shape):
    order = partition.hilbert_order(shape)
    steps = np.diff(np.stack(np.unravel_index(order, shape)), axis=1)
    np.testing.assert_array_equal(abs(steps).sum(axis=0), 1)

  @parameterized.parameters(((1,),), ((5, 9),), ((3, 1, 6),), ((1, 1),))
  def test_orders_hold_each_token_once(self, shape):
    tokens = np.arange(math.prod(shape))
    inner = partition.hilbert_order((2,) * len(shape))
    for order in (
      partition.hilbert_order(shape),
      partition.window_order(shape, 2),
      partition.window_order(shape, 2, inner),
    ):
      np.testing.assert_array_equal(np.sort(order), tokens)
      np.testing.assert_array_equal(order[partition.inverse(order)], tokens)

  def test_windows_one_after_the_other(self):
    order = partition.window_order((3, 4), (2, 3))
    np.testing.assert_array_equal(order, [0, 1, 2, 4, 5, 6, 3, 7, 8, 9, 10, 11])
    inner = np.array([5, 4, 3, 2, 1, 0])
    order = partition.window_order((3, 4), (2, 3), inner)
    np.testing.assert_array_equal(order, [6, 5, 4, 2, 1, 0, 7, 3, 10, 9, 8, 11])

  def test_offsets_are_keys_minus_queries(self):
    got = partition.offsets((2, 3))
    self.assertEqual(got.shape, (6, 6, 2))
    np.testing.assert_array_equal(got[1, 5], [1, 1])
    np.testing.assert_array_equal(got[5, 0], [-1, -2])
    got = partition.offsets((2,), (4,), -1)
    np.testing.assert_array_equal(got[..., 0], [[-1, 0, 1, 2], [-2, -1, 0, 1]])

  def test_tables_of_offsets(self):
    table = np.arange(2 * 3 * 5).reshape(2, 3, 5).astype("float32")
    at = partition.offsets((2, 3)) + np.array([1, 2])
    got = partition.relative(jnp.asarray(table))
    np.testing.assert_array_equal(got, table[:, at[..., 0], at[..., 1]])


if __name__ == "__main__":
  absltest.main()
