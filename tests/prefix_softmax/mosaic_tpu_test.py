"""The TPU kernels in the simulator (NaN in its memory) against the definition."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from attnjax.core.recurrence import prefix
from pallas_kernels import prefix_softmax
from pallas_kernels.prefix_softmax import CASES, mosaic_tpu
from tests.prefix_softmax import conformance, hard


class MosaicTest(parameterized.TestCase):
  @parameterized.named_parameters((case.name, case) for case in CASES)
  def test_float32(self, case):
    conformance.check(case, "pallas", 2e-5)

  def test_a_state_passes_chunks_that_only_fill_up(self):
    """300 tokens in blocks of 512: the last chunk holds no token."""
    conformance.check(CASES[-1], "pallas", 2e-5, mosaic_tpu.Tiles(512))

  def test_bfloat16_in_blocks_of_two_chunks(self):
    tiles = mosaic_tpu.Tiles(256)
    found = conformance.excess(CASES[-1], "pallas", "bfloat16", tiles)
    for name, part in found.items():
      self.assertLessEqual(part, 1.0, name)

  def test_scores_of_any_size(self):
    run = functools.partial(prefix_softmax.prefix, impl="pallas")
    with simulate.accelerators(detect_races=False):
      hard.check(run, 140)

  @parameterized.parameters((0, 5), (2, 0))
  def test_of_nothing(self, B, T):
    s, v = jnp.zeros((B, T, 2)), jnp.zeros((B, T, 2, 3))
    out, lse, last = prefix_softmax.prefix(s, v, impl="pallas")
    self.assertEqual((out.shape, lse.shape), (v.shape, s.shape))
    self.assertEqual(last.out.shape, (B, 2, 3))

  def test_what_is_saved_by_name_is_not_made_again(self):
    def passes(policy):
      def loss(x):
        out, lse, _ = prefix_softmax.prefix(**x, impl="pallas")
        return jnp.sin(out).sum() + lse.sum()

      run = jax.make_jaxpr(jax.grad(jax.checkpoint(loss, policy=policy)))
      return simulate.calls(run(CASES[1].arrays()), "prefix_softmax_forward")

    policies = jax.checkpoint_policies
    self.assertEqual(passes(policies.save_only_these_names(*prefix.SAVED)), 1)
    self.assertEqual(passes(None), 2)

  def test_refusals(self):
    arrays = CASES[0].arrays()
    for tiles, message in (
      (mosaic_tpu.Tiles(100), "tiles.rows 100 is not a multiple of 128"),
      (mosaic_tpu.Tiles(512, 1 << 20), "tiles.rows 512 needs .* MiB .* limit of 1.0"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        jax.eval_shape(
          lambda x, t=tiles: prefix_softmax.prefix(**x, impl="pallas", tiles=t), arrays
        )
    double = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float64"), arrays)
    with self.assertRaisesRegex(NotImplementedError, "scores has the type float64"):
      mosaic_tpu.supports(**double)

  def test_has_no_jvp(self):
    def run(x):
      return jax.jvp(lambda x: prefix_softmax.prefix(**x, impl="pallas")[0], (x,), (x,))

    with simulate.accelerators():
      with self.assertRaisesRegex(NotImplementedError, "'xla' has jvp"):
        jax.jit(run).lower(CASES[1].arrays())


if __name__ == "__main__":
  absltest.main()
