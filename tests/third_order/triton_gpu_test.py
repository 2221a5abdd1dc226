"""The GPU kernels in Triton's interpreter against plain JAX."""

from tests import simulate  # noqa: F401  first: it sets what Triton reads

# ruff: isort: split
import jax
from absl.testing import absltest, parameterized

from attnjax.core.third_order import Sight
from pallas_kernels import third_order
from pallas_kernels.third_order import CASES, triton_gpu
from pallas_kernels.third_order.triton_gpu import Tile, Tiles
from tests.third_order import conformance

TILES = Tiles(Tile(16, 16), Tile(16, 16), Tile(32, 16))


class TritonTest(parameterized.TestCase):
  @parameterized.named_parameters((case.name, case) for case in CASES)
  def test_float32(self, case):
    conformance.check(case, "triton")

  @parameterized.named_parameters(
    ("causal", Sight(0.3, True, offset=28), (1, 6, 34, 3, 1, 4, 4)),
    ("windows", Sight(0.3, True, (5, 20), offset=30), (1, 21, 51, 1, 1, 4, 4)),
    ("both_sides", Sight(0.3, False, (3, 18), offset=-3), (1, 9, 34, 2, 1, 4, 4)),
  )
  def test_several_tiles(self, sight, shapes):
    conformance.check(third_order._case("tiles", shapes, sight), "triton", tiles=TILES)

  @parameterized.parameters("bfloat16", "float16")
  def test_16_bits(self, dtype):
    self.assertLessEqual(conformance.excess(CASES[-1], "triton", dtype), 1.0)

  def test_refusals(self):
    arrays = CASES[0].arrays()
    odd = Tiles(Tile(24, 16), Tile(16, 16), Tile(16, 16))
    options = {"sight": Sight(1.0), "impl": "triton", "tiles": odd}
    with self.assertRaisesRegex(ValueError, "tile.rows 24 must be a power of two"):
      jax.eval_shape(lambda x: third_order.attend(**x, **options), arrays)
    double = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float64"), arrays)
    with self.assertRaisesRegex(NotImplementedError, "q has the type float64"):
      triton_gpu.supports(**double)
    wide = jax.ShapeDtypeStruct((1, 4, 1, 300), "float32")
    with self.assertRaisesRegex(NotImplementedError, "H is 300, at most 256"):
      triton_gpu.supports(*[wide] * 5)

  def test_of_more_positions_than_32_bits_hold(self):
    arrays = CASES[0].arrays()
    with self.assertRaisesRegex(NotImplementedError, "compared in 32 bits"):
      third_order.attend(**arrays, sight=Sight(1.0, windows=(2**30, 1)), impl="triton")


if __name__ == "__main__":
  absltest.main()
