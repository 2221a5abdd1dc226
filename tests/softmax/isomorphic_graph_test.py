"""Isomorphic attention beyond its golden file: NumPy by hand, lists, adapters."""

import functools
import math
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.softmax import dot_product
from attnjax.variants.softmax import isomorphic_graph as graphs
from attnjax.variants.softmax.isomorphic_graph import blocks, sparse
from experiments import small
from experiments.training import part


def _draw(*shape, seed=0):
  draw = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(draw, jnp.float32)


def _filled(build) -> Any:
  """A module whose weights are all drawn large, so that no part is near its start."""
  leaves, tree = jax.tree.flatten(jax.eval_shape(build))
  draw = np.random.default_rng(0).standard_normal
  drawn = [jnp.asarray(0.5 * draw(x.shape), jnp.float32) for x in leaves]
  return jax.tree.unflatten(tree, drawn)


def _layer(**options) -> Any:
  return _filled(lambda: graphs.Layer(8, heads=2, rngs=nnx.Rngs(0), **options))


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


def _softmax(score):
  """Rows of (N, T, T) over the tokens so far, in float64."""
  out = np.zeros(score.shape)
  for n, t in np.ndindex(*score.shape[:2]):
    e = np.exp(score[n, t, : t + 1] - score[n, t, : t + 1].max())
    out[n, t, : t + 1] = e / e.sum()
  return out


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


# f of one weight a, with t = 0.3, beta = 4 and binary_scale = 0.7.
_BY_HAND = {
  "none": lambda a: a,
  "silu": lambda a: (a - 0.3) * _sigmoid(a - 0.3),
  "relu": lambda a: max(a - 0.3, 0),
  "softplus": lambda a: math.log(1 + math.exp(a - 0.3)),
  "sharp_softplus": lambda a: math.log(1 + math.exp(4 * (a - 0.3))) / 4,
  "sigmoid": lambda a: _sigmoid(4 * (a - 0.3)),
  "flow": lambda a: _sigmoid(5 * a) * _sigmoid(50 * (a - 0.3)),
  "binary": lambda a: float(a > 0.3),
  "silu_binary": lambda a: (a - 0.3) * _sigmoid(a - 0.3) + 0.7 * (a > 0.3),
  "silu_below": lambda a: 1.0 if a > 0.3 else (a - 0.3) * _sigmoid(a - 0.3),
  "relu_below": lambda a: 1.0 if a > 0.3 else 0.0,
  "softplus_below": lambda a: 1.0 if a > 0.3 else math.log(1 + math.exp(a - 0.3)),
}


class EdgesTest(parameterized.TestCase):
  @functools.cached_property
  def found(self):
    q, k = _draw(1, 7, 2, 4), _draw(1, 7, 2, 4, seed=1)
    how: Any = {"threshold": 0.3, "beta": 4.0, "keep_keys": 2, "keep_ratio": 0.4}

    @jax.jit
    def run(q, k):
      def of(edges):
        return graphs.adjacency(q, k, edges=edges, binary_scale=0.7, **how)[0]

      relu = graphs.adjacency(q, k, weighting="relu")[0]
      return {edges: of(edges) for edges in graphs.EDGES} | {"positive": relu}

    score = np.einsum("btnh,bsnh->bnts", *(np.asarray(x, np.float64) for x in (q, k)))
    return run(q, k), score[0] / 2

  def test_transforms_by_hand(self):
    found, score = self.found
    a = _softmax(score)
    for name, one in _BY_HAND.items():
      want = np.zeros(a.shape)
      for n, t, s in np.ndindex(*a.shape):
        want[n, t, s] = one(a[n, t, s]) if s <= t else 0
      np.testing.assert_allclose(found[name], want, rtol=1e-4, atol=1e-6, err_msg=name)
    past = np.tri(7, dtype=bool)
    _close(found["positive"], np.where(past, np.maximum(score, 0), 0))

  def test_the_greatest_weights_of_a_row_by_hand(self):
    found, score = self.found
    a = _softmax(score)
    want, scaled = np.zeros(a.shape), np.zeros(a.shape)
    for n, t in np.ndindex(*a.shape[:2]):
      want[n, t, np.argsort(-a[n, t, : t + 1])[:2]] = 1
      # ceil(0.4 t) of the t earlier tokens, if 0.3 is reached.
      for s in np.argsort(-a[n, t, :t])[: math.ceil(0.4 * t)]:
        scaled[n, t, s] = a[n, t, s] >= 0.3
    np.testing.assert_array_equal(found["top_k"], want)
    np.testing.assert_array_equal(found["scaled_top_k"], scaled)
    self.assertGreater(scaled.sum(), 3)

  def test_names(self):
    self.assertEqual(set(graphs.EDGES), {*_BY_HAND, "top_k", "scaled_top_k"})


class GatheredTest(parameterized.TestCase):
  @parameterized.parameters(
    ("pna", "none", None),
    ("pna", "none", 2),
    ("pna", "relu", 3),
  )
  def test_all_aggregates_with_gradients(self, kind, edges, offset):
    T, S = 5, 5 if offset is None else 8
    arrays = {"q": _draw(2, T, 2, 4), "k": _draw(2, S, 2, 4, seed=1)}
    arrays |= {"v": _draw(2, S, 2, 3, seed=2), "own": _draw(2, T, 2, 3, seed=3)}
    how: Any = {"kind": kind, "edges": edges}
    how |= {} if offset is None else {"offset": offset}

    @functools.partial(jax.jit, static_argnums=1)
    def run(arrays, impl):
      def loss(arrays):
        out = graphs.attend(**arrays, impl=impl, **how)
        return jnp.sin(out).sum(), out

      return jax.grad(loss, has_aux=True)(arrays)

    with mock.patch.multiple(blocks, PAIRS=64, ROWS=2):  # of two queries
      got = run(arrays, "xla")
    jax.tree.map(_close, got, run(arrays, "reference"))

  def test_sum_mean_and_extremes_by_hand(self):
    # Two tokens and their weights 3/4 and 1/4, by scores of log 3 and 0.
    q, k = jnp.ones((1, 2, 1, 1)), jnp.log(jnp.array([3.0, 1.0])).reshape(1, 2, 1, 1)
    v = jnp.array([[1.0, -2.0], [0.0, 5.0]]).reshape(1, 2, 1, 2)

    @jax.jit
    def run():
      def of(kind, **more):
        return graphs.attend(q, k, v, kind=kind, **more)[0, :, 0]

      gin = of("gin", epsilon=jnp.array([2.0]))
      hard = {"edges": "relu", "threshold": 0.5}
      released = {"threshold": 0.8, "as_released": True}
      return {
        "gin": gin,
        "pna": of("pna"),
        "own": of("pna", as_released=True),
        "relu": of("pna", **hard),
        "norm": of("pna_lm"),
        "far": of("pna_lm", threshold=0.8),
        "first": of("pna_lm", **released),
        "empty": of("pna_lm", edges="relu", threshold=0.8),
      }

    found = run()
    mean, spread = [0.75, -0.25], [0.1875, 9.1875]
    _close(found["gin"][1], [0.75, 9.75])
    _close(found["pna"][1], [*mean, *mean, 1, 5, *spread])
    _close(found["own"][1], [*mean, *mean, 0, 5, *spread])
    # 1/4 and -1/4, of which the second is no edge: d = 1/4.
    _close(found["relu"][1], [0.25, -0.5, 1, -2, 1, -2, 0, 0])
    _close(found["norm"][1], [*mean, 0, 5, *spread, 1, -2])
    # No weight is above 0.8: the token itself, or the row's first token.
    _close(found["far"][1], [*mean, 0, 5, *spread, 0, 5])
    _close(found["first"][1], [*mean, 1, -2, *spread, 1, -2])
    _close(found["empty"][1], [0, 0, 0, 5, 0, 0, 0, 5])
    _close(found["gin"][0], [3, -6])

  @parameterized.parameters(
    ({"kind": "gat"}, "unknown kind 'gat'"),
    ({"edges": "tanh"}, "unknown edges 'tanh'"),
    ({"weighting": "sigmoid"}, "unknown weighting 'sigmoid'"),
    ({"k": jnp.zeros((1, 3, 1, 2)), "v": jnp.zeros((1, 3, 1, 2))}, "a head is a graph"),
    ({"k": jnp.zeros((1, 4, 2, 2)), "v": jnp.zeros((1, 4, 2, 2))}, "own is needed"),
    ({"kind": "pna", "second_q": jnp.zeros((1, 3, 2, 2))}, "only 'gin' subtracts"),
    ({"keep_ratio": 1.5}, r"keep_ratio = 1.5: at least 1, and in \(0, 1\]"),
  )
  def test_errors(self, changes, message):
    x = jnp.zeros((1, 3, 2, 2))
    with self.assertRaisesRegex(ValueError, message):
      graphs.attend(**{"q": x, "k": x, "v": x} | changes)


class SparseTest(parameterized.TestCase):
  def test_edges_of_all_heads_by_hand(self):
    a = _softmax(np.asarray(2 * _draw(2, 5, 5), np.float64))
    seen, itself = jnp.tri(5, dtype=bool)[None, None], jnp.eye(5, dtype=bool)

    def learned(a):
      return a[:, 0] * a[:, 1]

    whole = {"sharpness": 0.0, "least": 0.0}
    options = [{}, {"combine": "mean"}, {"combine": "any", "any_temperature": 0.5}]
    options += [{"combine": "learned"} | whole, {"combine": "sum"} | whole]
    options += [{"self_loops": False}, {"as_released": True}]
    got = jax.jit(
      lambda: [
        sparse.combined(jnp.asarray(a[None]), seen, itself, learned, **x)[0]
        for x in options
      ]
    )()

    def sharp(x):
      x = _sigmoid(10 * (x - 0.1))
      return np.tri(5) * np.where(x > 0.6, x, 0)

    total = sharp(np.minimum(a.sum(0), 1))
    some = _sigmoid((a - 0.1) / 0.5).max(0)
    want = [total, sharp(a.mean(0)), sharp(some), a[0] * a[1], np.minimum(a.sum(0), 1)]
    want += [total * (1 - np.eye(5)), total * np.eye(5)]
    for one, other in zip(got, want):
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    self.assertBetween((total > 0).sum(), 6, 14)  # of 15 pairs

  @parameterized.parameters(
    ({}, 2, math.floor(2 / 0.140546) + 1),
    ({"combine": "mean"}, 2, 8),
    ({"sharpness": 0.0, "least": 0.5}, 4, 9),
    ({"combine": "any"}, 2, None),
    ({"least": 0.2}, 2, None),  # all pairs are edges: sigmoid(-1) is above it
    ({"least": 0.0}, 2, None),
  )
  def test_the_most_edges_of_a_token(self, options, heads, want):
    self.assertEqual(sparse.bound(heads, **options), want)

  def test_lists_are_the_whole_graph_with_gradients(self):
    arrays = {n: _draw(1, 65, 1, 4, seed=i) for i, n in enumerate("qk")}
    arrays |= {"u": _draw(1, 65, 3, seed=2)}
    ids = jnp.array([[0] * 40 + [-1] * 5 + [2] * 20])
    self.assertIsNotNone(sparse.find(arrays["q"], arrays["k"]).index)

    @functools.partial(jax.jit, static_argnums=1)
    def run(arrays, impl):
      def loss(arrays):
        out = graphs.messages(**arrays, impl=impl, segment_ids=ids)
        return jnp.sin(out).sum(), out

      return jax.grad(loss, has_aux=True)(arrays)

    with mock.patch.multiple(blocks, PAIRS=65 * 32, ROWS=32):
      got = run(arrays, "xla")
    jax.tree.map(_close, got, run(arrays, "reference"))


def _norm(x):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def _turned(x):
  """Rotary positions 0, 1, ... of x (T, N, H), in pairs of halves."""
  T, _, H = x.shape
  angle = np.arange(T)[:, None] * 10000.0 ** (-np.arange(0, H, 2) / H)
  cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
  a, b = np.split(x, 2, -1)
  return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class LayerTest(parameterized.TestCase):
  @parameterized.parameters(
    {"kind": "gin", "differential": True, "edges": "sharp_softplus"},
    {"kind": "pna", "edges": "flow", "learned_threshold": True},
    {"kind": "pna_lm", "as_released": True, "threshold": 0.4},
    {"kind": "sparse_gin", "graph_size": 5, "graph_layers": 2}
    | {"combine": "learned", "sharpness": 0.0, "least": 0.4},
  )
  def test_steps_and_packed_rows_are_whole_ones(self, **options):
    layer, x = _layer(**options), _draw(2, 12, 8)
    ids = jnp.array([[-1] * 2 + [4] * 5 + [1] * 7 + [-1]])

    @jax.jit
    def run(layer):
      whole = layer(x, index=2)
      row = jnp.full((1, 15, 8), jnp.nan)
      row = row.at[:, 2:7].set(x[:1, :5]).at[:, 7:14].set(x[1:, :7])
      packed = layer(row, segment_ids=ids, index=2)
      cache, steps = layer.init_cache(2, 12), []
      for a, b in ((0, 5), (5, 6), (6, 12)):
        y, cache = layer.step(x[:, a:b], cache, index=2)
        steps.append(y)
      cache, parts = layer.init_cache(1, 15), []
      for a, b in ((0, 6), (6, 15)):
        given = {"segment_ids": ids[:, a:b], "index": 2}
        y, cache = layer.step(row[:, a:b], cache, **given)
        parts.append(y)
      moved = layer(x, positions=jnp.arange(12) ** 2, index=2)
      joined = (jnp.concatenate(one, axis=1) for one in (steps, parts))
      return whole, packed, *joined, moved

    whole, packed, stepped, parts, moved = run(layer)
    _close(stepped, whole)
    for found in (packed, parts):
      self.assertTrue(jnp.isfinite(found).all())
      _close(found[0, 2:7], whole[0, :5])
      _close(found[0, 7:14], whole[1, :7])
    self.assertGreater(float(jnp.abs(moved - whole).max()), 1e-3)

  def test_gin_of_identities_is_attention_to_the_input(self):
    layer = _layer(project_out=True)
    x = _draw(1, 6, 8)

    @jax.jit
    def run(layer):
      heads = layer.project(x)
      values = x.reshape(1, 6, 2, 4)
      layer.epsilon = nnx.Param(jnp.zeros(2))
      return layer.mix(heads), dot_product.attend(heads.q, heads.k, values, causal=True)

    _close(*run(layer))

  def test_starts(self):
    made = jax.eval_shape(
      lambda: graphs.Layer(8, heads=2, mlp_ratio=0.7, rngs=nnx.Rngs(0))
    )
    self.assertEqual(made.mlps.up.kernel.shape, (2, 4, 2))  # int(0.7 4)
    self.assertIsNone(made.out)
    layer: Any = graphs.Layer(
      8,
      heads=2,
      differential=True,
      sharpen=True,
      learned_threshold=True,
      rngs=nnx.Rngs(0),
    )
    x = _draw(1, 3, 8)
    of = [layer._queries(layer.project(x, index=i))[2]["mixing"] for i in (0, 1, 6)]
    want = [0.8 - 0.6 * math.exp(-0.3 * (i - 1)) for i in (0, 1, 6)]
    np.testing.assert_allclose(of, want, rtol=1e-5)
    self.assertEqual(float(layer.alpha[...]), 1.0)
    self.assertAlmostEqual(float(layer.learned[...]), 0.2)
    np.testing.assert_array_equal(layer.epsilon[...], [0, 0])

  @parameterized.parameters(
    ({"kind": "gat"}, "unknown kind 'gat'"),
    ({"combine": "max"}, "unknown combine 'max'"),
    ({"kind": "pna", "sharpen": True}, "sharpen and differential with kind 'pna'"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      graphs.Layer(8, heads=2, rngs=nnx.Rngs(0), **options)


class AdapterTest(parameterized.TestCase):
  def test_the_decoder_block_by_hand(self):
    options: Any = {"heads": 2, "graph_size": 5, "mlp_ratio": 1.0, "scale_first": 0.4}
    block = _filled(
      lambda: graphs.DecoderBlock(8, hidden=6, rngs=nnx.Rngs(0), **options)
    )
    x = _draw(1, 6, 8)
    got = jax.jit(lambda block: block(x))(block)
    p = {
      name.replace("/", "."): np.asarray(leaf, np.float64)
      for name, leaf in part._flat(block).items()
    }
    rows = np.asarray(x[0], np.float64)
    seen = _norm(rows) * p["norm.scale"]
    q, k, v = (
      np.einsum("td,dnh->tnh", seen, p[f"attention.qkv.{n}.kernel"])
      for n in ("query", "key", "value")
    )
    a = _softmax(np.einsum("tnh,snh->nts", _turned(q), _turned(k)) / 2)
    out = np.einsum("nts,snh->tnh", a, v)
    h = rows + np.einsum("tnh,nhd->td", out, p["attention.out.kernel"])
    edge = _sigmoid(10 * (np.minimum(a.sum(0), 1) - 0.1))
    edge = np.tri(6) * np.where(edge > 0.6, edge, 0)
    net = "attention.adapter.network."

    def linear(x, name):
      return x @ p[f"{net}{name}.kernel"] + p[f"{net}{name}.bias"]

    def act(x):
      return np.where(x > 0, x, p[f"{net}slope"] * x)

    u = linear(h, "into")
    o = p[f"{net}epsilon"][0] * u + edge @ u
    u = linear(act(o + linear(act(linear(o, "up.0")), "down.0")), "out")
    scale = 0.4 + p["attention.adapter.change"]
    g = h + scale * _norm(u) * p["attention.adapter.norm.scale"]
    last = _norm(g) * p["mlp_norm.scale"]
    gate, up, down = (p[f"mlp.{n}.kernel"] for n in ("gate", "up", "down"))
    inner = last @ gate
    want = g + (inner * _sigmoid(inner) * (last @ up)) @ down
    np.testing.assert_allclose(got[0], want, rtol=1e-3, atol=1e-4)

  def test_an_adapter_on_a_frozen_base(self):
    """The first layer changes nothing at the start; only the new part is trained."""
    options = {"heads": 2, "kind": "sparse_gin", "graph_size": 5}
    base, model = (
      small.language([slug], vocab=7, dim=8, depth=1, mlp_ratio=0.0)(jax.random.key(i))
      for i, slug in enumerate(
        (("dot_product", {"heads": 2}), ("isomorphic_graph", options))
      )
    )
    state, saved = (
      {"model": m, "stats": (), "step": 0, "optimizer": ()} for m in (model, base)
    )
    said: list[str] = []
    started = part.start(state, saved, "base", said.append)["model"]
    names = list(part._flat(started))
    new = {name for name in names if "mixer/adapter/" in name}
    self.assertEqual(set(names) - set(part._flat(base)), new)
    self.assertIn("as drawn: ", said[0])
    tokens = jnp.array([[1, 4, 2, 2, 6]])

    @jax.jit
    def run(base, started):
      def loss(model):
        y = model(tokens)
        return jnp.sin(y).sum(), y

      grads, y = jax.grad(loss, has_aux=True)(started)
      return y, base(tokens), part.gradients(grads, "mixer/adapter")

    y, want, grads = run(base, started)
    _close(y, want)
    moved = {name for name, g in part._flat(grads).items() if np.asarray(g).any()}
    self.assertEqual(moved, {"stack/blocks/0/mixer/adapter/change"})
    trained = part.trained(started, "mixer/adapter")
    self.assertEqual({n for n, yes in part._flat(trained).items() if yes}, new)

  def test_the_scale_grows_over_the_layers(self):
    made: Any = graphs.Layer(
      8, heads=2, layers=5, kind="sparse_gin", graph_size=3, rngs=nnx.Rngs(0)
    )
    adapter, x = made.adapter, _draw(1, 2, 8)
    adapter.network = lambda h, send: h
    got = [float(jnp.abs(adapter(x, None, i)).max()) for i in range(5)]
    most = float(np.abs(_norm(np.asarray(x))).max())
    np.testing.assert_allclose(got, most * np.array([0, 1, 2, 3, 4]) / 8, rtol=1e-4)

  @parameterized.parameters("relu", "tanh", "gelu", "prelu")
  def test_the_network_by_hand(self, activation):
    made: Any = graphs.GraphNetwork(
      2, hidden=2, activation=activation, residual=True, rngs=nnx.Rngs(0)
    )
    self.assertIsNone(made.into)
    kernel, other = np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([[0.5, 0], [1, -1.0]])
    made.up[0].kernel, made.down[0].kernel = nnx.Param(kernel), nnx.Param(other)
    made.epsilon = nnx.Param(jnp.array([3.0]))
    h = jnp.array([[[1.0, -2.0]]])
    acts = {
      "relu": lambda x: np.maximum(x, 0),
      "tanh": np.tanh,
      "gelu": lambda x: (
        x * np.array([[[(1 + math.erf(y / 2**0.5)) / 2 for y in x[0, 0]]]])
      ),
      "prelu": lambda x: np.where(x > 0, x, 0.25 * x),
    }
    act, o = acts[activation], 3 * np.asarray(h) + 1
    want = act(o + act(o @ kernel) @ other) + np.asarray(h)
    _close(made(h, lambda index, u: jnp.ones_like(u)), want)


if __name__ == "__main__":
  absltest.main()
