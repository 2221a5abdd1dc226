"""The kernels in the TPU simulator and in Triton's interpreter, against the definition.

The simulator's memory is full of NaN. The cases: several tiles of a map in each axis; a
window as high as the map, channels that fill no vector and, on TPUs, loops over the
rows of a window; a map of one pixel.
"""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from pallas_kernels import dynamic_window
from pallas_kernels.dynamic_window import CASES, mosaic_tpu, triton_gpu
from tests.dynamic_window import conformance

_PLAIN, _WHOLE, _PIXEL = CASES


class KernelsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("pallas", mosaic_tpu.Tiles(2, 2), False),
    ("triton", triton_gpu.Tiles(16, 16, programs=4), True),
  )
  def test_float32(self, impl, tiles, twice):
    conformance.check(_PLAIN, impl, tiles, twice=twice)

  @parameterized.parameters("pallas", "triton")
  def test_bfloat16(self, impl):
    self.assertLessEqual(conformance.excess(_WHOLE, impl, "bfloat16"), 1.0)

  @parameterized.parameters("pallas", "triton")
  def test_one_pixel(self, impl):
    conformance.check(_PIXEL, impl)

  def test_segments_of_a_row(self):
    case = dynamic_window._case("segments", 1, (3, 33), 1, 3, 2, 3)
    conformance.check(case, "triton", triton_gpu.Tiles(16, 32))

  def test_refusals(self):
    def shapes(side, channels=4, dtype="float32"):
      return jax.ShapeDtypeStruct((1, side, side, 2, channels), dtype)

    for impl in ("pallas", "triton"):
      for x, window, message in (
        (shapes(20), 19, "the window is 19; it takes odd ones up to 17"),
        (shapes(20), 4, "the window is 4"),
        (shapes(9, dtype="float64"), 3, "q has the type float64"),
        (shapes(0), 3, "is empty"),
        (shapes(9, 5000), 9, "c is 5000" if impl == "pallas" else "d is 5000, at most"),
      ):
        with self.assertRaisesRegex(NotImplementedError, f"{impl}.*{message}"):
          dynamic_window.prepared(x, x, window=window, impl=impl)

  @parameterized.parameters(
    ("pallas", mosaic_tpu.Tiles(1, 9), "tiles.rows 1: it must be from .* 3 to 9"),
    ("pallas", mosaic_tpu.Tiles(9, 10), "tiles.columns 10"),
    ("triton", triton_gpu.Tiles(24, 32), "tiles.pixels 24 must be a power of two"),
    ("triton", triton_gpu.Tiles(64, 16), "tiles.near 16 must be at least 22"),
  )
  def test_tiles_that_cannot_run(self, impl, tiles, message):
    case = dynamic_window._case(
      "tiles", 1, (9, 9 if impl == "pallas" else 22), 1, 1, 1, 5
    )
    how = case.arguments() | {"impl": impl, "tiles": tiles}
    with self.assertRaisesRegex(ValueError, message):
      jax.eval_shape(lambda x: dynamic_window.mix(**x, **how), case.arrays())

  def test_has_no_jvp(self):
    how = _PIXEL.arguments() | {"impl": "pallas"}

    def run(x):
      return jax.jvp(lambda x: dynamic_window.mix(**x, **how), (x,), (x,))

    with simulate.accelerators():
      with self.assertRaisesRegex(NotImplementedError, "'xla' has jvp"):
        jax.jit(run).lower(_PIXEL.arrays())

  def test_under_vmap(self):
    case = dynamic_window._case("mapped", 1, (3, 3), 2, 2, 2, 3)
    x, options = conformance.arrays(case), case.arguments()
    two = {n: jnp.stack([y, 0.5 * y]) for n, y in x.items() if n in ("q", "v")}
    axes = ({n: 0 if n in two else None for n in x},)
    ours = conformance.results(dynamic_window.mix, options | {"impl": "triton"})
    with simulate.accelerators():
      found = jax.vmap(ours, axes)(x | two)
    want = jax.vmap(conformance.results(conformance.mix, options), axes)(x | two)
    for got, one in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(got, one, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
  absltest.main()
