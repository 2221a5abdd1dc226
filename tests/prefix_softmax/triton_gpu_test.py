"""The GPU kernels in Triton's interpreter against the definition."""

from tests import simulate  # noqa: F401  first: it sets what Triton reads

# ruff: isort: split
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.contract import Case
from attnjax.core.recurrence import prefix
from pallas_kernels import prefix_softmax
from pallas_kernels.prefix_softmax import CASES, triton_gpu
from tests.prefix_softmax import conformance, hard

# Parts of two chunks: the third is cut short, and its second chunk only fills it up.
PARTS = triton_gpu.Tiles(16, 16, parts=3)


def _documents(key):
  """One ends with a part, others go on through two."""
  del key
  return jnp.asarray(np.repeat([0, 1, 2, 3], (20, 12, 28, 10)), jnp.int32)[None]


def _packed(E: int) -> Case:
  """70 tokens, with a state before them."""

  def state(key):
    out = jax.random.normal(key, (1, 2, E))
    return {"initial": prefix.State(out[..., 0], 1 + out[..., 1] ** 2, out)}

  shapes = {"scores": (1, 70, 2), "values": (1, 70, 2, E)}
  return Case("packed", shapes, {"segment_ids": _documents}, state)


class TritonTest(parameterized.TestCase):
  @parameterized.named_parameters((case.name, case) for case in CASES)
  def test_float32(self, case):
    conformance.check(case, "triton", 2e-5)

  def test_parts_are_one_sequence(self):
    conformance.check(_packed(24), "triton", 2e-5, PARTS)

  def test_parts_without_documents_or_state(self):
    shapes = {"scores": (1, 40, 2), "values": (1, 40, 2, 5)}
    tiles = triton_gpu.Tiles(16, 16, parts=64)  # more than there are chunks
    conformance.check(Case("plain", shapes), "triton", 2e-5, tiles)

  @parameterized.parameters(
    (CASES[-1], "bfloat16"),
    (_packed(5), "bfloat16", PARTS),
    (_packed(5), "float16", PARTS),
  )
  def test_16_bits(self, case, dtype, tiles=None):
    found = conformance.excess(case, "triton", dtype, tiles)
    for name, part in found.items():
      self.assertLessEqual(part, 1.0, name)

  def test_scores_of_any_size(self):
    tiles = triton_gpu.Tiles(16, 16, parts=2)  # of two chunks, the last to fill up
    run = functools.partial(prefix_softmax.prefix, impl="triton", tiles=tiles)
    with simulate.accelerators(detect_races=False):
      hard.check(run, 40)

  @parameterized.parameters((0, 5), (2, 0))
  def test_of_nothing(self, B, T):
    s, v = jnp.zeros((B, T, 2)), jnp.zeros((B, T, 2, 3))
    out, lse, last = prefix_softmax.prefix(s, v, impl="triton")
    self.assertEqual((out.shape, lse.shape), (v.shape, s.shape))
    self.assertEqual(last.out.shape, (B, 2, 3))

  def test_refusals(self):
    arrays = CASES[0].arrays()
    for tiles, message in (
      (triton_gpu.Tiles(24, 16), "tiles.size 24 must be a power of two"),
      (triton_gpu.Tiles(16, 16, parts=0), "tiles.parts 0 must be at least 1"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        jax.eval_shape(
          lambda x, t=tiles: prefix_softmax.prefix(**x, impl="triton", tiles=t), arrays
        )
    double = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float64"), arrays)
    with self.assertRaisesRegex(NotImplementedError, "scores has the type float64"):
      triton_gpu.supports(**double)


if __name__ == "__main__":
  absltest.main()
