"""Doge and its experts against their definitions in NumPy, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.sparse import dynamic_mask

_SIZES = {"dim": 8, "depth": 2, "heads": 2, "kv_heads": 1, "hidden": 6, "keep_keys": 3}


def _noisy(module, size=0.4):
  """Returns a module with noise on all parameters, so that no 1 or 0 hides one."""
  leaves, tree = jax.tree.flatten(module)
  keys = jax.random.split(jax.random.key(5), len(leaves))
  noise = [size * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
  return jax.tree.unflatten(tree, [x + y for x, y in zip(leaves, noise)])


def _model(**options):
  return _noisy(dynamic_mask.Doge(9, **_SIZES | options, rngs=nnx.Rngs(0)))


def _rms(x, scale):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def _silu(x):
  return x / (1 + np.exp(-x))


def _softmax(x):
  weights = np.exp(x - x.max())
  return weights / weights.sum()


def _rotated(x, t):
  """Returns x (T, N, 4) with each half-split pair turned."""
  angle = t[:, None, None] * 10000.0 ** -np.array([0, 1 / 2])
  a, b = x[..., :2], x[..., 2:]
  cos, sin = np.cos(angle), np.sin(angle)
  return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _attended(x, mixer, l, keep):
  """The attention of block l: each query's keys are sorted out one by one."""
  T = len(x)
  q, k, v = (
    np.einsum("td,dnh->tnh", x, getattr(mixer.qkv, name).kernel[...][l])
    for name in ("query", "key", "value")
  )
  norms = mixer.qkv.query_norm.scale[...][l], mixer.qkv.key_norm.scale[...][l]
  q, k = (_rotated(_rms(y, n), np.arange(T)) for y, n in zip((q, k), norms))
  dt = v.reshape(T, 4) @ mixer.importance.kernel[...][l].reshape(4, 1)
  delta = np.exp(mixer.amplitude[...][l] * np.log1p(np.exp(dt)))[:, 0]
  out = np.zeros((T, 2, 4))
  for t in range(T):
    kept = sorted(range(t + 1), key=lambda s: -delta[s])[:keep]
    for n in range(2):
      weights = _softmax(np.array([q[t, n] @ k[s, 0] / 2 + delta[s] for s in kept]))
      out[t, n] = weights @ v[kept, 0]
  return np.einsum("tnh,nhd->td", out, mixer.out.kernel[...][l])


def _dense(x, feed, l):
  gate, up, down = (getattr(feed, n).kernel[...][l] for n in ("gate", "up", "down"))
  return (_silu(x @ gate) * (x @ up)) @ down


def _mixed(x, feed, l, chosen):
  """The dense MLP and the chosen of all experts, whose sums are all formed."""
  y = _dense(x, feed.shared, l)
  for t, token in enumerate(x):
    scores = token @ feed.router.kernel[...][l]
    sums = np.add.outer(*np.split(scores, 2)).ravel()
    best = np.argsort(-sums)[:chosen]
    for e, p in zip(best, _softmax(sums[best])):
      y[t] += p * _silu(feed.down[...][l][e] @ token) * feed.up[...][l][e]
  return y


def _defined(model, tokens, feed):
  tree = jax.tree.map(np.float64, model)
  table, block = tree.embed.embedding[...], tree.stack.blocks[0]
  x = table[tokens]
  for l in range(2):
    first, second = block.residuals[...][l]
    y = _attended(_rms(x, block.norm.scale[...][l]), block.mixer, l, 3)
    x = first * x + y
    y = feed(_rms(x, block.mlp_norm.scale[...][l]), block.mlp, l)
    x = second * x + y
  head = table.T if tree.head is None else tree.head.kernel[...]
  return _rms(x, tree.norm.scale[...]) @ head


class DogeTest(parameterized.TestCase):
  def test_is_its_definition_and_decodes_as_the_whole(self):
    model, tokens = _model(), np.array([[3, 8, 0, 7, 3, 5, 1], [1, 1, 2, 6, 5, 8, 4]])
    got = jax.jit(lambda model, tokens: model(tokens))(model, tokens)
    want = np.stack([_defined(model, row, _dense) for row in tokens])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    step = jax.jit(lambda model, tokens, cache: model.step(tokens, cache))
    cache, outs = model.init_cache(2, 7), []
    for cut in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 7)):
      out, cache = step(model, tokens[:, cut], cache)
      outs.append(out)
    np.testing.assert_allclose(np.concatenate(outs, 1), want, rtol=1e-4, atol=1e-4)

  def test_is_its_definition_with_experts(self):
    """More are chosen than a half has keys: 4 of 3 x 3."""
    model = _model(experts=9, chosen=4, tied=False)
    tokens = np.array([3, 8, 0, 7, 3])
    got = jax.jit(lambda model, tokens: model(tokens[None])[0])(model, tokens)
    want = _defined(model, tokens, lambda x, feed, l: _mixed(x, feed, l, 4))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

  @parameterized.parameters(*dynamic_mask.SIZES)
  def test_has_the_published_millions_of_parameters(self, size):
    def build():
      options = dynamic_mask.SIZES[size]
      return dynamic_mask.Doge(32768, **options, rngs=nnx.Rngs(0))

    found = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(build)))
    self.assertEqual(found // 10**6, dynamic_mask.PARAMETERS[size] // 10**6)


class ExpertsTest(absltest.TestCase):
  def test_routes_by_the_best_sums_of_two_halves(self):
    """Halves (0, 2, 1) and (3, 0, 1): the best sums are 5, 4, 3 and 3."""
    experts = dynamic_mask.CrossDomainExperts(
      2, 2, experts=9, chosen=2, rngs=nnx.Rngs(0)
    )
    experts.router.kernel[...] = jnp.array([[0.0, 2, 1, 0, 0, 0], [0, 0, 0, 3, 0, 1]])
    weights, chosen = jax.jit(experts.route)(jnp.array([[[1.0, 1.0]]]))
    np.testing.assert_array_equal(chosen, [[[3, 6]]])
    total = 1 + np.exp(-1)
    np.testing.assert_allclose(weights, [[[1 / total, np.exp(-1) / total]]], rtol=1e-6)

  def test_tokens_do_not_see_each_other(self):
    make = dynamic_mask.CrossDomainExperts
    experts = _noisy(make(4, 3, experts=16, chosen=3, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (5, 4))
    slope = jax.jit(jax.grad(lambda x: jnp.sin(experts(x)[2]).sum()))(x)
    seen = np.abs(slope).max(1) > 0
    np.testing.assert_array_equal(seen, np.arange(5) == 2)

  def test_errors(self):
    for experts, chosen in ((8, 2), (9, 10), (9, 0)):
      with self.assertRaisesRegex(
        ValueError, f"experts = {experts}, chosen = {chosen}"
      ):
        dynamic_mask.CrossDomainExperts(
          2, 2, experts=experts, chosen=chosen, rngs=nnx.Rngs(0)
        )


if __name__ == "__main__":
  absltest.main()
