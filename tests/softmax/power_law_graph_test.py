"""PLGA beyond the authors' file: prefixes, documents, caches, defaults, the model."""

import functools
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.softmax import dot_product
from attnjax.variants.softmax import power_law_graph as plga
from attnjax.variants.softmax.power_law_graph import operator

D, N, H = 8, 2, 4


def _draw(*shape, seed=0):
  draw = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(draw, jnp.float32)


@functools.cache
def _layer(density="auto", form="causal", **options) -> Any:
  """A layer none of whose parts is near its start, with u of the power law near 2."""
  options = {"heads": N, "residual_units": 1, "gated_units": 2} | options

  def build():
    return plga.Layer(D, form=form, density=density, rngs=nnx.Rngs(0), **options)

  return _filled(build)


def _filled(build) -> Any:
  leaves, tree = jax.tree_util.tree_flatten_with_path(jax.eval_shape(build))
  draw, found = np.random.default_rng(0).standard_normal, []
  for path, leaf in leaves:
    name, values = jax.tree_util.keystr(path), 0.3 * draw(leaf.shape)
    values += 1.0 if "norm" in name and "scale" in name else 0.0
    values += 2.0 if name.endswith("metric.shift") else 0.0
    found.append(jnp.asarray(values, jnp.float32))
  return jax.tree.unflatten(tree, found)


def _wide(tree) -> Any:
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def _norm(x, norm):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-6) * np.asarray(norm.scale[...]) + np.asarray(
    norm.bias[...]
  )


def _dense(x, linear):
  kernel, bias = np.asarray(linear.kernel[...]), np.asarray(linear.bias[...])
  return np.tensordot(x, kernel, 1) + bias


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _unit(x, unit):
  gate = _dense(x, unit.gate)
  return _dense(gate * _sigmoid(gate) * _dense(x, unit.up), unit.down)


def _metric(density, metric):
  """(A, A_LM, A_P, G_LM) of one row in float64, head by head."""
  A = _norm(density, metric.norm)
  for residual in metric.residual:
    y = A
    for unit in residual.units:
      y = _unit(y, unit)
    A = _norm(A + y, residual.norm)
  names = "weight", "shift", "power", "coupling", "coupling_shift"
  W, b, p, a, b_a = (np.asarray(getattr(metric, n)[...], np.float64) for n in names)
  u = np.stack([W[n] @ A[n] for n in range(len(W))]) + b
  A_LM = u * u * _sigmoid(u) + 1e-9
  A_P = A_LM**p
  return A, A_LM, A_P, np.stack([a[n] @ A_P[n] for n in range(len(a))]) + b_a


def _turned(x, places):
  """Pairs (2 h, 2 h + 1) of x (T, N, H) turned by p 10000^(-2 h / H), complex."""
  rate = 10000.0 ** (-np.arange(0, H, 2) / H)
  pairs = x[..., ::2] + 1j * x[..., 1::2]
  pairs = pairs * np.exp(1j * np.asarray(places)[:, None, None] * rate)
  return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def _row(layer, x, places, later=False, causal=True, operators=None):
  """The layer's result for one document x (T, D), token by token in float64."""
  x = np.asarray(x, np.float64)
  qkv = layer.qkv
  q, k, v = (_dense(x, part) for part in (qkv.query, qkv.key, qkv.value))
  q, k, out = _turned(q, places), _turned(k, places), np.zeros(v.shape)
  for t in range(len(x)):
    some = q if later else q[: t + 1]
    G = operators
    if G is None:
      density = np.einsum("tnh,tng->nhg", some, some)
      G = _metric(density, layer.operator.metric)[3]
    S = t + 1 if causal else len(x)
    for n in range(N):
      score = k[:S, n] @ (q[t, n] @ G[n]) / math.sqrt(H)
      weight = np.exp(score - score.max())
      out[t, n] = weight @ v[:S, n] / weight.sum()
  kernel, bias = np.asarray(layer.out.kernel[...]), np.asarray(layer.out.bias[...])
  return np.tensordot(out, kernel, 2) + bias


@jax.jit
def _run(layer, x, context):
  return layer(x, **context)


@jax.jit
def _step(layer, x, cache, context):
  return layer.step(x, cache, **context)


def _steps(layer, x, cuts, **context):
  """Results of steps of these lengths; `context` has arrays (B, T)."""
  cache, out, at = layer.init_cache(len(x), x.shape[1]), [], 0
  for size in cuts:
    part = {n: c[:, at : at + size] for n, c in context.items()}
    y, cache = _step(layer, x[:, at : at + size], cache, part)
    out.append(y)
    at += size
  return jnp.concatenate(out, axis=1), cache


def _close(got, want, rtol=2e-4, atol=2e-5):
  np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


class LayerTest(parameterized.TestCase):
  def test_prefix_by_hand_with_documents_and_padding(self):
    layer, x = _layer(), _draw(2, 20, D)  # two chunks of ten tokens
    # Documents of 12 and 5 tokens with padding before, between and inside.
    ids = np.full((2, 20), 3)
    ids[0] = [-1] + [7] * 4 + [-1] + [7] * 7 + [-1] + [2] * 6
    y = _run(layer, x, {"segment_ids": jnp.asarray(ids)})
    first, second = np.r_[1:5, 6:13], np.r_[14:20]
    _close(y[0, first], _row(layer, x[0, first], first - 1))
    _close(y[0, second], _row(layer, x[0, second], second - 14))
    _close(y[1], _row(layer, x[1], np.arange(20)))
    stepped, _ = _steps(layer, x, [4] * 5, segment_ids=jnp.asarray(ids))
    real = ids >= 0
    _close(stepped[real], y[real])

  def test_positions_are_those_given(self):
    layer, x, places = _layer(), _draw(1, 8, D), np.array([3, 4, 9, 10, 30, 31, 40, 2])
    y = _run(layer, x, {"positions": jnp.asarray(places)})
    _close(y[0], _row(layer, x[0], places))

  @parameterized.parameters("causal", "sequence")
  def test_full_by_hand_with_documents(self, form):
    layer, x = _layer("full", form=form), _draw(1, 20, D, seed=1)
    ids = np.array([[5] * 3 + [-1] + [5] * 9 + [1] * 7])  # a document in both chunks
    y = _run(layer, x, {"segment_ids": jnp.asarray(ids)})
    causal = form == "causal"
    for places in (np.r_[0:3, 4:13], np.r_[13:20]):
      own = places - places[0]
      _close(y[0, places], _row(layer, x[0, places], own, True, causal))

  def test_full_tells_the_future_and_others_do_not(self):
    x = _draw(1, 8, D)
    changed = x.at[:, -1].add(1.0)
    moved = {}
    for density in ("full", "prefix", "constant"):
      layer = _layer(density)
      # The first token sees itself alone, whatever its operator is.
      y, other = (_run(layer, z, {})[0, 1:-1] for z in (x, changed))
      moved[density] = float(jnp.abs(y - other).max())
    self.assertGreater(moved["full"], 1e-2)
    self.assertEqual(moved["prefix"], 0.0)
    self.assertEqual(moved["constant"], 0.0)

  def test_constant_starts_as_scaled_dot_product_attention(self):
    layer: Any = plga.Layer(
      D, form="causal", heads=N, density="constant", rngs=nnx.Rngs(0)
    )
    eye = np.broadcast_to(np.eye(H), (N, H, H))
    np.testing.assert_array_equal(layer.operator.constant[...], eye)
    x = _draw(1, 8, D)
    layer = _layer("constant")
    operators = np.asarray(layer.operator.constant[...])
    want = _row(layer, x[0], np.arange(8), operators=operators)
    _close(_run(layer, x, {})[0], want)
    ids = jnp.array([[0, 0, 0, 1, 1, 1, 1, 1]])
    packed = _run(layer, x, {"segment_ids": ids})
    _close(_steps(layer, x, [4, 4], segment_ids=ids)[0], packed)
    with self.assertRaisesRegex(NotImplementedError, "constant operator"):
      layer.deduce(x)

  def test_identity_is_dot_product_attention(self):
    q, k, v = _draw(3, 2, 9, N, H)
    eye = jnp.broadcast_to(jnp.eye(H), (1, N, H, H))
    given: dict[str, Any] = {"causal": True, "impl": "xla"}
    got = jax.jit(lambda: plga.attend(q, k, v, eye, **given))()
    want = jax.jit(lambda: dot_product.attend(q, k, v, **given))()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(
    ({"density": "half"}, "unknown density 'half'"),
    ({"density": "prefix", "form": "sequence"}, "of form 'causal', not of 'sequence'"),
    ({"gated_units": 0}, "residual_units = 2, gated_units = 0"),
    ({"form": "image"}, "unknown form"),
    ({"heads": 3}, "does not divide"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      plga.Layer(D, **{"form": "causal"} | options, rngs=nnx.Rngs(0))

  def test_shape_of_the_operator_is_checked(self):
    q = jnp.zeros((2, 3, N, H))
    with self.assertRaisesRegex(ValueError, r"curvature \(2, 4, 4\) must be \(2, 2, 4"):
      inspect.unwrap(plga.attend)(q, q, q, jnp.zeros((2, H, H)))


class CacheTest(absltest.TestCase):
  def test_steps_keep_the_operator_of_the_prompt(self):
    layer, x = _layer("full"), _draw(2, 10, D)
    valid = jnp.ones((2, 10), bool).at[1, :3].set(False)  # padding before the second
    stepped, cache = _steps(layer, x, [5, 5], valid=valid)
    deduced = jax.jit(lambda x, v: layer.deduce(x, valid=v))(x[:, :5], valid[:, :5])
    jax.tree.map(_close, cache.deduced, deduced)
    given = {"curvature": deduced.curvature, "valid": valid}
    want = _run(layer, x, given)
    _close(stepped[valid], want[valid])
    # A given operator is the cache's, in steps as well.
    cache, out = layer.init_cache(2, 10), []
    for part in (slice(0, 5), slice(5, 10)):
      own = {"curvature": deduced.curvature, "valid": valid[:, part]}
      y, cache = _step(layer, x[:, part], cache, own)
      out.append(y)
    _close(jnp.concatenate(out, 1)[valid], want[valid])

  def test_cached_operator_takes_less_than_a_new_one(self):
    layer = _layer("full")
    x, cache = _draw(1, 1, D), layer.init_cache(1, 16)
    G = cache.deduced.curvature

    def flops(run):
      return jax.jit(run).lower(x).cost_analysis()["flops"]

    kept = flops(lambda x: layer.step(x, cache, curvature=G)[0])
    new = flops(lambda x: layer.step(x, cache, curvature=layer.deduce(x).curvature)[0])
    self.assertLess(kept, 0.7 * new)

  def test_packed_rows_have_no_prompt(self):
    layer, ids = _layer("full"), jnp.zeros((1, 3), jnp.int32)
    with self.assertRaisesRegex(NotImplementedError, "segment_ids: density 'full'"):
      layer.step(jnp.zeros((1, 3, D)), layer.init_cache(1, 4), segment_ids=ids)
    with self.assertRaisesRegex(NotImplementedError, "whole rows"):
      layer.deduce(jnp.zeros((1, 3, D)), segment_ids=ids)
    with self.assertRaisesRegex(NotImplementedError, "does not decode"):
      _layer("full", form="sequence").init_cache(1, 4)


class MetricTest(parameterized.TestCase):
  def test_tensors_by_hand(self):
    layer, x = _layer("full"), _draw(1, 6, D)
    got = jax.jit(layer.deduce)(x)
    q = _turned(_dense(np.asarray(x[0], np.float64), layer.qkv.query), np.arange(6))
    density = np.einsum("tnh,tng->nhg", q, q)
    names = "learned", "metric", "potential", "curvature"
    want = _metric(density, layer.operator.metric)
    for name, value in zip(names, want):
      _close(getattr(got, name)[0], value)

  def test_metric_is_positive_and_its_gradient_finite_near_zero(self):
    learned = jnp.array([0.0, 1e-5, -1e-5, 1e-4, -60.0, 60.0]).reshape(6, 1, 1, 1)
    one, zero = jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1))
    power = jnp.full((1, 1, 1), -0.5)

    @jax.jit
    def run(learned, power):
      return plga.power_law(learned, one, zero, power, one, zero)

    (metric, potential, _), pull = jax.vjp(run, learned, power)
    u = np.asarray(learned, np.float64)
    want = u * u * _sigmoid(u) + 1e-9
    np.testing.assert_allclose(metric, want, rtol=1e-5)
    np.testing.assert_allclose(potential, want**-0.5, rtol=1e-5)
    by_learned, by_power = pull((metric, potential, potential))
    self.assertTrue(np.isfinite(by_learned).all() and np.isfinite(by_power).all())

  def test_places_count_from_the_first_real_token_of_a_document(self):
    ids = jnp.array([[-1, 4, -1, 4, 9, 9], [4, 4, -1, -1, -1, -1], [-1] * 6])
    got, begun = operator.places(ids, 6, 10, jnp.array([-1, 7, -1]))
    np.testing.assert_array_equal(got[0], [-1, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(got[1], [3, 4, 5, 6, 7, 8])
    np.testing.assert_array_equal(begun, [14, 7, -1])

  def test_what_is_drawn(self):
    layer: Any = plga.Layer(256, form="causal", heads=16, head_dim=18, rngs=nnx.Rngs(0))
    metric = layer.operator.metric
    self.assertEqual(metric.residual[0].units[0].gate.kernel.shape, (18, 48))
    self.assertEqual((len(metric.residual), len(metric.residual[0].units)), (2, 2))
    std = math.sqrt(2 / (18**2 + 16 * 18))
    for one in (metric.weight, metric.power, metric.coupling):
      self.assertAlmostEqual(float(one[...].std()), std, delta=0.05 * std)
    for one in (metric.shift, metric.coupling_shift, layer.qkv.query.bias):
      self.assertFalse(one[...].any())
    xavier, torch = math.sqrt(6 / (256 + 288)), 256**-0.5
    parts = layer.qkv.query, layer.qkv.key, layer.out
    bounds = [(part.kernel, xavier) for part in parts]
    bounds += [(layer.qkv.value.kernel, torch), (layer.qkv.value.bias, torch)]
    bounds += [(metric.residual[0].units[0].up.kernel, math.sqrt(6 / (18 + 48)))]
    for kernel, bound in bounds:
      most = float(jnp.abs(kernel[...]).max())
      self.assertBetween(most, 0.95 * bound, bound)


class DecoderTest(absltest.TestCase):
  def test_by_hand(self):
    options = {"dim": D, "depth": 1, "heads": N, "residual_units": 1}
    model = _filled(lambda: plga.Decoder(11, **options, rngs=nnx.Rngs(0)))
    tokens = jnp.array([[3, 1, 4, 1, 5]])
    got, (found,) = jax.jit(type(model).learn)(model, tokens)
    block, x = model.blocks[0], math.sqrt(D) * _wide(model.embed.embedding[...])
    x = _norm(x[np.asarray(tokens[0])], model.norm)
    y = _norm(x + _row(block.attention, x, np.arange(5), later=True), block.norm)
    y = _norm(y + _unit(y, block.feed), block.feed_norm)
    _close(got[0], _dense(y, model.head), rtol=1e-3, atol=1e-4)
    given = jax.jit(lambda m, t, G: m(t, curvatures=[G]))(
      model, tokens, found.curvature
    )
    _close(given, got)
    self.assertEqual(block.feed.gate.kernel.shape, (D, 21))

  def test_steps_are_the_whole(self):
    options: Any = {"dim": D, "depth": 1, "heads": N, "residual_units": 1}
    options |= {"density": "prefix"}
    model = _filled(lambda: plga.Decoder(11, **options, rngs=nnx.Rngs(0)))
    tokens = jnp.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    whole = jax.jit(type(model).__call__)(model, tokens)
    step, caches, out = jax.jit(type(model).step), model.init_cache(2, 6), []
    for part in (slice(0, 3), slice(3, 6)):
      y, caches = step(model, tokens[:, part], caches)
      out.append(y)
    _close(jnp.concatenate(out, axis=1), whole, rtol=1e-3, atol=1e-4)

  def test_size_of_the_sample(self):
    self.assertEqual(plga.SIZES["110m"]["depth"], 5)
    build = functools.partial(plga.Decoder, 32000, **plga.SIZES["110m"] | {"depth": 1})
    model = jax.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    got = sum(leaf.size for leaf in jax.tree.leaves(model))
    width, hidden, size, heads, inner = 896, 2389, 64, 14, 180
    unit = 2 * (size + 1) * inner + (inner + 1) * size
    metric = 2 * size + 8 * (2 * unit + 2 * size) + 5 * heads * size**2
    feed = 2 * (width + 1) * hidden + (hidden + 1) * width
    block = 4 * (width + 1) * width + metric + feed + 4 * width
    ends = 2 * 32000 * width + 32000 + 2 * width
    self.assertEqual(got, ends + block)
    self.assertAlmostEqual((ends + 5 * block) / 1e6, 110, delta=1)

  def test_loss_of_cycles(self):
    def tensors(metric, potential, curvature):
      eye = jnp.eye(3)[None, None]
      return plga.Metric(None, metric * eye, potential * eye, curvature * eye)

    found = [tensors(0.0, 1.0, 2.0), tensors(1.0, 1.0, 0.0)]
    cycle = jnp.array([[[[0.0, 0.5], [0.5, 0.0]]]])
    cycles = [plga.Metric(None, cycle, cycle, cycle)]

    @jax.jit
    def run():
      losses = plga.dag_loss(found, (1.0, 10.0, 100.0)), plga.dag_loss(found, [0.0] * 3)
      return *losses, plga.dag_loss(cycles, (1.0, 1.0, 1.0))

    # |log(tr(exp(c^2 I)) / 3)| = c^2; means over both layers are 0.5, 1 and 2. Of a
    # cycle the elements are squared.
    want = 0.5 + 10 + 200, 0.0, 3 * math.log(math.cosh(0.25))
    np.testing.assert_allclose(run(), want, rtol=1e-4)


if __name__ == "__main__":
  absltest.main()
