"""The fused form in simulators, and the tiles that its kernels visit."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import masks
from attnjax.variants.local import neighborhood
from attnjax.variants.local.neighborhood import attention, fused
from attnjax.variants.local.neighborhood import simulate as visits

_GROUPS = {c.name: c for c in neighborhood.CASES}
_WIDE: dict[str, Any] = {"window": (7, 5), "stride": (2, 1)}
# Grid and options: sides that tiles do not divide, groups of different lengths.
_GRIDS: dict[str, Any] = {
  "one_axis": ((600,), {"window": 65, "dilation": 2, "causal": True}),
  "uneven_groups": ((23, 40), {"window": (5, 6), "dilation": (2, 3)}),
  "several_tiles": ((17, 24), _WIDE | {"causal": (False, True)}),
  "video": ((5, 9, 17), {"window": (3, 4, 5), "stride": (2, 1, 4)}),
}


def _both(arrays, options, impl):
  """(out, lse) and the gradients, compiled."""

  @jax.jit
  def run(arrays):
    def loss(arrays):
      out, lse = neighborhood.attend(**arrays, **options, impl=impl, return_lse=True)
      seen = jnp.where(jnp.isfinite(lse), lse, 0)
      return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.cos(seen)), (out, lse)

    return jax.grad(loss, has_aux=True)(arrays)

  with simulate.accelerators():
    return jax.tree.map(np.asarray, run(arrays))


class FusedTest(parameterized.TestCase):
  @parameterized.product(
    name=("strided_grouped", "packed", "grid_extra", "video"),
    impl=("pallas", "triton"),
  )
  def test_is_the_definition(self, name, impl):
    case = _GROUPS[name]
    arrays, options = case.arrays(), case.arguments()
    options.pop("return_lse", None)
    want, got = (_both(arrays, options, i) for i in ("reference", impl))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
    jax.tree.map(close, got, want)

  @parameterized.parameters("pallas", "triton")
  def test_tiles_that_the_grid_does_not_fill(self, impl):
    grid, options = _GRIDS["several_tiles"]
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = {
      n: jax.random.normal(key, (1, *grid, 1, 8)) for n, key in zip("qkv", keys)
    }
    want, got = (_both(arrays, options, i) for i in ("reference", impl))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
    jax.tree.map(close, got, want)

  @parameterized.product(name=tuple(_GRIDS), tokens=(128, 256))
  def test_the_kernels_visit_what_the_simulator_counts(self, name, tokens):
    grid, options = _GRIDS[name]
    given: dict[str, Any] = {"stride": 1, "dilation": 1, "causal": False} | options
    axes = attention.broadcast(len(grid), **given)
    sides = fused.tile(grid, axes, tokens)
    self.assertEqual(math.prod(sides), tokens)
    mask = fused.boxes(2, grid, axes, sides)
    length = mask.place.shape[1]
    groups = math.prod(a.dilation for a in axes)
    shape = (2 * groups, 1, length, length)
    schedule = masks.schedule(mask, shape, tokens, tokens)
    count = np.broadcast_to(schedule.count, (2 * groups, 1, length // tokens))
    want = visits.visits(grid, **options, query_tile=sides, key_tile=sides)
    self.assertEqual(count.sum(), 2 * want.visited)

  def test_the_tile_visits_least(self):
    axes = attention.broadcast(2, 13, 1, 1, False)
    # Bands of whole rows: 76 visits, where 16 x 16 has 100.
    self.assertEqual(fused.tile((64, 64), axes, 256), (4, 64))
    self.assertEqual(fused.tile((256, 256), axes, 256), (8, 32))

  def test_a_tile_of_a_small_grid(self):
    axes = attention.broadcast(2, 3, 1, 1, False)
    self.assertEqual(fused.tile((3, 5), axes, 512), (4, 32))
    self.assertEqual(fused.tile((14, 14), axes, 512), (16, 16))


if __name__ == "__main__":
  absltest.main()
