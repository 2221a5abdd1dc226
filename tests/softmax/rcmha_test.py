"""RCMHA beyond the contract: NumPy by hand, memories, kinds, options, blocks, model."""

import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.nn.segment_memory import SegmentMemory
from attnjax.variants.softmax import dot_product, rcmha
from attnjax.variants.softmax.rcmha import attention, blocks
from attnjax.variants.softmax.rcmha.convolution import HeadConvolution
from attnjax.variants.softmax.rcmha.distances import Distances

_SHAPES = {"q": (2, 5, 2, 4), "k": (2, 8, 2, 4), "v": (2, 8, 2, 3), "u": (2, 4)}
_SHAPES |= {"w": (2, 4), "rel_k": (6, 2, 4), "rel_b": (6, 2)}


def _arrays() -> Any:
  draw = np.random.default_rng(3).standard_normal
  return {n: jnp.asarray(draw(shape), jnp.float32) for n, shape in _SHAPES.items()}


def _by_hand(q, k, v, u, w, rel_k, rel_b, distance, seen, scale):
  """The formula of the paper's code, pair by pair, in float64."""
  q, k, v, u, w, rel_k, rel_b = (
    np.asarray(x, np.float64) for x in (q, k, v, u, w, rel_k, rel_b)
  )
  out = np.zeros((*q.shape[:3], v.shape[3]))
  for b, t, n in np.ndindex(*q.shape[:3]):
    score = np.full(k.shape[1], -np.inf)
    for s in range(k.shape[1]):
      if seen[b, t, s]:
        d = min(max(distance[b, t, s], 0), len(rel_k) - 1)
        score[s] = (q[b, t, n] + u[n]) @ k[b, s, n]
        score[s] += (q[b, t, n] + w[n]) @ rel_k[d, n] + rel_b[d, n]
    weight = np.exp(scale * (score - score.max()))
    out[b, t, n] = weight @ v[b, :, n] / weight.sum()
  return out


def _filled(build) -> Any:
  """A module whose weights are all drawn large, so that no part is near its start."""
  leaves, tree = jax.tree.flatten(jax.eval_shape(build))
  draw = np.random.default_rng(0).standard_normal
  drawn = [jnp.asarray(0.5 * draw(x.shape), jnp.float32) for x in leaves]
  return jax.tree.unflatten(tree, drawn)


def _layer(**options) -> Any:
  options = {"heads": 2, "max_distance": 6} | options
  return _filled(lambda: rcmha.Layer(8, rngs=nnx.Rngs(0), **options))


def _x(tokens=9):
  draw = np.random.default_rng(5).standard_normal
  return jnp.asarray(draw((2, tokens, 8)), jnp.float32)


def _memory(x) -> SegmentMemory:
  return SegmentMemory(x, jnp.zeros(x.shape[:2], jnp.int32))


@jax.jit
def _run(layer, x, memory=None):
  return layer(x, memory=memory)


class FunctionTest(parameterized.TestCase):
  def test_by_hand_with_positions_mask_and_short_tables(self):
    arrays, T, S = _arrays(), 5, 8
    positions, keys = np.array([[9, 9, 12, 13, 20]]), 2 * np.arange(8)[None]
    distance = np.broadcast_to(positions[:, :, None] - keys[:, None], (2, T, S))
    mask = np.random.default_rng(0).random((2, 1, T, S)) < 0.8
    mask[..., :2] = True
    seen = mask[:, 0] & (np.arange(S) <= np.arange(T)[:, None] + 2)
    want = _by_hand(**arrays, distance=distance, seen=seen, scale=0.7)
    options = {"positions": positions, "kv_positions": keys, "mask": mask}
    options = jax.tree.map(jnp.asarray, options)
    for impl in ("xla", "reference"):
      run = functools.partial(rcmha.attend, offset=2, scale=0.7, impl=impl)
      _close(jax.jit(run)(**arrays, **options), want)

  def test_by_hand_at_any_offset(self):
    arrays, T, S = _arrays(), 5, 8
    traced = jax.jit(rcmha.attend)
    for offset in (-3, 2, 9):
      distance = offset + np.arange(T)[:, None] - np.arange(S)
      distance = np.broadcast_to(distance, (2, T, S))
      seen = distance >= 0
      with np.errstate(invalid="ignore"):
        want = _by_hand(**arrays, distance=distance, seen=seen, scale=0.5)
      want[~seen.any(-1)] = 0
      _close(traced(**arrays, offset=offset), want)

  def test_blocks_of_queries_are_the_whole(self):
    arrays, mask = _arrays(), np.random.default_rng(0).random((2, 1, 5, 8)) < 0.8
    packed: dict[str, Any] = {
      "segment_ids": jnp.array([[0, 0, 1, 1, 1], [2, 2, 2, -1, -1]]),
      "kv_segment_ids": jnp.array([[0] * 4 + [1] * 4, [2] * 6 + [-1] * 2]),
      "mask": jnp.asarray(mask),
      "dropout_key": jax.random.key(0),
    }
    places = {"positions": jnp.array([[9, 9, 12, 13, 20]])}
    places["kv_positions"] = 2 * jnp.arange(8)[None]
    for given, rate in ((packed, 0.3), (places, 0.0)):
      run = functools.partial(rcmha.attend, dropout_rate=rate, return_lse=True)
      want = jax.jit(lambda **x: run(**x))(**arrays, **given)  # noqa: B023
      with mock.patch.multiple(blocks, PAIRS=64, ROWS=2):
        got = jax.jit(lambda **x: run(**x))(**arrays, **given)  # noqa: B023
      jax.tree.map(_close, got, want)

  def test_no_array_of_all_pairs_is_held(self):
    def peak(T):
      shapes = [jax.ShapeDtypeStruct((1, T, 1, 4), jnp.float32)] * 3
      table = jax.ShapeDtypeStruct((T, 1, 4), jnp.float32)

      def loss(q, k, v, table):
        return jnp.sum(rcmha.attend(q, k, v, rel_k=table, impl="xla"))

      compiled = jax.jit(jax.grad(loss, (0, 3))).lower(*shapes, table).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    with mock.patch.object(blocks, "PAIRS", 2**18):
      self.assertLess(peak(4096), 4096**2)  # bytes: a quarter of one array of pairs

  def test_dropout(self):
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 90, 1, 4))
    eye = jnp.eye(90)[None, :, None]
    drop = {"dropout_rate": 0.25, "dropout_key": jax.random.key(1)}
    run = functools.partial(rcmha.attend, q, k, eye)
    whole, dropped = jax.jit(lambda: (run(), run(**drop)))()
    _close(dropped, jnp.where(dropped != 0, whole / 0.75, 0))
    share = float((dropped != 0).sum() / (whole != 0).sum())
    self.assertAlmostEqual(share, 0.75, delta=0.03)
    with self.assertRaisesRegex(NotImplementedError, "'reference' takes no dropout"):
      run(**drop, impl="reference")
    with self.assertRaisesRegex(ValueError, "0.25 needs a dropout_key"):
      run(dropout_rate=0.25)

  def test_errors(self):
    for changes, message in (
      ({"u": (2, 3)}, r"u has the shape \(2, 3\); it must be \(N, H\) \(2, 4\)"),
      ({"rel_k": (6, 4)}, r"rel_k has the shape \(6, 4\)"),
      ({"rel_b": (5, 2)}, "rel_k has 6 distances, rel_b has 5"),
      ({"k": (2, 8, 1, 4), "v": (2, 8, 1, 3)}, "1 heads of k, 2 of q"),
      ({"rel_k": None}, "w without rel_k"),
    ):
      given = {
        name: shape if shape is None else jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in (_SHAPES | changes).items()
      }
      biases = {name: given.pop(name) for name in ("u", "w")}
      with self.assertRaisesRegex(ValueError, message):
        jax.eval_shape(lambda g, b: attention.check(**g, biases=b), given, biases)
    q, k, short = (jnp.zeros((2, n, 2, 4)) for n in (5, 8, 1))
    wrong = jnp.zeros((3, 5), jnp.int32), jnp.zeros((2, 5)), jnp.zeros((2, 8), int)
    for places, message in zip(wrong, (r"positions has the shape \(3, 5\)", "float32")):
      with self.assertRaisesRegex(ValueError, message):
        attention.check_positions(q, k, places, short)
    with self.assertRaisesRegex(ValueError, "kv_positions without positions"):
      attention.check_positions(q, k, None, wrong[2])


class LayerTest(parameterized.TestCase):
  def test_neutral_parameters_are_dot_product_attention(self):
    layer, x = _layer(linear_bias="all"), _x()
    plain: Any = _filled(
      lambda: dot_product.Layer(
        8, form="causal", heads=2, rope_theta=0.0, qkv_bias=True, rngs=nnx.Rngs(0)
      )
    )
    plain.qkv.query, plain.qkv.key = layer.heads.query, layer.heads.key
    plain.qkv.value, plain.out = layer.heads.value, layer.out
    layer.distances = jax.tree.map(jnp.zeros_like, layer.distances)
    for convolution in layer.heads.convolutions.values():
      kernel = jnp.zeros_like(convolution.kernel[...]).at[0].set(1)
      convolution.kernel = nnx.Param(kernel)
      if convolution.bias is not None:
        convolution.bias = nnx.Param(jnp.zeros(4))
    q, k, v = plain.qkv.heads(x)
    want = plain.out(dot_product.reference(q, k, v, causal=True))
    _close(_run(layer, x), want)

  def test_two_segments_are_one_row_from_the_third_query_on(self):
    x, layer = _x(), _layer()
    whole = _run(layer, x)[:, 5:]
    got = _run(layer, x[:, 5:], _memory(x[:, :5]))
    _close(got[:, 2:], whole[:, 2:])
    self.assertGreater(np.abs(got - whole)[:, :2].max(axis=(0, 2)).min(), 1e-3)

  def test_decoding_is_the_whole(self):
    layer, x = _layer(kind="rmha"), _x()
    step = jax.jit(lambda layer, x, cache: layer.step(x, cache))
    cache, parts = layer.init_cache(2, 9), []
    for first, last in ((0, 3), (3, 6), (6, 9)):
      y, cache = step(layer, x[:, first:last], cache)
      parts.append(y)
    _close(jnp.concatenate(parts, axis=1), _run(layer, x))
    with self.assertRaisesRegex(NotImplementedError, "positions"):
      layer.step(x, cache, positions=jnp.arange(9))

  def test_only_distances_count_and_those_above_the_greatest_are_it(self):
    layer, x = _layer(kind="rmha", max_distance=3), _x()
    run = jax.jit(lambda layer, x, positions: layer(x, positions=positions))
    places = jnp.arange(9)
    plain = _run(layer, x)
    _close(run(layer, x, places + 1000), plain)
    # To tokens from the third on the first one is at the greatest distance in any case.
    got = run(layer, x, places.at[0].set(-50))
    _close(got[:, 3:], plain[:, 3:])
    self.assertGreater(np.abs(got - plain)[:, 1:3].max(), 1e-3)

  def test_shared_queries_and_keys_by_hand(self):
    layer, x = _layer(kind="mdha", shared_qk=True, conv_width=4), _x()
    q, k, _ = layer.heads(x, None, 9, False)
    raw = np.einsum("btd,dnh->btnh", x, layer.heads.key.kernel[...])
    filters = layer.heads.convolutions["key"].kernel[...]
    want = sum(
      filters[i] * np.pad(raw, ((0, 0), (i, 0), (0, 0), (0, 0)))[:, :9]
      for i in range(4)
    )
    _close(k, want)
    _close(q, np.einsum("btnh,nhmk->btmk", want, layer.heads.query.kernel[...]))
    self.assertNotIn("query", layer.heads.convolutions)

  def test_the_start(self):
    own: Any = rcmha.Layer(800, heads=2, max_distance=1, rngs=nnx.Rngs(0))
    for x in jax.tree.leaves(own.distances):
      np.testing.assert_array_equal(x, 0)
    for x in jax.tree.leaves(own.heads.convolutions):
      self.assertBetween(float(np.abs(x).max()), 0.57, 3**-0.5)
    primer = HeadConvolution(4, 2, 3, shared=False, rngs=nnx.Rngs(0))
    self.assertIsNone(primer.bias)
    _close(primer.kernel[...], np.full((3, 4, 2), [[[1 / 2]], [[1 / 6]], [[1 / 6]]]))
    drawn = Distances(8, 2, 4, kind="sinusoids", most=3, own=True, rngs=nnx.Rngs(0))
    self.assertGreater(np.abs(drawn.w[...]).max(), 0)

  def test_parameters_of_each_kind(self):
    def biased(kind, bias):
      layer: Any = jax.eval_shape(
        lambda: rcmha.Layer(8, kind=kind, linear_bias=bias, rngs=nnx.Rngs(0))
      )
      parts = {n: getattr(layer.heads, n) for n in ("query", "key", "value")}
      parts["out"] = layer.out
      return [name for name, part in parts.items() if part.bias is not None], layer

    for kind in rcmha.KINDS:
      names, layer = biased(kind, "auto")
      self.assertEqual(names, ["value", "out"] if kind == "rcmha" else [])
      self.assertEqual(bool(layer.heads.convolutions), kind in ("rcmha", "mdha"))
      if kind == "rcmha":
        self.assertEqual(layer.distances.vectors.shape, (4097, 4, 2))
        self.assertEqual(layer.distances.biases.shape, (4097, 4))
    self.assertEqual(biased("rcmha", "none")[0], [])
    self.assertEqual(biased("mha", "all")[0], ["query", "key", "value", "out"])

  def test_filters_are_shared_or_not_as_asked(self):
    for kind in ("rcmha", "mdha"):
      for filters, heads in (("shared", 1), ("apart", 2)):
        layer = _layer(kind=kind, filters=filters)
        self.assertEqual(layer.heads.convolutions["key"].kernel.shape, (3, heads, 4))

  def test_errors(self):
    for options, message in (
      ({"kind": "rmh"}, "unknown kind 'rmh'.*did you mean rmha"),
      ({"filters": "one"}, "unknown filters 'one'"),
      ({"linear_bias": "some"}, "unknown linear_bias 'some'"),
      ({"form": "image"}, "unknown form 'image'"),
      ({"conv_width": 0}, "conv_width = 0"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        _layer(**options)
    with self.assertRaisesRegex(ValueError, "own_biases = False: u and w are missing"):
      jax.eval_shape(_layer(own_biases=False), _x())
    with self.assertRaisesRegex(NotImplementedError, "positions: a memory keeps none"):
      _layer().project(_x(), memory=_memory(_x()), positions=jnp.arange(9))


class ModelTest(parameterized.TestCase):
  @parameterized.parameters((True, 1), (False, 2))
  def test_blocks_norms_and_memory_by_hand(self, norm_first, depth):
    options = {"dim": 8, "depth": depth, "hidden": 12, "memory": 4, "heads": 2}
    options |= {"kind": "rmha", "tied_biases": True, "activation": "squared_relu"}
    options |= {"norm_first": norm_first, "dropout": 0.5}
    model = _filled(lambda: rcmha.TransformerXL(11, rngs=nnx.Rngs(0), **options))
    tokens = np.random.default_rng(0).integers(0, 11, (2, 6))
    run = jax.jit(lambda model, *x: model(*x))
    memory = run(model, jnp.asarray(tokens), model.init_memory(2))[1]
    got, after = run(model, jnp.asarray(tokens[:, ::-1]), memory)
    first, embedding = (
      model.blocks[0].attention.distances,
      _array(model.embed, "embedding"),
    )
    x = embedding[tokens[:, ::-1]]
    _close(memory[0].x, embedding[tokens[:, 2:]])
    for block, old in zip(model.blocks, memory):
      seen, kept = x, np.asarray(old.x)
      if norm_first:
        seen, kept = _norm(x, block.norm), _norm(kept, block.norm)
      kept = SegmentMemory(jnp.asarray(kept), old.segment_ids)
      y = _attended(block.attention, jnp.asarray(seen), kept, (first.u, first.w))
      x = x + y if norm_first else _norm(x + y, block.norm)
      y = _norm(x, block.feed_norm) if norm_first else x
      y = _linear(np.maximum(_linear(y, block.up), 0) ** 2, block.down)
      x = x + y if norm_first else _norm(x + y, block.feed_norm)
    x = _norm(x, model.norm) if norm_first else x
    _close(got, _linear(x, model.head))
    self.assertEqual([m.x.shape for m in after], [(2, 4, 8)] * depth)
    for block in model.blocks[1:]:
      self.assertIsNone(block.attention.distances.u)

  def test_published_sizes(self):
    model = jax.eval_shape(lambda: rcmha.TransformerXL(65, rngs=nnx.Rngs(0)))
    self.assertLen(model.blocks, 6)
    self.assertEqual(model.blocks[0].up.kernel.shape, (128, 256))
    self.assertEqual(model.blocks[5].attention.distances.vectors.shape, (4097, 8, 16))
    self.assertEqual((model.memory, model.blocks[0].dropout), (32, 0.0))

  def test_dropout_depends_on_its_key(self):
    options = {"dim": 8, "depth": 1, "hidden": 8, "heads": 2, "max_distance": 9}
    model = _filled(
      lambda: rcmha.TransformerXL(11, dropout=0.5, rngs=nnx.Rngs(0), **options)
    )
    tokens = jnp.arange(6)[None]
    run = jax.jit(lambda model, key: model(tokens, model.init_memory(1), key=key)[0])
    one, other = (run(model, jax.random.key(i)) for i in (0, 1))
    self.assertGreater(np.abs(one - other).max(), 1e-2)
    kept = model.blocks[0]._drop(jnp.ones(999), jax.random.key(0))
    np.testing.assert_array_equal(np.unique(kept), [0, 1 / (1 - 0.5)])


@jax.jit
def _attended(layer, x, memory, biases):
  heads = layer.project(x, memory=memory, biases=biases)
  return layer.merge(layer.mix(heads), heads)


def _array(part, name):
  return np.asarray(getattr(part, name)[...])


def _linear(x, part):
  return x @ _array(part, "kernel") + _array(part, "bias")


def _norm(x, part):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-5) * _array(part, "scale") + _array(part, "bias")


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
