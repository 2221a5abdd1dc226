"""Reports of NaN and infinity in what nobody sees, and of very negative biases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from tests.public_reports import arrays, attend, close

# The last key is seen by nobody, in five ways; the last query sees the others.
_HIDDEN = {
  "lengths": lambda T: {"key_value_seq_lengths": jnp.array([T - 1])},
  "causal": lambda T: {"is_causal": True, "query_positions": -1},
  "segments": lambda T: {
    "segment_ids": jnp.zeros((1, T), int),
    "kv_segment_ids": jnp.zeros((1, T), int).at[:, -1].set(-1),
  },
  "mask": lambda T: {"mask": jnp.arange(T) < T - 1},
  "window": lambda T: {"local_window_size": (T, 0), "key_positions": 1},
}


class UnseenTest(parameterized.TestCase):
  """Dao-AILab/flash-attention#1745, #2374, vllm PR#936, Wan2GP PR#1628."""

  @parameterized.parameters(
    *((name, 16, "xla") for name in _HIDDEN),
    ("lengths", 4, "xla"),
    ("mask", 600, "xla"),
    ("lengths", 16, "reference"),
    ("causal", 4, "reference"),
  )
  def test_reaches_nothing_that_is_seen(self, name, T, impl):
    q, k, v = (x[:, :, :1] for x in arrays(T))
    bias = jnp.zeros((1, 1, 1, T))

    @jax.jit
    def run(q, k, v, bias):
      def loss(*x):
        return jnp.sin(attend(*x, **_HIDDEN[name](T), impl=impl)).sum()

      return jax.value_and_grad(loss, (0, 1, 2, 3))(q, k, v, bias)

    want = run(q, k, v, bias)
    for bad in (jnp.nan, jnp.inf):
      found = run(
        q, k.at[:, -1].set(bad), v.at[:, -1].set(-bad), bias.at[..., -1].set(bad)
      )
      close(found, want)

  def test_what_is_seen_shows(self):
    q, k, v = arrays(16)
    out = attend(q, k.at[:, 9, 0, 0].set(jnp.nan), v, is_causal=True)
    np.testing.assert_array_equal(np.isnan(out[0, :, 0]).all(-1), np.arange(16) >= 9)
    self.assertTrue(np.isfinite(out[0, :, 1]).all())

  @parameterized.parameters(-1e9, -1e20, float(jnp.finfo(jnp.float32).min))
  def test_a_padded_example_by_a_bias(self, low):
    """pytorch#109517, transformers PR#17306, NVIDIA-NeMo/Automodel PR#2658."""
    q, k, v = arrays(16, B=2)
    bias = jnp.zeros((2, 1, 1, 16)).at[1].set(low)

    def loss(attend, q):
      return (attend(q, k, v, bias) ** 2).sum()

    got, want = (
      jax.jit(jax.value_and_grad(functools.partial(loss, f)))(q)
      for f in (functools.partial(attend, impl="xla"), _jax)
    )
    close(got, want)


def _jax(q, k, v, bias):
  return jax.nn.dot_product_attention(q, k, v, bias)


if __name__ == "__main__":
  absltest.main()
