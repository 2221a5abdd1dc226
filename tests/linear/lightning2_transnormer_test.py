"""TransNormerLLM against its definition in NumPy, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.nn import mlp
from attnjax.variants.linear import lightning2

_SIZES = {"dim": 12, "depth": 2, "heads": 3, "hidden": 10, "lrpe_base": 7.0}


def _model(**options):
  model = lightning2.TransNormerLLM(11, **_SIZES, **options, rngs=nnx.Rngs(0))
  kept = (11, 12), (2, 3, 4)  # the embedding and the frequencies
  # Larger than at the start of training, for the differences to show.
  return jax.tree.map(lambda x: x if x.shape in kept else 10 * x, model)


def _rms(x):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def _silu(x):
  return x / (1 + np.exp(-x))


def _defined(model, tokens):
  """The logits of one row: every sum over tokens, heads and channels by itself."""
  tree = jax.tree.map(np.float64, model)
  table, blocks, T = tree.embed.embedding[...], tree.stack.blocks[0], len(tokens)
  x = np.sqrt(12) * table[tokens]
  slopes = np.array([1 / 16, 1 / 256, 1 / 4])  # of two heads, and of four: the first
  for l in range(2):
    mixer, rate = blocks.mixer, slopes * (1 - l + 1e-5)
    y = _rms(x)
    q, k, v = (
      np.einsum("td,dnh->tnh", y, getattr(mixer.qkv, name).kernel[...][l])
      for name in ("query", "key", "value")
    )
    q, k = _silu(q), _silu(k)
    theta = mixer.lrpe.theta[...][l] if l == 0 else np.zeros((3, 4))
    out = np.zeros((T, 3, 4))
    for t in range(T):
      for s in range(t + 1):
        turned = q[t] * k[s] * np.cos((t - s) * theta)
        out[t] += (turned.sum(-1) * np.exp(-rate * (t - s)))[:, None] * v[s]
    gate = y @ mixer.gate[0].kernel[...][l]
    y = (_rms(out.reshape(T, 12)) * gate).reshape(T, 3, 4)
    x = x + np.einsum("tnh,nhd->td", y, mixer.out.kernel[...][l])
    y, feed = _rms(x), blocks.mlp
    hidden = (y @ feed.gate.kernel[...][l]) * (y @ feed.up.kernel[...][l])
    x = x + hidden @ feed.down.kernel[...][l]
  return _rms(x) @ (table.T if tree.head is None else tree.head.kernel[...])


class TransNormerTest(parameterized.TestCase):
  def test_is_its_definition_and_decodes_as_the_whole(self):
    model, tokens = _model(), np.array([[3, 9, 0, 7, 3, 10, 1], [1, 1, 2, 6, 5, 8, 4]])
    got = jax.jit(lambda model, tokens: model(tokens))(model, tokens)
    want = np.stack([_defined(model, row) for row in tokens])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    step = jax.jit(lambda model, tokens, cache: model.step(tokens, cache))
    cache, outs = model.init_cache(2, 7), []
    for cut in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 7)):
      out, cache = step(model, tokens[:, cut], cache)
      outs.append(out)
    np.testing.assert_allclose(np.concatenate(outs, 1), want, rtol=1e-4, atol=1e-4)

  def test_logits_have_a_matrix_of_their_own_if_untied(self):
    model, tokens = _model(tied=False), np.array([3, 9, 0])
    got = jax.jit(lambda model, tokens: model(tokens[None])[0])(model, tokens)
    np.testing.assert_allclose(got, _defined(model, tokens), rtol=1e-4, atol=1e-4)

  def test_only_the_first_block_has_positions(self):
    slope = jax.jit(jax.grad(lambda m, tokens: jnp.sin(m(tokens)).sum()))
    got = slope(_model(), jnp.arange(10)[None])
    turns = np.asarray(got.stack.blocks[0].mixer.lrpe.theta[...])
    self.assertGreater(np.abs(turns[0]).min(), 0)
    np.testing.assert_array_equal(turns[1], 0)

  def test_frequencies_fall_over_the_channels_of_all_heads(self):
    theta = np.asarray(lightning2.LRPE(2, 3, 8.0).theta[...]).ravel()
    np.testing.assert_allclose(theta, [8 ** (-i / 3) for i in range(6)], rtol=1e-6)

  def test_a_simple_glu_is_a_product(self):
    feed = mlp.SGLU(2, 3, rngs=nnx.Rngs(0))
    feed.gate.kernel[...] = jnp.array([[1.0, 0, 2], [0, 1, 0]])
    feed.up.kernel[...] = jnp.array([[0.0, 1, 0], [-3, 0, 1]])
    feed.down.kernel[...] = jnp.array([[1.0, 0], [0, 1], [1, 1]])
    # a = (1, 2, 2), b = (-6, 1, 2): products -6, 2, 4.
    np.testing.assert_allclose(feed(jnp.array([1.0, 2.0])), [-2.0, 6.0])

  @parameterized.parameters(*lightning2.SIZES)
  def test_has_the_published_number_of_parameters(self, size):
    def build():
      options = lightning2.SIZES[size]
      return lightning2.TransNormerLLM(50272, **options, rngs=nnx.Rngs(0))

    found = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(build)))
    self.assertAlmostEqual(found / lightning2.PARAMETERS[size], 1, delta=0.01)


if __name__ == "__main__":
  absltest.main()
