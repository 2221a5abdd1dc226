"""The TPU kernels in the simulator (NaN in its memory) against plain JAX."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import jax
from absl.testing import absltest, parameterized

from attnjax.core.third_order import Sight
from pallas_kernels import third_order
from pallas_kernels.third_order import CASES, mosaic_tpu
from tests.third_order import conformance

TILES = mosaic_tpu.Tiles(128, 24, 128, joint=2)


class MosaicTest(parameterized.TestCase):
  @parameterized.named_parameters((case.name, case) for case in CASES)
  def test_float32(self, case):
    conformance.check(case, "pallas")

  @parameterized.named_parameters(
    ("windows", Sight(0.3, True, (6, 40), offset=20), (1, 140, 160, 1, 1, 4, 4)),
    ("both_sides", Sight(0.3, False, (3, 0), offset=-3), (1, 65, 140, 2, 1, 4, 4)),
  )
  def test_several_tiles(self, sight, shapes):
    conformance.check(third_order._case("tiles", shapes, sight), "pallas", tiles=TILES)

  def test_bfloat16(self):
    self.assertLessEqual(conformance.excess(CASES[-1], "pallas", "bfloat16"), 1.0)

  def test_refusals(self):
    arrays = CASES[0].arrays()
    for tiles, message in (
      (mosaic_tpu.Tiles(100, 8, 128), "tiles.rows 100 is not a multiple of 128"),
      (mosaic_tpu.Tiles(128, 4, 128), "tiles.first 4 is not a multiple of 8"),
      (mosaic_tpu.Tiles(128, 8, 128, joint=3), "tiles.joint 3 is none of"),
    ):
      options = {"sight": Sight(1.0), "impl": "pallas", "tiles": tiles}
      with self.assertRaisesRegex(ValueError, message):
        jax.eval_shape(lambda x, o=options: third_order.attend(**x, **o), arrays)
    double = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float64"), arrays)
    with self.assertRaisesRegex(NotImplementedError, "q has the type float64"):
      mosaic_tpu.supports(**double)
    wide = jax.ShapeDtypeStruct((1, 4, 1, 1 << 15), "float32")
    with self.assertRaisesRegex(NotImplementedError, "fast memory holds no tile"):
      mosaic_tpu.supports(*[wide] * 5)

  def test_has_no_jvp(self):
    def run(x):
      options = {"sight": Sight(1.0), "impl": "pallas"}
      return jax.jvp(lambda x: third_order.attend(**x, **options)[0], (x,), (x,))

    with simulate.accelerators():
      with self.assertRaisesRegex(NotImplementedError, "'xla' has jvp"):
        jax.jit(run).lower(CASES[1].arrays())

  def test_of_more_positions_than_32_bits_hold(self):
    arrays = CASES[0].arrays()
    with self.assertRaisesRegex(NotImplementedError, "compared in 32 bits"):
      third_order.attend(**arrays, sight=Sight(1.0, windows=(2**30, 1)), impl="pallas")


if __name__ == "__main__":
  absltest.main()
