"""p-Laplacian adapter: the authors' formula in NumPy, its limits, all options."""

import math
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.core.streams import Stream
from attnjax.variants.cross import p_adapter
from attnjax.variants.cross.p_adapter import messages
from attnjax.variants.softmax import dot_product

E = 1e-8
_step: Any = jax.jit(p_adapter.p_laplacian_step)
_call: Any = jax.jit(lambda layer, x: layer(x))
_pool: Any = jax.jit(p_adapter.adaptive_pool, static_argnames="size")


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _graph(*shape, seed=1):
  return np.asarray(jax.nn.softmax(_draw(*shape, seed=seed)))


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=10 * tolerance)


def _official(features, graph, p, mu):
  """All (alpha M, alpha 2 mu / p) of one head, as the authors' code has them."""
  F, A = np.asarray(features, np.float64), np.asarray(graph, np.float64)
  n = len(F)
  M = np.zeros((n, n))
  for i in range(n):
    for j in range(n):
      slope = math.sqrt(A[i, j] + E) * (F[j] - F[i])
      M[i, j] = A[i, j] * np.sqrt(np.sum((slope + E) ** 2)) ** (p - 2)
  alpha = 1 / (M.sum(axis=1) + 2 * mu / p)
  return alpha[:, None] * M, alpha * 2 * mu / p


def _filled(make: Any) -> Any:
  """Returns a module whose parameters are drawn here, which compiles nothing."""

  def one(path, leaf):
    return jnp.asarray(0.5 * _draw(*leaf.shape, seed=len(str(path))))

  return jax.tree_util.tree_map_with_path(one, jax.eval_shape(make))


def _layer(form="sequence", dim: Any = 8, **options) -> Any:
  given: dict[str, Any] = {"heads": 2, "reduction": 2, "pool": 3, "rope_theta": 0.0}
  given |= options
  layer = _filled(lambda: p_adapter.Layer(dim, form=form, **given, rngs=nnx.Rngs(0)))
  if layer.adapter is not None and given.get("learn_p", True):
    layer.adapter.p.set_value(jnp.float32(1.6))
  return layer


def _base(form: str) -> Any:
  options: Any = {"heads": 2, "rope_theta": 0.0, "form": form}
  return _filled(lambda: dot_product.Layer(8, **options, rngs=nnx.Rngs(0)))


X, Y = (jnp.asarray(_draw(2, n, 8, seed=n)) for n in (5, 7))


class StepTest(parameterized.TestCase):
  @parameterized.parameters((1.75, 0.1), (1.25, 0.5), (2.5, 0.2))
  def test_is_the_authors_formula(self, p, mu):
    features, graph = _draw(1, 6, 1, 3), _graph(1, 1, 6, 6)
    got = _step(features, graph, None, p, mu)
    M, source = _official(features[0, :, 0], graph[0, 0], p, mu)
    own = features[0, :, 0]
    _close(got[0, :, 0], M @ own + source[:, None] * own)
    if (p, mu) == (1.75, 0.1):
      _close(p_adapter.p_laplacian_step(*map(jnp.asarray, (features, graph))), got)

  def test_a_bipartite_graph_is_the_block_of_the_queries(self):
    columns, rows, A = _draw(1, 5, 1, 2), _draw(1, 3, 1, 2, seed=4), _graph(1, 1, 3, 5)
    whole = np.zeros((8, 8), np.float32)
    whole[:3, 3:], whole[3:, :3] = A[0, 0], A[0, 0].T
    nodes = np.concatenate([rows[0, :, 0], columns[0, :, 0]])
    M, _ = _official(nodes, whole, 1.5, 0.3)
    got = _step(columns, A, rows, 1.5, 0.3)
    _close(got[0, :, 0], M[:3, 3:] @ nodes[3:])

  def test_limits(self):
    features, graph = _draw(1, 6, 1, 3), _graph(1, 1, 6, 6)
    run = lambda F, A, p, mu: np.asarray(_step(F, A, None, p, mu))[0, :, 0]  # noqa: E731
    own, A = features[0, :, 0], graph[0, 0]
    _close(run(features, graph, 2.0, 0.1), (A @ own + 0.1 * own) / 1.1)
    _close(run(features, graph, 1.5, 1e6), own, 1e-4)
    order = np.array([3, 0, 5, 1, 4, 2])
    moved = run(features[:, order], graph[:, :, order][..., order], 1.5, 0.2)
    _close(moved, run(features, graph, 1.5, 0.2)[order])
    equal = np.broadcast_to(features[:, :1], features.shape)
    _close(run(equal, graph, 1.25, 0.1), equal[0, :, 0])
    # Neither an edge nor a source: nothing, and no NaN.
    self.assertFalse(run(features, 0 * graph, 1.5, 0.0).any())

  def test_a_token_that_occurs_twice_counts_as_the_node_itself(self):
    features, graph = _draw(1, 4, 1, 2), np.full((1, 1, 4, 4), 0.25, np.float32)
    features[0, 2] = features[0, 0]
    M, source = _official(features[0, :, 0], graph[0, 0], 1.75, 0.1)
    own = features[0, :, 0]
    got = _step(features, graph, None, 1.75, 0.1)
    _close(got[0, :, 0], M @ own + source[:, None] * own)

  def test_blocks_of_queries_change_nothing(self):
    features, graph = _draw(1, 7, 1, 2), _graph(1, 1, 7, 7)

    def loss(features, graph, p):
      return jnp.sum(jnp.sin(p_adapter.p_laplacian_step(features, graph, None, p)))

    run = lambda: jax.jit(jax.grad(loss, (0, 1, 2)))(features, graph, 1.6)  # noqa: E731
    want = run()
    jax.clear_caches()
    with mock.patch.multiple(messages, PAIRS=14, ROWS=2):
      jax.tree.map(lambda a, b: _close(a, b, 1e-4), run(), want)

  def test_windows_by_hand(self):
    x = jnp.array([[[1.0], [2], [4], [8]]])
    self.assertEqual(_pool(x, size=3).ravel().tolist(), [1.5, 3, 6])
    real = jnp.array([[True, False, True, True]])
    got = _pool(x, real, size=2)
    self.assertEqual(got.ravel().tolist(), [2.5, 6])
    more = _pool(x[:, :2], size=4)
    self.assertEqual(more.ravel().tolist(), [1, 1, 2, 2])

  def test_errors_name_value_and_rule(self):
    F = q = jnp.zeros((1, 4, 1, 2))
    wrong = self.assertRaisesRegex
    with wrong(ValueError, "pool = 2 with kind 'self'"):
      p_adapter.attend(q, q, F, pool=2)
    with wrong(ValueError, "'cross' alone takes rows"):
      p_adapter.attend(q, q, F, kind="cross")
    with wrong(ValueError, "4 queries, 3 keys"):
      p_adapter.attend(q, q[:, :3], F[:, :3])
    with wrong(ValueError, "size = 0; it must be at least 1"):
      p_adapter.adaptive_pool(F, size=0)
    with wrong(ValueError, "reduction = 3, heads = 2: their product divides dim = 8"):
      _layer(reduction=3)
    with wrong(ValueError, "p = 0.0, mu = 0.1"):
      _layer(p=0.0)
    with wrong(ValueError, "streams .*; they are text and image"):
      _layer("cross", {"text": 8, "sound": 8})
    with wrong(NotImplementedError, "image.positions: "):
      _layer("cross")({"text": Stream(X), "image": Stream(Y, None, jnp.arange(7))})
    with wrong(ValueError, "no stream 'image' among text"):
      _layer("cross")({"text": Stream(X)})
    with wrong(TypeError, "unknown context 'valid'"):
      _layer("cross")({"text": Stream(X), "image": Stream(Y)}, valid=None)


class LayerTest(parameterized.TestCase):
  def test_defaults(self):
    make = lambda **own: p_adapter.Layer(64, form="cross", rngs=nnx.Rngs(0), **own)  # noqa: E731
    layer, zero = jax.jit(lambda: (make(), make(zero_init=True)))()
    self.assertEqual((layer.shape, layer.pool), ((4, 4, 16), 24))
    self.assertEqual(layer.adapter.into.kernel.shape, (64, 8))
    self.assertEqual(float(layer.adapter.p[...]), 1.75)
    self.assertAlmostEqual(float(layer.adapter.numbers()[1]), 0.2)
    self.assertFalse(layer.pool_padding)
    self.assertIsNone(layer.out.bias)
    for part in (layer.adapter.out.kernel, layer.adapter.out.bias):
      top = np.abs(part[...]).max()
      self.assertBetween(float(top), 0.2, 8**-0.5)
    self.assertFalse(np.asarray(zero.adapter.out.kernel[...]).any())
    self.assertFalse(np.asarray(zero.adapter.out.bias[...]).any())

  def test_the_adapter_by_hand(self):
    """One head, whose weights are equal: the gate, the maps and the source."""
    layer = _layer(heads=1, qkv_bias=True, out_bias=True)
    layer.qkv.query.kernel.set_value(jnp.zeros((8, 1, 8)))
    layer.qkv.query.bias.set_value(jnp.zeros((1, 8)))
    a = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(layer)))

    def linear(x, one):
      kernel = one["kernel"].reshape(x.shape[-1], -1)
      return x @ kernel + one["bias"].reshape(-1)

    values = linear(X[0], a["qkv"]["value"])
    c = linear(np.broadcast_to(values.mean(axis=0), (5, 8)), a["out"])
    F = linear(linear(values, a["out"]), a["adapter"]["into"])
    p = float(a["adapter"]["p"])
    mu = 0.1 * (2 + math.tanh(float(a["adapter"]["shift"])))
    M, source = _official(F, np.full((5, 5), 0.2), p, mu)
    gate = linear(c, a["adapter"]["gate"])
    gate = np.array([g / 2 * (1 + math.erf(g / 2**0.5)) for g in gate.ravel()])
    message = gate.reshape(5, 4) * (M @ F + source[:, None] * F)
    _close(_call(layer, X)[0], c + linear(message, a["adapter"]["out"]), 1e-4)

  def test_options_of_the_start(self):
    plain, base = _layer(reduction=0), _base("sequence")
    self.assertIsNone(plain.adapter)
    base.qkv, base.out = plain.qkv, plain.out
    np.testing.assert_array_equal(_call(plain, X), _call(base, X))
    fixed = _layer(learn_p=False, p=1.5)
    self.assertEqual(fixed.adapter.numbers()[0], 1.5)
    more = len(jax.tree.leaves(_layer())) - len(jax.tree.leaves(fixed))
    self.assertEqual(more, 1)

  def test_shared_keys_are_repeated_ones(self):
    one, two = _layer(kv_heads=1), _layer()
    for name in ("query", "key", "value"):
      kernel = getattr(one.qkv, name).kernel[...]
      own = getattr(two.qkv, name).kernel
      own.set_value(jnp.broadcast_to(kernel, own.shape))
    for name in ("out", "adapter"):
      setattr(two, name, getattr(one, name))
    _close(_call(one, X), _call(two, X))

  def test_adapted_layers(self):
    layer, grown = _layer(), {"reduction": 2, "heads": 2}
    want = _call(layer, X[:, :4])
    for form, x in (("sequence", X[:, :4]), ("image", X[:, :4].reshape(2, 2, 2, 8))):
      base = _base(form)
      base.qkv, base.out = layer.qkv, layer.out
      adapted = _filled(
        lambda base=base: p_adapter.Adapted(base, 8, **grown, rngs=nnx.Rngs(0))
      )
      adapted.layer, adapted.adapter = base, layer.adapter
      _close(_call(adapted, x).reshape(want.shape), want)
      self.assertIn("positions", adapted.refuses)
    with self.assertRaisesRegex(NotImplementedError, "has no project, mix, merge"):
      p_adapter.Adapted(lambda x: x, 8, **grown, rngs=nnx.Rngs(0))

  def test_windows_of_single_keys_are_the_keys(self):
    text = {"text": Stream(X), "image": Stream(Y)}
    whole, single = (_call(_layer("cross", pool=n), text)["text"] for n in (0, 7))
    _close(single, whole)

  def test_heads_of_another_width_are_normalised(self):
    layer = _layer("cross", {"text": 8, "image": 6}, qk_norm=True, reduction=0)
    text, image = X[:1, :1], Y[:1, :2, :6]
    got = _call(layer, {"text": Stream(text), "image": Stream(image)})["text"]
    a = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(layer)))
    q, k, v = (
      np.einsum("sd,dnh->nsh", x[0], a["qkv"][n]["kernel"])
      for n, x in (("query", text), ("key", image), ("value", image))
    )

    def normed(x, name):
      root = np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
      return x / root * a["qkv"][name]["scale"]

    q, k = normed(q, "query_norm"), normed(k, "key_norm")
    power = np.exp(q @ k.swapaxes(1, 2) / 2)
    out = power / power.sum(axis=-1, keepdims=True) @ v
    x = text[0, 0] + np.einsum("nh,nhd->d", out[:, 0], a["out"]["kernel"])
    x = (x - x.mean()) / x.std() * a["norm"]["scale"] + a["norm"]["bias"]
    _close(got[0, 0], x, 1e-4)

  def test_bottleneck_by_hand(self):
    make = lambda n: p_adapter.Bottleneck(8, reduction=n, rngs=nnx.Rngs(0))  # noqa: E731
    one = _filled(lambda: make(4))
    self.assertEqual(one.down.kernel.shape, (8, 2))
    a = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(one)))
    low = np.maximum(X @ a["down"]["kernel"] + a["down"]["bias"], 0)
    _close(_call(one, X), low @ a["up"]["kernel"] + a["up"]["bias"])
    with self.assertRaisesRegex(ValueError, "reduction = 3; it divides dim = 8"):
      make(3)


if __name__ == "__main__":
  absltest.main()
