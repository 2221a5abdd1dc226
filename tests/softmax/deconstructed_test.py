"""Deconstructed attention against NumPy, by hand, and inside the language host."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import language
from attnjax.variants.softmax import deconstructed
from attnjax.variants.softmax.deconstructed import documents, indicators, streams
from configs import lm
from experiments import build

SLUG, VOCAB, DIM, T = "deconstructed", 17, 8, 14
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (2, T)))
# All kinds, in two models, since a model has one fixed sequence.
PATTERNS = {
  "noise": ("rndemb", "staticemb", "mlp", "nonapprox"),
  "tokens": ("fixedseq", "approximate", "standard"),
}
GIVEN = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, *range(11))


def _model(*layers, repeats=1, **changes) -> Any:
  """A model with drawn parameters of (slug, options), one for each layer."""
  builds = [contract.constructor(s, {"heads": 2} | o, ("causal",)) for s, o in layers]
  sizes = {"vocab": VOCAB, "dim": DIM, "depth": len(layers) * repeats, "mlp_ratio": 1.0}
  model = language.Model(builds, **sizes | changes, rngs=nnx.Rngs(0))
  leaves, tree = jax.tree.flatten(model)
  draw = np.random.default_rng(1).standard_normal
  drawn = [np.asarray(x) + np.float32(0.3) * draw(x.shape) for x in leaves]
  return jax.tree.unflatten(tree, [jnp.asarray(x, jnp.float32) for x in drawn])


@functools.cache
def _of_kinds(name):
  options = {"fixed_tokens": GIVEN, "fixed_scale": 0.7, "fixed_seed": 3}
  return _model(
    *((SLUG, options | {"kind": kind}) for kind in PATTERNS[name]), repeats=3
  )


_call = jax.jit(lambda model, x, **context: model(x, **context))


class HostTest(parameterized.TestCase):
  @parameterized.parameters(("noise", 1), ("tokens", 5))
  def test_packed_rows_and_steps_are_what_numpy_says(self, name, size):
    # Padding on the left, between documents, and inside of one that has its place.
    model, pad = _of_kinds(name), jnp.full((1, 2), 5)
    row = jnp.concatenate([pad, TOKENS[:1, :9], pad, TOKENS[1:, :10], pad], axis=1)
    ids = jnp.array([[-1] * 2 + [4] * 9 + [-1] * 2 + [1] * 10 + [-1] * 2])
    whole = _numpy_model(model, TOKENS)
    got = _call(model, row, segment_ids=ids)
    _close(got[:, 2:11], whole[:1, :9])
    _close(got[:, 13:23], whole[1:, :10])
    cache, out = jax.jit(lambda model: model.init_cache(1, 25))(model), []
    step = jax.jit(lambda m, x, c, ids: m.step(x, c, segment_ids=ids))
    for start in range(0, 25, size):
      part = slice(start, start + size)
      logits, cache = step(model, row[:, part], cache, ids[:, part])
      out.append(logits)
    out = np.concatenate(out, axis=1)
    _close(out[:, 2:11], whole[:1, :9])
    _close(out[:, 13:23], whole[1:, :10])

  def test_trace_and_weights(self):
    kinds = "rndemb", "staticemb"
    model = _model(*((SLUG, {"kind": kind}) for kind in kinds))
    trace, plain, weights = jax.jit(
      lambda model, x: (model.trace(x).output, model(x), model.weights(x))
    )(model, TOKENS)
    _close(trace, plain)
    for own, kind in zip(map(np.asarray, weights), kinds):
      _close(own.sum(3), 1)
      self.assertEqual(np.abs(own[0] - own[1]).max() < 1e-6, kind == "rndemb")

  def test_two_segments_are_one_row(self):
    model = _model((SLUG, {"kind": "rndemb"}), conv=3)

    @jax.jit
    def run(model, tokens):
      memory = model.init_memory(2, T)
      one, memory = model(tokens[:, :8], memory=memory)
      two, _ = model(tokens[:, 8:], memory=memory)
      return jnp.concatenate([one, two], axis=1), model(tokens)

    _close(*run(model, TOKENS))

  def test_embeddings_are_the_first_hidden_states(self):
    models = [_model((SLUG, {"kind": k})) for k in ("staticemb", "standard")]
    _close(*jax.jit(lambda models, x: [m(x) for m in models])(models, TOKENS))

  def test_refusals_of_the_host(self):
    first, other = ((SLUG, {"kind": "rndemb", "fixed_seed": seed}) for seed in (0, 1))
    with self.assertRaisesRegex(ValueError, "one fixed sequence"):
      _model(first, other)(TOKENS)
    model = _of_kinds("noise")
    with self.assertRaisesRegex(NotImplementedError, "keeps no embeddings"):
      model(TOKENS, memory=model.init_memory(2, 3))
    with self.assertRaisesRegex(ValueError, "this host does not give"):
      model.stack(jnp.zeros((1, 3, DIM)))
    with self.assertRaisesRegex(NotImplementedError, "places of the fixed sequence"):
      _model(first)(TOKENS, positions=jnp.arange(T)[None])

  def test_a_config_trains_a_hybrid(self):
    pattern = deconstructed.pattern("even", 4)
    config = lm.get_config(pattern)
    config.attention.deconstructed.kind = "rndemb"
    config.model.update(dim=16, depth=4)
    config.data.update(batch=2, length=32)
    assembly = build.assemble(config)
    self.assertEqual(pattern, "deconstructed,dot_product")
    self.assertLen(assembly.state["model"].stack.blocks, 2)


class LayerTest(parameterized.TestCase):
  def test_kinds_have_as_many_weights(self):
    def count(kind):
      layer = jax.eval_shape(
        lambda: deconstructed.Layer(24, heads=3, kind=kind, rngs=nnx.Rngs(0))
      )
      return sum(leaf.size for leaf in jax.tree.leaves(layer))

    self.assertEqual({count(kind) for kind in deconstructed.KINDS}, {4 * 24**2})

  def test_a_gradient_goes_into_the_stream_unless_it_is_stopped(self):
    x, stream = jax.random.normal(jax.random.key(2), (2, 1, 5, 8))

    def slope(**options):
      options = {"kind": "rndemb", "heads": 2, "rngs": nnx.Rngs(0)} | options
      layer = deconstructed.Layer(8, **options)
      slope = jax.grad(lambda layer, s: jnp.sin(layer(x, stream=s)).sum(), 1)
      return jax.jit(slope)(layer, stream)

    self.assertGreater(np.abs(slope()).max(), 0)
    np.testing.assert_array_equal(slope(stop_gradient=True), 0)

  def test_refusals(self):
    def layer(kind, **options):
      return deconstructed.Layer(8, heads=2, kind=kind, rngs=nnx.Rngs(0), **options)

    x = jnp.zeros((2, 5, 8))
    with self.assertRaisesRegex(ValueError, "'rndemb' needs a stream"):
      layer("rndemb")(x)
    with self.assertRaisesRegex(ValueError, "'standard' takes no stream"):
      layer("standard")(x, stream=x)
    with self.assertRaisesRegex(ValueError, "L >= T"):
      layer("fixedseq")(x, stream=x[:1, :4])
    with self.assertRaisesRegex(ValueError, "one for each token"):
      layer("staticemb")(x, stream=x[:, :4])
    for kind, reason in (("mlp", "mixes no tokens"), ("nonapprox", "cancels")):
      with self.assertRaisesRegex(NotImplementedError, reason):
        layer(kind)(x, positions=jnp.arange(5))
    with self.assertRaisesRegex(NotImplementedError, "no rotation"):
      layer("standard", rope_theta=0.0)(x, positions=jnp.arange(5))

  def test_fixed_sequences(self):
    short, long = (streams.noise(n, 8, 1, 0.02) for n in (5, 700))
    np.testing.assert_array_equal(short, long[:, :5])
    self.assertAlmostEqual(float(long.std()), 0.02, delta=0.001)
    self.assertGreater(np.abs(streams.noise(5, 8, 2, 0.02) - short).max(), 1e-3)
    some, more = (streams.tokens(n, 9, 1) for n in (5, 300))
    np.testing.assert_array_equal(some, more[:5])
    self.assertEqual(set(np.asarray(more).tolist()), set(range(9)))
    np.testing.assert_array_equal(streams.tokens(3, 17, 0, GIVEN), [3, 1, 4])
    with self.assertRaisesRegex(ValueError, "fixed_tokens has 25"):
      streams.tokens(26, 17, 0, GIVEN)
    with self.assertRaisesRegex(ValueError, "from 0 to 10: of 9"):
      streams.tokens(3, 9, 0, GIVEN)

  def test_documents_and_places(self):
    ids = jnp.array([[-1, 5, 5, -1, 5, 2, 2, 5, -1], [0] * 9])
    number, place = documents.numbered(ids)
    np.testing.assert_array_equal(number[0], [-1, 0, 0, -1, 0, 1, 1, 2, -1])
    np.testing.assert_array_equal(place[0], [0, 0, 1, 0, 3, 0, 1, 0, 0])
    np.testing.assert_array_equal([number[1], place[1]], [[0] * 9, range(9)])


class FunctionTest(parameterized.TestCase):
  def test_numbers_by_hand(self):
    # Of x = 1 and x = -1 the weights are 5/2 and 1/2; of x = 0 it is 1.
    q, k = jnp.array([[[[1.0]], [[1.0]]]]), jnp.array([[[[1.0]], [[-1.0]]]])
    v = jnp.array([[[[3.0, 1.0]], [[0.0, 7.0]]]])

    @jax.jit
    def run(q, k, v, logs, great):
      taylor, gated = deconstructed.taylor_attention, deconstructed.gated_mean_attention
      given = {"causal": True}
      return (
        *(taylor(q, k, v, chunk=chunk, **given) for chunk in (0, 1, 2)),
        taylor(q, k, v, normalise="per_order", **given),
        gated(q, logs, v),
        gated(great, k, v),
        deconstructed.fixed_qk_attention(q, k, v),
      )

    logs = jnp.log(jnp.array([1.0, 3.0])).reshape(k.shape)
    great = jnp.array([900.0, -897.0]).reshape(k.shape)
    *sums, apart, gated, steep, fixed = (x[0, :, 0] for x in run(q, k, v, logs, great))
    for got in sums:
      _close(got, [[3, 1], [7.5 / 3, 6 / 3]])
    # Means of v by 1, 1; by x = 1, -1, whose sum of 0 counts 0; and by x^2 / 2.
    _close(apart, [[9, 3], [3, 8]])
    _close(gated, [[3, 1], [3 / 4, 22 / 4]])
    few, e = np.exp(-3.0), np.exp(1.0)
    _close(steep, [[3, 1], [3 / (1 + few), (1 + 7 * few) / (1 + few)]])
    # Place 1 weighs the places by e and 1 / e, whatever the tokens are.
    _close(fixed, [[3, 1], [3 * e / (e + 1 / e), (e + 7 / e) / (e + 1 / e)]])

  def test_taylor_by_numpy_and_by_chunks(self):
    q, k, v = np.random.default_rng(3).standard_normal((3, 1, 11, 2, 3), np.float32)
    x = np.einsum("btnh,bsnh->bnts", q, k) * 3**-0.5
    orders = [np.tril(w) for w in (np.ones_like(x), x, x**2 / 2)]
    own = sum(orders) / sum(orders).sum(-1, keepdims=True)
    apart = sum(w / w.sum(-1, keepdims=True) for w in orders)
    run = jax.jit(
      deconstructed.taylor_attention, static_argnames=("chunk", "normalise", "causal")
    )
    for options, weight in (
      ({"chunk": 0}, own),
      ({"chunk": 4}, own),
      ({"normalise": "per_order"}, apart),
    ):
      _close(
        run(q, k, v, causal=True, **options), np.einsum("bnts,bsnv->btnv", weight, v)
      )
    every = 1 + x[..., :5, :] + x[..., :5, :] ** 2 / 2
    every = every / every.sum(-1, keepdims=True)
    got = run(q[:, :5], k, v)
    _close(got, np.einsum("bnts,bsnv->btnv", every, v))

  def test_chunks_are_taken_where_they_cost_less(self):
    def scans(T):
      x = jax.ShapeDtypeStruct((1, T, 1, 4), jnp.float32)
      run = functools.partial(deconstructed.taylor_attention, causal=True)
      chunked = jax.make_jaxpr(run)(x, x, x)
      return "1,21,5" in str(chunked).replace(" ", "")  # a state of 1 + H + H^2 rows

    self.assertEqual([scans(32), scans(33)], [False, True])

  def test_refusals(self):
    x, run = jnp.zeros((1, 4, 1, 2)), deconstructed.taylor_attention
    for reason, options in (
      ("keep no state", {"chunk": 0, "return_state": True, "causal": True}),
      ("run in 'xla'", {"chunk": 4, "impl": "triton", "causal": True}),
      ("causal = False", {"chunk": 4}),
    ):
      with self.assertRaisesRegex(NotImplementedError, reason):
        run(x, x, x, **options)
    with self.assertRaisesRegex(ValueError, "need one length"):
      run(x, x[:, :3], x[:, :3], causal=True)
    with self.assertRaisesRegex(ValueError, "the fixed sequence has 3"):
      deconstructed.fixed_qk_attention(x[:, :3], x[:, :3], x)


class PlansTest(parameterized.TestCase):
  @parameterized.parameters(
    ("uniform", (), "d"),
    ("even", (2, 4, 6, 8), "d,s"),
    ("odd", (1, 3, 5, 7), "s,d"),
    ("top", (1, 2, 3, 4), "s,s,s,s,d,d,d,d"),
    ("middle", (1, 2, 7, 8), "s,s,d,d,d,d,s,s"),
    ("bottom", (5, 6, 7, 8), "d,d,d,d,s,s,s,s"),
    ("quarter", (4, 8), "d,d,d,s"),
    ("first", (1,), "s,d,d,d,d,d,d,d"),
    ("last", (8,), "d,d,d,d,d,d,d,s"),
    ("bilateral", (1, 8), "s,d,d,d,d,d,d,s"),
  )
  def test_plans_of_eight_layers(self, plan, kept, pattern):
    self.assertEqual(deconstructed.standard_layers(plan, 8), kept)
    self.assertEqual(deconstructed.pattern(plan, 8, simple="d", standard="s"), pattern)

  def test_a_plan_that_does_not_divide(self):
    with self.assertRaisesRegex(ValueError, "a multiple of 4"):
      deconstructed.standard_layers("middle", 6)

  def test_skip_takes_the_simple_layers_out(self):
    model = _model((SLUG, {}), (SLUG, {"kind": "standard"}), ("dot_product", {}))
    rest = deconstructed.skip(model)
    self.assertEqual((rest.stack.depth, model.stack.depth), (2, 3))

    def by_hand(model):
      x = model._embed(TOKENS)
      for index, place, block, _ in model.stack.each():
        x = block(x, index=index) if place else x
      return model._logits(x)

    run = jax.jit(lambda model, rest: (by_hand(model), rest(TOKENS)))
    _close(*run(model, rest))
    with self.assertRaisesRegex(ValueError, "every layer"):
      deconstructed.skip(_model((SLUG, {})))


class IndicatorsTest(absltest.TestCase):
  def test_by_hand(self):
    one, two = [[1, 0], [0.5, 0.5]], [[1, 0], [0.25, 0.75]]
    maps = jnp.array([[one, two]])
    by_log = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    _close(indicators.entropy(maps), [[np.log(2), by_log]])
    _close(indicators.concentration(maps), [[1.5**0.5, 1.625**0.5]])
    # Deviations 0, 0.125, 0.125 of three entries.
    _close(indicators.head_diversity(maps), [0.25 / 3])
    _close(indicators.sink(maps), [[0.75, 0.625]])
    _close(indicators.local_focus(maps, 0), [[0.75, 0.875]])
    _close(indicators.local_focus(maps, 1), [[0.5, 0.25]])


def _numpy_model(model, tokens):
  """The logits of a model of this system, with a loop over layers and the stream."""
  table = np.asarray(model.embed.embedding[...], np.float64)
  kind = model.stack.blocks[0].mixer.kind
  fixed = table[np.array(GIVEN[:T])][None]
  if kind == "rndemb":
    fixed = np.asarray(streams.noise(T, DIM, 3, 0.7), np.float64)
  x, first = table[tokens], table[tokens]
  stream, begin = fixed, fixed
  for repeat in range(3):
    for stacked in model.stack.blocks:
      block = jax.tree.map(lambda leaf, i=repeat: np.asarray(leaf[i]), stacked)
      x, stream = (
        _numpy_block(block, y, stream, e) for y, e in ((x, first), (stream, begin))
      )
  return _rms(x, model.norm.scale[...]) @ table.T


def _numpy_block(block, x, stream, embeddings):
  scale = block.norm.scale[...]
  mixed = _numpy_layer(block.mixer, *(_rms(y, scale) for y in (x, stream, embeddings)))
  x = x + mixed
  mlp, y = block.mlp, _rms(x, block.mlp_norm.scale[...])
  gate, up, down = (_array(part) for part in (mlp.gate, mlp.up, mlp.down))
  return x + (_silu(y @ gate) * (y @ up)) @ down


def _numpy_layer(layer, x, stream, embeddings):
  if layer.kind == "mlp":
    gate, up, down = (_array(part) for part in (layer.gate, layer.up, layer.down))
    return (_silu(x @ gate) * (x @ up)) @ down
  source = {"rndemb": stream, "fixedseq": stream, "staticemb": embeddings}
  source = source.get(layer.kind, x)
  q, k = (
    np.einsum("btd,dnh->btnh", source, _array(part))
    for part in (layer.qkv.query, layer.qkv.key)
  )
  v = np.einsum("btd,dnh->btnh", x, _array(layer.qkv.value))
  if layer.kind == "nonapprox":
    power = np.exp((_silu(q) * k).sum(-1) / q.shape[-1] ** 0.5)
    weight = np.tile(power.swapaxes(1, 2)[:, :, None], (1, 1, q.shape[1], 1))
  else:
    q, k = (_rotated(y) for y in (q, k))
    score = np.einsum("btnh,bsnh->bnts", q, k) / q.shape[-1] ** 0.5
    taylor = 1 + score + score**2 / 2
    weight = taylor if layer.kind == "approximate" else np.exp(score)
  weight = np.tril(weight)
  weight = weight / weight.sum(-1, keepdims=True)
  weight = np.broadcast_to(weight, (len(x), *weight.shape[1:]))
  out = np.einsum("bnts,bsnh->btnh", weight, v)
  return np.einsum("btnh,nhd->btd", out, _array(layer.out))


def _rotated(x):
  H = x.shape[-1]
  angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(0, H, 2) / H)
  turn = np.exp(1j * angle)[None, :, None] * (x[..., : H // 2] + 1j * x[..., H // 2 :])
  return np.concatenate([turn.real, turn.imag], axis=-1)


def _rms(x, scale):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(scale)


def _silu(x):
  return x / (1 + np.exp(-x))


def _array(part):
  return np.asarray(part.kernel[...], np.float64)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
