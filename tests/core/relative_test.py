"""Terms of relative distance: score functions in all implementations, the shift."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from attnjax.core import relative
from tests import dense

_SLOPES = jnp.array([0.5, 0.125])
_TABLE = jax.random.normal(jax.random.key(1), (8, 2))
# Distances 0 to 11 of 8 buckets up to distance 16, by T5's formula.
_CAUSAL = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6]
_KINDS = {
  "learned": (relative.learned, _TABLE, lambda d: np.clip(d, 0, 7)),
  "t5": (
    lambda table: relative.t5(table, max_distance=16),
    _TABLE,
    lambda d: np.take(_CAUSAL, np.maximum(d, 0)),
  ),
  "t5_both": (
    lambda table: relative.t5(table, max_distance=16, causal=False),
    _TABLE,
    lambda d: np.take([0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3], np.abs(d)) + 4 * (d < 0),
  ),
}


def _arrays():
  return jax.random.normal(jax.random.key(0), (3, 1, 12, 2, 4))


def _slope(attend):
  """Returns the result and the table's gradient, as (out, gradient)."""
  return jax.jit(
    lambda table: jax.value_and_grad(lambda t: jnp.sum(jnp.sin(attend(t))))(table)
  )


class ScoreTest(parameterized.TestCase):
  @parameterized.parameters(
    ("learned", "xla"),  # T5's kinds read their tables in the same way
    *itertools.product(("t5", "t5_both"), ("reference", "xla", "pallas", "triton")),
  )
  def test_is_a_bias_of_distances_with_a_gradient_to_its_table(self, kind, impl):
    make, table, entry = _KINDS[kind]
    q, k, v = _arrays()
    distance = np.arange(12)[:, None] - np.arange(12)
    causal = kind != "t5_both"

    def plain(table):
      bias = jnp.moveaxis(table[entry(distance)], 2, 0)[None]
      return jax.nn.dot_product_attention(q, k, v, bias=bias, is_causal=causal)

    def ours(table):
      options = {"score": make(table), "is_causal": causal, "impl": impl}
      return attnjax.dot_product_attention(q, k, v, **options)

    with simulate.accelerators(), dense.replacing_kernels():
      got = _slope(ours)(table)
    jax.tree.map(_close, got, _slope(plain)(table))

  def test_slopes(self):
    q, k, v = _arrays()
    distance = np.abs(np.arange(12)[:, None] - np.arange(12))
    bias = -_SLOPES[None, :, None, None] * distance
    want = jax.nn.dot_product_attention(q, k, v, bias=bias)
    got = attnjax.dot_product_attention(q, k, v, score=relative.alibi(_SLOPES))
    _close(got, want)

  def test_too_few_buckets(self):
    for rows, causal, most in ((1, True, 9), (2, False, 9), (8, True, 4)):
      with self.assertRaisesRegex(ValueError, f"max_distance = {most}"):
        relative.t5(jnp.zeros((rows, 2)), max_distance=most, causal=causal)


class ShiftTest(parameterized.TestCase):
  @parameterized.parameters((4, 3, 0), (3, 5, 2), (1, 6, 5), (5, 1, -2), (3, 3, 40))
  def test_shift_gather_and_definition_agree(self, T, S, offset):
    x, table, bias = (
      jax.random.normal(jax.random.key(i), shape)
      for i, shape in enumerate(((2, T, 2, 3), (6, 2, 3), (6, 2)))
    )
    distance = offset + np.arange(T)[:, None] - np.arange(S)
    near = np.clip(distance, 0, 5)
    want = np.einsum("btnh,tsnh->bnts", x, table[near])
    want += np.moveaxis(bias[near], 2, 0)
    for start in (offset, jnp.asarray(offset)):
      rows = [relative.rows(y, start, T, S) for y in (table, bias)]
      _close(relative.terms(x, *rows), want)
    _close(relative.terms_at(x, table, bias, jnp.asarray(distance)[None]), want)

  def test_biases_alone(self):
    x, bias = jnp.ones((1, 2, 2, 3)), jnp.arange(6.0).reshape(3, 2)
    got = relative.terms(x, None, relative.rows(bias, 0, 2, 2))
    np.testing.assert_array_equal(got[0], [[[0, 0], [2, 0]], [[1, 1], [3, 1]]])
    at = relative.terms_at(x, None, bias, jnp.array([[[2, 0], [9, -4]]]))
    np.testing.assert_array_equal(at[0], [[[4, 0], [4, 0]], [[5, 1], [5, 1]]])


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
