"""What the gate promises beyond the contract of every system."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.nn import gate as gates
from attnjax.variants.softmax import dot_product, gated_attention

_KEY = jax.random.key(7)
_attend = functools.partial(gated_attention.attend, causal=True)


def _arrays(gate=(4, 8)):
  shapes = (2, 9, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8), (2, 9, *gate)
  keys = jax.random.split(_KEY, 4)
  return [jax.random.normal(k, shape) for k, shape in zip(keys, shapes)]


def _layer(**options) -> Any:
  options: Any = {"heads": 4, "kv_heads": 2} | options
  return gated_attention.Layer(16, rngs=nnx.Rngs(0), **{"form": "causal"} | options)


def _random(layer, seed=0):
  """The layer with every weight drawn large, so that no part is near its start."""
  leaves, tree = jax.tree.flatten(layer)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  drawn = [0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
  return jax.tree.unflatten(tree, drawn)


def _x(tokens=9):
  return jax.random.normal(_KEY, (2, tokens, 16))


class FunctionTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(simulate.accelerators(detect_races=False))

  @parameterized.product(impl=gated_attention.IMPLEMENTATIONS, gate=[(4, 8), (4, 1)])
  def test_an_open_gate_is_plain_attention_and_zero_halves_it(self, impl, gate):
    q, k, v, g = _arrays(gate)
    plain = dot_product.attend(q, k, v, causal=True)
    opened = _attend(q, k, v, jnp.full_like(g, 1e4), impl=impl)
    half = _attend(q, k, v, jnp.zeros_like(g), impl=impl)
    closed = _attend(q, k, v, jnp.full_like(g, -1e4), impl=impl)
    _close(opened, plain)
    _close(half, plain / 2)
    np.testing.assert_array_equal(closed, 0)

  def test_headwise_is_elementwise_with_the_gate_repeated(self):
    q, k, v, g = _arrays((4, 1))
    got = _attend(q, k, v, g)
    _close(got, _attend(q, k, v, jnp.repeat(g, 8, axis=3)))
    shared = _attend(q, k, v, g[:, :, :1])
    _close(shared, _attend(q, k, v, jnp.repeat(g[:, :, :1], 4, axis=2)))

  @parameterized.product(act=["sigmoid", "silu", "ns_sigmoid"], combine=["mul", "add"])
  def test_formula(self, act, combine):
    q, k, v, g = _arrays()
    plain = dot_product.attend(q, k, v, causal=True)
    s = 1 / (1 + np.exp(-np.asarray(g, np.float64)))
    value = {"sigmoid": s, "silu": g * s, "ns_sigmoid": 0.5 + 0.5 * s}[act]
    want = plain * value if combine == "mul" else plain + value
    _close(_attend(q, k, v, g, act=act, combine=combine), want)

  def test_ns_sigmoid_never_closes(self):
    q, k, v, g = _arrays()
    plain = np.abs(dot_product.attend(q, k, v, causal=True))
    for gate, share in ((-1e4, 0.5), (1e4, 1.0)):
      got = _attend(q, k, v, jnp.full_like(g, gate), act="ns_sigmoid")
      _close(np.abs(got), share * plain)

  def test_gradient_by_the_gate(self):
    for gate in ((4, 8), (4, 1)):
      q, k, v, g = _arrays(gate)
      out, pull = jax.vjp(lambda *a: _attend(*a), q, k, v, g)
      dy = jax.random.normal(_KEY, out.shape)
      plain, s = dot_product.attend(q, k, v, causal=True), jax.nn.sigmoid(g)
      dg = dy * plain * s * (1 - s)
      _close(pull(dy)[3], dg if gate[1] > 1 else dg.sum(-1, keepdims=True))

  def test_lse_is_that_of_the_softmax(self):
    q, k, v, g = _arrays()
    _, lse = _attend(q, k, v, g, return_lse=True)
    want = dot_product.attend(q, k, v, causal=True, return_lse=True)[1]
    np.testing.assert_array_equal(lse, want)

  def test_bfloat16_is_activated_in_float32(self):
    q, k, v, g = (x.astype(jnp.bfloat16) for x in _arrays())
    v, gate = jnp.full_like(v, 3.0), jnp.full_like(g, 4.0)
    got = _attend(q, k, v, gate)
    self.assertEqual(got.dtype, jnp.bfloat16)
    # 3 sigmoid(4) = 2.9460; with the sigmoid rounded first it would be 2.9375.
    np.testing.assert_array_equal(got.astype(jnp.float32), 2.953125)

  def test_tokens_that_see_nothing_give_zero(self):
    q, k, v, g = _arrays()
    ids = jnp.array([[0] * 5 + [-1] * 4, [-1] * 9])
    out, pull = jax.vjp(lambda *a: _attend(*a, segment_ids=ids), q, k, v, g)
    np.testing.assert_array_equal(out[0, 5:], 0)
    np.testing.assert_array_equal(out[1], 0)
    for gradient in pull(jnp.ones_like(out)):
      np.testing.assert_array_equal(gradient[1], 0)
      self.assertTrue(jnp.isfinite(gradient).all())

  def test_errors(self):
    q, k, v, g = _arrays()
    cases: Any = (
      ({"act": "sigmoids"}, "unknown act 'sigmoids'; did you mean sigmoid"),
      ({"combine": "sub"}, "unknown combine 'sub'.*add, mul"),
      ({"impl": "cuda"}, "unknown impl 'cuda'"),
    )
    for options, message in cases:
      with self.assertRaisesRegex(ValueError, message):
        _attend(q, k, v, g, **options)
    with self.assertRaisesRegex(ValueError, r"gate \(2, 9, 3, 8\) does not broadcast"):
      gates.apply(q, g[:, :, :3])


class LayerTest(parameterized.TestCase):
  @parameterized.parameters(
    *itertools.product(gated_attention.POSITIONS, ("headwise", "elementwise"))
  )
  def test_definition(self, gate_at, gate):
    layer, x = _random(_layer(gate_at=gate_at, gate=gate)), _x()
    q, k, v = layer.qkv.heads(x)
    opened = jax.nn.sigmoid(layer.gate.values(x))
    wide = {"sdpa": (4, 4), "value": (2, 4), "key": (2, 4), "query": (4, 4)}
    shape = wide.get(gate_at, (16,))
    shape = shape if gate == "elementwise" else (*shape[:-1], 1)
    self.assertEqual(opened.shape, (2, 9, *shape))
    if gate_at == "query":
      q = q * opened
    if gate_at == "key":
      k = k * opened
    if gate_at == "value":
      v = v * opened
    q, k = layer.qkv.rotate(q, k, jnp.arange(9))
    out = dot_product.reference(q, k, v, causal=True)
    y = layer.out(out * opened if gate_at == "sdpa" else out)
    y = y * opened if gate_at == "output" else y
    _close(jax.jit(lambda layer, x: layer(x))(layer, x), y)

  @parameterized.parameters(*gated_attention.POSITIONS)
  def test_decoding_is_the_whole(self, gate_at):
    layer, x = _random(_layer(gate_at=gate_at, gate="headwise")), _x()
    step = jax.jit(lambda x, cache: layer.step(x, cache))
    cache, parts = layer.init_cache(2, 9), []
    for a, b in ((0, 4), *((i, i + 1) for i in range(4, 9))):
      y, cache = step(x[:, a:b], cache)
      parts.append(y)
    _close(jnp.concatenate(parts, axis=1), jax.jit(lambda x: layer(x))(x))

  def test_the_cache_holds_gated_values(self):
    layer, x = _random(_layer(gate_at="value")), _x()
    _, cache = layer.step(x, layer.init_cache(2, 9))
    values = layer.qkv.value(x) * jax.nn.sigmoid(layer.gate.values(x))
    _close(cache.v, values)

  @parameterized.parameters("sdpa", "output")
  def test_a_gate_of_zeros_halves_the_layer(self, gate_at):
    for from_input in (True, False):
      layer = _random(_layer(gate_at=gate_at, from_input=from_input))
      layer.gate.values = jax.tree.map(jnp.zeros_like, layer.gate.values)
      got, layer.gate = layer(_x()), None
      _close(got, layer(_x()) / 2)

  def test_no_gate_is_the_baseline(self):
    layer = _layer(gate="none")
    plain = dot_product.Layer(
      16, form="causal", heads=4, kv_heads=2, qk_norm=True, rngs=nnx.Rngs(0)
    )
    self.assertEqual(jax.tree.structure(layer.qkv), jax.tree.structure(plain.qkv))
    _close(layer(_x()), plain(_x()))

  def test_the_weights_are_those_before_the_gate(self):
    layer = _random(_layer())
    weights = contract.weights(layer, _x())
    _close(weights.sum(-1), jnp.ones((2, 4, 9)))
    layer.gate = None
    np.testing.assert_array_equal(contract.weights(layer, _x()), weights)

  def test_a_gate_of_the_input_alone_is_not_linear(self):
    # With equal scores, an ungated layer is one linear map of its input.
    for gate, linear in (("none", True), ("headwise", False), ("elementwise", False)):
      layer, x = _random(_layer(gate=gate)), _x()
      layer.qkv.query.kernel = nnx.Param(jnp.zeros((16, 4, 4)))
      gap = jnp.abs(layer(2 * x) - 2 * layer(x)).max()
      self.assertEqual(bool(gap < 1e-4), linear)

  def test_the_gate_reads_the_token_of_its_position(self):
    x = _x()
    other = x.at[:, 0].add(1.0)
    for gate_at, moved in (("sdpa", False), ("value", True)):
      layer = _random(_layer(gate_at=gate_at, rope_theta=0.0))
      read = layer.gate.values
      # What changes if only the gate of the first token reads another token?
      layer.gate.values = lambda _, read=read: read(other)
      changed, layer.gate.values = layer(x), read
      later = jnp.abs(changed - layer(x))[:, 1:].max()
      self.assertEqual(bool(later > 1e-3), moved)

  def test_shared_and_constant_gates(self):
    shared = _layer(share_heads=True, gate="elementwise")
    self.assertEqual(shared.gate.values.kernel.shape, (16, 1, 4))
    constant = _random(_layer(from_input=False, gate="headwise"))
    self.assertEqual(constant.gate.values.value.shape, (4, 1))
    plain = _layer(gate="none")
    plain.qkv, plain.out = constant.qkv, constant.out
    head = jax.nn.sigmoid(constant.gate.values.value[...])
    kernel = plain.out.kernel[...]
    plain.out.kernel = nnx.Param(kernel * head[:, :, None])
    want = plain(_x())
    plain.out.kernel = nnx.Param(kernel)
    _close(constant(_x()), want)

  def test_the_start(self):
    layer: Any = gated_attention.Layer(256, form="causal", heads=4, rngs=nnx.Rngs(0))
    kernel = layer.gate.values.kernel[...]
    self.assertIsNone(layer.gate.values.bias)
    self.assertBetween(float(kernel.std()), 0.0195, 0.0205)
    self.assertEqual(_layer(qkv_bias=True).gate.values.bias.shape, (4, 4))

  @parameterized.parameters(
    ({"gate": "head"}, "unknown gate 'head'.*did you mean headwise"),
    ({"gate_at": "values"}, "unknown gate_at 'values'.*did you mean value"),
    ({"form": "casual"}, "unknown form 'casual'.*did you mean causal"),
    ({"act": "relu"}, "unknown act 'relu'"),
    ({"combine": "times"}, "unknown combine 'times'"),
    ({"share_heads": True, "gate_at": "output"}, "share_heads: gate_at 'output'"),
    ({"kv_heads": 3}, "heads = 4 do not divide by kv_heads = 3"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _layer(**options)

  def test_refusals(self):
    with self.assertRaisesRegex(NotImplementedError, "'sequence' does not decode"):
      _layer(form="sequence").init_cache(2, 9)
    image = jnp.zeros((1, 3, 3, 16))
    with self.assertRaisesRegex(NotImplementedError, "'image' takes no valid"):
      _layer(form="image")(image, valid=jnp.ones((1, 9), bool))


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
