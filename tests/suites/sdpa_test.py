"""attnjax.dot_product_attention on PyTorch's own samples, and as jax.nn's.

`python -m tests.suites.torch_expected` makes PyTorch's numbers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from tests.suites import FOLDER


@functools.cache
def samples() -> dict[str, dict[str, np.ndarray]]:
  found: dict[str, dict[str, np.ndarray]] = {}
  for key, value in np.load(FOLDER / "dot_product_attention.npz").items():
    words, _, name = key.rpartition(".")
    found.setdefault(words, {})[name] = value
  return found


def torch_attention(given, causal: bool, impl: str):
  """Heads before tokens; batches broadcast; causal is aligned top-left."""
  lead = np.broadcast_shapes(*(given[n].shape[:-2] for n in "qkv"))
  q, k, v = (
    jnp.broadcast_to(given[n], (*lead, *given[n].shape[-2:])).reshape(
      -1, lead[-1], *given[n].shape[-2:]
    )
    for n in "qkv"
  )
  out = attnjax.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (q, k, v)),
    given.get("bias"),
    is_causal=causal,
    query_positions=0 if causal else None,
    impl=impl,
  )
  return out.swapaxes(1, 2).reshape(*lead, *out.shape[1::2])


class TorchTest(parameterized.TestCase):
  @parameterized.product(words=sorted(samples()), impl=("reference", "xla"))
  def test_values_and_gradients_in_float64(self, words, impl):
    with jax.enable_x64(True):
      sample = {n: jnp.asarray(x) for n, x in samples()[words].items()}
      moving = {n: sample[n] for n in ("q", "k", "v", "bias") if n in sample}

      def run(moving):
        return torch_attention(moving, "causal True" in words, impl)

      out, pull = jax.vjp(run, moving)
      found = {"out": out} | {f"d{n}": x for n, x in pull(sample["g"])[0].items()}
    for name, value in found.items():
      np.testing.assert_allclose(value, sample[name], atol=1e-12, err_msg=name)


def arguments(T=16, S=16, N=4, K=2, H=8):
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = (2, T, N, H), (2, S, K, H), (2, S, K, H), (2, T, N, H)
  return [jax.random.normal(*x) for x in zip(keys, shapes)]


def masks() -> dict[str, dict]:
  """The mask modes of jax.nn.dot_product_attention, alone and together."""
  lengths = jnp.array([5, 16])
  dense = jax.random.bernoulli(jax.random.key(9), 0.6, (2, 1, 16, 16))
  bias = jax.random.normal(jax.random.key(8), (2, 4, 16, 16))
  return {
    "none": {},
    "causal": {"is_causal": True},
    "keys": {"key_value_seq_lengths": lengths},
    "both_lengths": {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths},
    "causal_keys": {"is_causal": True, "key_value_seq_lengths": lengths},
    "window": {"local_window_size": (3, 1)},
    "window_causal": {"local_window_size": 4, "is_causal": True},
    "array": {"mask": dense.at[..., 0].set(True)},
    "array_bias": {"mask": dense.at[..., 0].set(True), "bias": bias},
    "bias": {"bias": bias, "scale": 0.3},
  }


class JaxTest(parameterized.TestCase):
  @parameterized.parameters(*masks())
  def test_mask_modes(self, name):
    options, (q, k, v, g) = masks()[name], arguments()
    real = jnp.ones((2, 16, 1, 1), bool)
    if "query_seq_lengths" in options:  # jax.nn gives means beyond them, we give 0
      real = jnp.arange(16) < options["query_seq_lengths"][:, None]
      real = real[:, :, None, None]

    def results(function, **how):
      out, pull = jax.vjp(lambda *x: function(*x, **options, **how), q, k, v)
      return jnp.where(real, out, 0), *pull(jnp.where(real, g, 0))

    want = results(jax.nn.dot_product_attention, implementation="xla")
    for got, one in zip(results(attnjax.dot_product_attention, impl="xla"), want):
      np.testing.assert_allclose(got, one, rtol=1e-5, atol=2e-6)

  @parameterized.parameters(
    *((b, n, t) for b in (1, 2) for n in (1, 4) for t in (1, 16))
  )
  def test_gradient_of_a_bias_under_vmap(self, b, n, t):
    q, k, v, g = arguments()
    bias = jax.random.normal(jax.random.key(5), (3, b, n, t, 16))

    def gradient(function, **how):
      def loss(bias):
        return jnp.sum(g * function(q, k, v, bias, is_causal=True, **how))

      return jax.vmap(jax.grad(loss))(bias)

    np.testing.assert_allclose(
      gradient(attnjax.dot_product_attention, impl="xla"),
      gradient(jax.nn.dot_product_attention, implementation="xla"),
      rtol=1e-5,
      atol=5e-6,
    )

  def test_residual(self):
    q, k, v, _ = arguments()
    options = {"is_causal": True, "return_residual": True}
    got, lse = attnjax.dot_product_attention(q, k, v, **options)
    want, other = jax.nn.dot_product_attention(q, k, v, implementation="xla", **options)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)
    self.assertEqual((lse.shape, lse.dtype), (other.shape, other.dtype))
    np.testing.assert_allclose(lse, other, rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
