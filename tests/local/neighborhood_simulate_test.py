from typing import Any

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core.grids import permutation
from attnjax.variants.local import neighborhood
from attnjax.variants.local.neighborhood import simulate

_VIDEO = {"window": (18, 24, 24), "query_tile": (4, 8, 8), "key_tile": (2, 8, 8)}
_IMAGE = {"window": 80, "query_tile": (16, 16), "key_tile": (16, 8)}
_TEXT = {"window": 2048, "query_tile": (256,), "key_tile": (128,)}


class SimulatorTest(parameterized.TestCase):
  @parameterized.parameters(
    ((256, 256), _IMAGE | {"stride": 16}, 10.24, 10.24, 10.24),
    ((256, 256), _IMAGE | {"stride": 1}, 7.061, 7.828, 10.24),
    ((30, 48, 80), _VIDEO | {"stride": (16, 8, 8)}, 11.11, 11.11, 11.11),
    ((30, 48, 80), _VIDEO | {"stride": 1}, 5.245, 6.625, 11.11),
    ((30, 48, 80), _VIDEO | {"stride": (2, 8, 8)}, 10.667, None, 11.11),
    ((32768,), _TEXT | {"stride": 1}, 14.322, None, 16.0),
    ((32768,), _TEXT | {"stride": 256}, 16.0, None, 16.0),
  )
  def test_published_settings(self, grid, options, static, dynamic, operations):
    got = simulate.visits(grid, **options)
    self.assertAlmostEqual(got.speedup, static, delta=6e-4 if static < 11 else 2e-3)
    self.assertAlmostEqual(got.operations, operations, delta=2e-3)
    if dynamic:
      got = simulate.visits(grid, **options, dynamic=True)
      self.assertAlmostEqual(got.speedup, dynamic, delta=2e-3)

  @parameterized.parameters(
    ((40,), {"window": 7}, 8, 4),
    ((41,), {"window": 9, "stride": 4}, 8, 3),
    ((37,), {"window": 6, "stride": 6, "causal": True}, 5, 4),
  )
  def test_runs_of_one_axis_are_counted_in_the_mask(self, grid, options, query, key):
    seen = np.asarray(neighborhood.dense_mask(grid, **options))
    got = simulate.visits(grid, **options, query_tile=(query,), key_tile=(key,))
    self.assertEqual(got.visited, simulate.counted(seen, query, key))

  def test_boxes_are_counted_in_the_mask(self):
    grid, tile = (8, 12), (4, 3)
    for dilation, stride in ((1, 1), (1, 3), (2, 2)):
      options: dict[str, Any] = {
        "window": (3, 4),
        "stride": stride,
        "dilation": (dilation, 1),
      }
      seen = np.asarray(neighborhood.dense_mask(grid, **options))
      order = permutation.permute(jnp.arange(96).reshape(1, *grid), tile, (dilation, 1))
      order = np.asarray(order).ravel()
      got = simulate.visits(grid, **options, query_tile=tile, key_tile=tile)
      want = simulate.counted(seen[np.ix_(order, order)], 12, 12)
      self.assertEqual(got.visited, want)

  def test_runs_on_a_grid_cost_more_than_boxes(self):
    options: dict[str, Any] = {"window": 8, "stride": 8}
    runs = simulate.visits((32, 32), **options, query_tile=(16,), key_tile=(16,))
    boxes = simulate.visits((32, 32), **options, query_tile=(4, 4), key_tile=(4, 4))
    self.assertEqual((boxes.speedup, boxes.operations), (16, 16))
    self.assertEqual(runs.speedup, 8)
    seen = np.asarray(neighborhood.dense_mask((32, 32), **options))
    self.assertEqual(runs.visited, simulate.counted(seen, 16, 16))

  def test_tiles_must_fit(self):
    with self.assertRaisesRegex(ValueError, "query_tile"):
      simulate.visits((8, 8), window=4, query_tile=(4,), key_tile=(4,), dynamic=True)


if __name__ == "__main__":
  absltest.main()
