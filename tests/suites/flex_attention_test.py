"""attnjax.flex_attention against PyTorch's FlexAttention, in float64, and its rules.

`python -m tests.suites.torch_expected` makes the expected numbers.
"""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from attnjax.core.softmax import xla_dense
from tests.suites import FOLDER, vocabulary

B, H, T = vocabulary.B, vocabulary.H, vocabulary.T
# As if they were large, in the program with more loops.
TILED = ("tree", "padding", "relative_bias", "softcap_alibi_causal_grouped")
# Simulators are slow: one of the masks and one of the scores in each kernel.
SIMULATED = (("tree", "pallas"), ("document_grouped", "triton"))
SIMULATED += (("relative_bias", "triton"), ("softcap_alibi_causal_grouped", "pallas"))


@functools.cache
def expected() -> dict[str, dict[str, np.ndarray]]:
  """PyTorch's numbers: name -> result -> array."""
  found: dict[str, dict[str, np.ndarray]] = {}
  for key, value in np.load(FOLDER / "flex_attention.npz").items():
    name, _, result = key.partition(".")
    found.setdefault(name, {})[result] = value
  return found


def results(name, impl, dtype):
  """out, lse and the gradients that PyTorch has too."""
  wanted = expected()[name]
  given = {n: jnp.asarray(x, dtype) for n, x in vocabulary.problem(name).items()}
  arrays = {
    n: jnp.asarray(x, dtype if np.issubdtype(x.dtype, np.floating) else None)
    for n, x in vocabulary.captured().items()
  }
  moving = {n: given[n] for n in "qkv"}
  moving |= {n: x for n, x in arrays.items() if f"d{n}" in wanted}

  def loss(moving):
    mask_mod, score_mod = vocabulary.MODS[name](jnp, arrays | moving)
    mask = None
    if mask_mod is not None:
      mask = attnjax.create_block_mask(mask_mod, B, H, T, T)
    out, lse = attnjax.flex_attention(
      *(moving[n] for n in "qkv"),
      score_mod,
      mask,
      enable_gqa=name in vocabulary.GROUPED,
      return_lse=True,
      impl=impl,
    )
    finite = jnp.where(jnp.isfinite(lse), lse, 0.0)
    total = jnp.sum(out * given["g"]) + jnp.sum(finite * given["g_lse"])
    return total, {"out": out, "lse": lse}

  grads, found = jax.jit(jax.grad(loss, has_aux=True))(moving)
  return found | {f"d{n}": x for n, x in grads.items()}


class FlexAttentionTest(parameterized.TestCase):
  def close(self, name, found, bound):
    wanted = expected()[name]
    self.assertEqual(set(found), set(wanted))
    for key, want in wanted.items():
      scale = np.abs(want, where=np.isfinite(want), out=np.zeros(want.shape)).max()
      np.testing.assert_allclose(
        found[key], want, rtol=0, atol=bound * scale, err_msg=f"{name} {key}"
      )

  @parameterized.parameters(*vocabulary.MODS)
  def test_is_pytorch_s_in_float64(self, name):
    with (
      jax.enable_x64(True),
      mock.patch.object(xla_dense, "MATRIX", 0 if name in TILED else xla_dense.MATRIX),
    ):
      self.close(name, results(name, "xla", "float64"), 1e-12)

  @parameterized.parameters(*SIMULATED)
  def test_in_kernels(self, name, impl):
    with simulate.accelerators(detect_races=False):
      self.close(name, results(name, impl, "float32"), 1e-5)


class BlockMaskTest(parameterized.TestCase):
  def arguments(self, T=12, S=20, heads=2):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (2, 4, T, 8), (2, heads, S, 8), (2, heads, S, 6)
    return [jax.random.normal(*x) for x in zip(keys, shapes)]

  def test_is_the_function_s_matrix(self):
    table = jnp.arange(240).reshape(12, 20) % 7
    kept = attnjax.create_block_mask(
      lambda b, h, q, k: (table[q, k] > b) & (q + h >= k), 2, 4, 12, 20
    )
    b, h, q, k = np.indices((2, 4, 12, 20))
    want = (np.asarray(table)[q, k] > b) & (q + h >= k)
    np.testing.assert_array_equal(kept.to_dense(), want)
    self.assertAlmostEqual(float(kept.sparsity()), 100 * (1 - want.mean()), places=4)

  def test_combinations(self):
    causal, even = vocabulary.causal, lambda b, h, q, k: k % 2 == 0
    q, k = np.indices((12, 20))
    for combine, want in (
      (attnjax.and_masks, (q >= k) & (k % 2 == 0)),
      (attnjax.or_masks, (q >= k) | (k % 2 == 0)),
    ):
      kept = attnjax.create_block_mask(combine(causal, even), None, None, 12, 20)
      np.testing.assert_array_equal(kept.to_dense()[0, 0], want)
    for combine, want in ((attnjax.and_masks, True), (attnjax.or_masks, False)):
      kept = attnjax.create_block_mask(combine(), None, None, 12, 20)
      np.testing.assert_array_equal(kept.to_dense()[0, 0], np.full((12, 20), want))

  def test_as_argument_it_is_data(self):
    q, k, v = self.arguments()
    traces = []

    @jax.jit
    def run(block_mask):
      traces.append(1)
      return attnjax.flex_attention(q, k, v, None, block_mask, enable_gqa=True)

    def made(ids):
      return attnjax.create_block_mask(
        lambda b, h, q, k: ids[q] == ids[k], None, None, 12, 20
      )

    for ids in (jnp.arange(20) // 3, jnp.arange(20) // 5):
      kept = made(ids)
      want = attnjax.dot_product_attention(
        *(x.swapaxes(1, 2) for x in (q, k, v)), mask=kept.to_dense(), impl="reference"
      )
      np.testing.assert_allclose(run(kept), want.swapaxes(1, 2), atol=2e-6)
      np.testing.assert_allclose(
        jax.jit(
          lambda ids: attnjax.flex_attention(q, k, v, None, made(ids), enable_gqa=True)
        )(ids),
        want.swapaxes(1, 2),
        atol=2e-6,
      )

  def test_what_does_not_fit_is_named(self):
    q, k, v = self.arguments()
    kept = attnjax.create_block_mask(vocabulary.causal, 2, None, 12, 12)
    with self.assertRaisesRegex(ValueError, r"\(2, 1, 12, 12\).*\(2, 4, 12, 20\)"):
      attnjax.flex_attention(q, k, v, None, kept, enable_gqa=True)
    with self.assertRaisesRegex(ValueError, "4 heads and key 2.*enable_gqa"):
      attnjax.flex_attention(q, k, v)
    with self.assertRaisesRegex(ValueError, "mask_mod returns int32"):
      attnjax.create_block_mask(lambda b, h, q, k: q - k, 2, None, 12, 12)

  def test_a_mask_of_the_algebra(self):
    q, k, v = self.arguments(S=12)
    window = attnjax.masks.Window(3, 0)
    same = attnjax.create_block_mask(
      lambda b, h, q, k: (q >= k) & (q - k <= 3), None, None, 12, 12
    )
    got, want = (
      attnjax.flex_attention(q, k, v, None, m, 0.3, True) for m in (window, same)
    )
    np.testing.assert_allclose(got, want, atol=2e-6)


if __name__ == "__main__":
  absltest.main()
