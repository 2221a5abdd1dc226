"""The GPU kernels, in Triton's interpreter, against the definition."""

# ruff: noqa: E402, I001
from tests import simulate  # first: sets TRITON_INTERPRET

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core.scalar_functions import elementwise
from attnjax.core.masks import Schedule
from attnjax.core.scores import Program
from attnjax.core import softmax
from pallas_kernels.flash import triton_gpu
from pallas_kernels.flash.triton_gpu import Tile, Tiles, launch
from tests import definition, precision

SMALL = Tiles(Tile(32, 32, 4, 2, 16), Tile(32, 32, 4, 2, 16), Tile(32, 32, 4, 2, 32))


def program(operands=(), score=None, seen=None, keep=None):
  """A Program of functions of (raw, t, s, *operands) or (t, s, *operands)."""
  wide = [jnp.float32 if jnp.issubdtype(o.dtype, jnp.floating) else o.dtype
          for o in operands]  # fmt: skip
  parts = {}
  for name, function in (("score", score), ("seen", seen), ("keep", keep)):
    fixed = ["int32", "int32"] if name != "score" else ["float32", "int32", "int32"]
    if function is not None:
      parts[name] = elementwise(function, fixed, wide)
  return Program(tuple(operands), **parts)


def apply(part, operands, first, T, S):
  """The part on the whole (B, N, T, S)."""
  t, s = jnp.arange(T)[:, None], jnp.arange(S)[None, :]
  given = [operands[i] for i in part.operands]
  given = [o.astype(jnp.float32) if jnp.issubdtype(o.dtype, jnp.floating) else o
           for o in given]  # fmt: skip
  return part(*first, t, s, *given)


def reference(q, k, v, sinks, p, *, scale):
  """The definition, dense, in float32."""
  q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
  group = q.shape[2] // k.shape[2]
  k, v = jnp.repeat(k, group, 2), jnp.repeat(v, group, 2)
  T, S = q.shape[1], k.shape[1]
  score = scale * jnp.einsum("btnh,bsnh->bnts", q, k, precision="highest")
  seen = jnp.ones(score.shape, bool)
  if p.score is not None:
    score = apply(p.score, p.operands, [score], T, S)
  if p.seen is not None:
    seen = jnp.broadcast_to(apply(p.seen, p.operands, [], T, S), score.shape)
  score = jnp.where(seen, score, -jnp.inf)
  top = jnp.max(score, -1, keepdims=True)
  if sinks is not None:
    top = jnp.maximum(top, sinks[:, None, None])
  top = jax.lax.stop_gradient(jnp.where(jnp.isneginf(top), 0.0, top))
  weight = jnp.where(seen, jnp.exp(jnp.where(seen, score, 0.0) - top), 0.0)
  total = weight.sum(-1, keepdims=True)
  if sinks is not None:
    total += jnp.exp(sinks[:, None, None] - top)
  lse = jnp.where(total == 0, -jnp.inf, top + jnp.log(jnp.where(total == 0, 1, total)))
  weight = weight / jnp.where(total == 0, 1, total)
  if p.keep is not None:
    weight = weight * apply(p.keep, p.operands, [], T, S)
  out = jnp.einsum("bnts,bsnv->btnv", weight, v, precision="highest")
  return out, lse[..., 0].swapaxes(1, 2)


def dense_seen(p, B, N, T, S):
  if p.seen is None:
    return np.ones((1, 1, T, S), bool)
  seen = np.asarray(apply(p.seen, p.operands, [], T, S))
  return np.broadcast_to(seen, (1,) * (4 - seen.ndim) + seen.shape)


def schedule(seen, blocks):
  """Lists of the blocks of a dense mask (R_b, R_n, T, S)."""
  (block_q, block_k), (T, S) = blocks, seen.shape[2:]
  pads = ((0, 0), (0, 0), (0, -T % block_q), (0, -S % block_k))
  some = np.pad(seen, pads)
  # Rows beyond T do not matter; keys beyond S must not be seen.
  all_ = np.pad(np.pad(seen, (*pads[:2], pads[2], (0, 0)), constant_values=True),
                (*pads[:2], (0, 0), pads[3]))  # fmt: skip
  shape = (*seen.shape[:2], some.shape[2] // block_q, block_q, -1, block_k)
  some = some.reshape(shape).any((3, 5))
  full = all_.reshape(shape).all((3, 5)) & some
  lists = lists_of(some, full), lists_of(some.swapaxes(2, 3), full.swapaxes(2, 3))
  return Schedule(*lists[0], *lists[1], block_q=block_q, block_k=block_k)


def lists_of(some, full):
  order = np.argsort(np.where(full, 0, np.where(some, 1, 2)), axis=-1, kind="stable")
  count = some.sum(-1)
  length = max(1, int(count.max()))
  place = np.minimum(np.arange(length), np.maximum(count - 1, 0)[..., None])
  index = np.take_along_axis(order, place, -1)
  index = np.where(count[..., None] == 0, 0, index)
  return tuple(jnp.asarray(x, jnp.int32) for x in (index, full.sum(-1), count))


def draw(shape, dtype="float32", seed=0):
  B, T, S, N, K, H, V = shape
  keys = jax.random.split(jax.random.key(seed), 5)
  shapes = (B, T, N, H), (B, S, K, H), (B, S, K, V), (B, T, N, V), (B, T, N)
  return [jax.random.normal(*x, dtype) for x in zip(keys, shapes)]


def causal(t, s, *_):
  return s <= t


def run(q, k, v, g, dlse, sinks, p, scale, tiles, seen=None):
  """Everything that the kernels compute, on blocks with what is seen."""
  B, T, N, _ = q.shape
  seen = dense_seen(p, B, N, T, k.shape[1]) if seen is None else seen
  lists = schedule(seen, tiles.forward_blocks), schedule(seen, tiles.backward_blocks)
  with simulate.accelerators():
    given = dict(scale=scale, tiles=tiles)
    out, top, total = triton_gpu.forward(q, k, v, sinks, p, lists[0], **given)
    lse = softmax.logarithm(top, total)
    delta = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), -1) - dlse
    delta = jnp.where(total == 0, 0.0, delta)
    dq, dk, dv, operands = triton_gpu.backward(
      q, k, v, g, top, total, delta, p, lists[1], **given
    )
  return out, lse, dq, dk, dv, operands


def normal(*shape, seed=7):
  return jax.random.normal(jax.random.key(seed), shape)


def alibi(B, N, T, S):
  slopes = 2.0 ** -jnp.arange(1.0, N + 1)[None, :, None, None]
  return program([slopes], score=lambda x, t, s, m: x - m * jnp.abs(t - s), seen=causal)


def documents(B, N, T, S):
  query = (jnp.arange(T) // 9)[None, None, :, None] * jnp.ones((B, 1, 1, 1), int)
  key = (jnp.arange(S) // 11)[None, None, None, :] + jnp.arange(B)[:, None, None, None]
  operands = [query.astype(jnp.int32), key.astype(jnp.int32)]
  return program(operands, seen=lambda t, s, a, b: (a == b) & (s <= t))


def biases(B, N, T, S):
  """A bias of every kind, and one that nothing reads."""
  shapes = [(B, N, T, S), (1, 1, T, S), (1, N, T, 1), (B, 1, 1, S), (1, 1, 1, 1)]
  operands = [normal(*shape, seed=i) for i, shape in enumerate([*shapes, (1, N, 1, 1)])]
  return program(
    operands, score=lambda x, t, s, a, b, c, d, e, unread: x * (1 + e) + a + b * c + d
  )


def softcap(B, N, T, S):
  return program(score=lambda x, t, s: 2.0 * jnp.tanh(x / 2.0), seen=causal)


def dropout(B, N, T, S):
  """Factors from a hash, and one that is learnt: it has a gradient too."""
  seed = jnp.arange(N, dtype=jnp.uint32)[None, :, None, None]

  def keep(t, s, seed, gain):
    x = (t.astype(jnp.uint32) * np.uint32(2654435761)) ^ (s.astype(jnp.uint32) + seed)
    x = (x ^ (x >> 15)) * np.uint32(2246822519)
    return jnp.where(x ^ (x >> 13) < np.uint32(3 << 30), gain, 0.0)

  return program([seed, 1.0 + normal(1, N, T, 1)], seen=causal, keep=keep)


def learnt_everywhere(B, N, T, S):
  """One operand in the score and in the factor; its derivative is infinite at 0."""
  gate = jnp.abs(normal(B, 1, 1, S)) + 0.1

  def score(x, t, s, gate):
    return x + jnp.sqrt(jnp.where(s <= t, gate, 0.0) + 0.0 * t)

  return program([gate], score=score, seen=causal, keep=lambda t, s, gate: gate)


def booleans(B, N, T, S):
  array = (normal(B, 1, T, S) > 0).astype(jnp.int8)
  return program([array], seen=lambda t, s, a: a != 0)


def heads_differ(B, N, T, S):
  widths = (jnp.arange(N, dtype=jnp.int32) * 12)[None, :, None, None]
  return program([widths], seen=lambda t, s, w: jnp.abs(t - s) <= w)


PROGRAMS = {
  f.__name__: f
  for f in (
    alibi, documents, biases, softcap, dropout, learnt_everywhere, booleans,
    heads_differ,
  )
}  # fmt: skip


class TritonTest(parameterized.TestCase):
  def compare(self, shape, p, sinks=None, tiles=SMALL, scale=None):
    q, k, v, g, dlse = draw(shape)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    floats = [
      i for i, o in enumerate(p.operands) if jnp.issubdtype(o.dtype, np.inexact)
    ]

    def loss(q, k, v, moving):
      operands = list(p.operands)
      for i, value in zip(floats, moving):
        operands[i] = value
      out, lse = reference(
        q, k, v, sinks, dataclasses.replace(p, operands=operands), scale=scale
      )
      finite = jnp.where(jnp.isneginf(lse), 0.0, lse)
      return jnp.sum(out * g) + jnp.sum(finite * dlse), (out, lse)

    moving = [p.operands[i].astype(jnp.float32) for i in floats]
    grads, (out, lse) = jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))(
      q, k, v, moving
    )
    got = run(q, k, v, g, dlse, sinks, p, scale, tiles)
    self.assertEqual([x.dtype for x in got[:5]], [v.dtype, np.float32] + [q.dtype] * 3)
    rounding = dict(rtol=1e-4, atol=2e-5)
    names = ("out", "lse", "dq", "dk", "dv")
    for name, have, want in zip(names, got, (out, lse, *grads[:3])):
      np.testing.assert_allclose(
        np.asarray(have, np.float32), want, err_msg=name, **rounding
      )
    self.assertEqual([i for i, o in enumerate(got[5]) if o is not None], floats)
    for i, want in zip(floats, grads[3]):
      np.testing.assert_allclose(got[5][i], want, err_msg=f"operand {i}", **rounding)

  @parameterized.parameters(
    (1, 1, 1, 1, 1, 16, 16),
    (1, 7, 7, 1, 1, 16, 16),
    (2, 63, 63, 1, 1, 16, 16),
    (1, 65, 65, 2, 1, 20, 24),
    (1, 64, 64, 3, 1, 48, 80),
    (2, 33, 70, 1, 1, 16, 8),
    (1, 70, 33, 2, 2, 16, 16),
    (1, 1, 65, 2, 1, 16, 16),
  )
  def test_causal(self, *shape):
    self.compare(shape, program(seen=causal))

  @parameterized.parameters((7, 5), (64, 64), (65, 40))
  def test_without_mask(self, T, S):
    self.compare((1, T, S, 2, 1, 16, 16), program())

  @parameterized.named_parameters(*PROGRAMS.items())
  def test_programs(self, make):
    self.compare((2, 40, 50, 2, 1, 16, 16), make(2, 2, 40, 50))

  @parameterized.parameters((1, 50), (40, 1), (1, 1))
  def test_operands_where_an_axis_has_one_element(self, T, S):
    operands = [normal(2, 3, T, S), normal(1, 3, T, 1), normal(2, 1, 1, S)]
    p = program(operands, score=lambda x, t, s, a, b, c: x * b + a * c)
    self.compare((2, T, S, 3, 1, 16, 16), p)

  @parameterized.parameters("bfloat16", "float16")
  def test_half_precision(self, dtype):
    bias = normal(1, 2, 40, 50).astype(dtype)
    p = program([bias], score=lambda x, t, s, bias: x + bias, seen=causal)
    q, k, v, g, dlse = draw((1, 40, 50, 2, 1, 32, 32), dtype)
    dlse = dlse.astype(jnp.float32)
    found = run(q, k, v, g, dlse, None, p, 0.2, SMALL)
    self.assertEqual([x.dtype for x in found[:5]], [dtype, "float32"] + [dtype] * 3)
    got = dict(zip(("out", "lse", "dq", "dk", "dv"), found)) | {"dbias": found[5][0]}
    arrays = {"q": q, "k": k, "v": v, "bias": bias, "g": g, "g_lse": dlse}
    problem = {n: np.asarray(x, np.float64) for n, x in arrays.items()}
    problem["bias"] = problem["bias"].reshape(1, 2, 40, 50)
    problem |= {"seen": np.tri(40, 50, dtype=bool), "scale": 0.2}
    want, plain = (f(problem, dtype) for f in (definition.exact, definition.plain))
    for name, part in precision.excess(got, want, plain, dtype).items():
      self.assertLessEqual(part, 1.0, name)

  @parameterized.parameters(1, 2)
  def test_a_table_that_heads_share_is_summed_in_groups(self, programs):
    table = normal(1, 1, 20, 24)
    p = program([table], score=lambda x, t, s, table: x * table, seen=causal)
    with mock.patch.object(launch, "_PROGRAMS", programs):
      members, pairs = (2, 2), 1
      self.assertEqual(launch._groups(1, pairs, members, 480), min(programs, 4))
      self.compare((2, 20, 24, 2, 1, 16, 16), p)

  def test_blocks_that_are_not_listed_give_a_table_nothing(self):
    """A mask of whole blocks is in the lists alone."""
    q, k, v, g, dlse = draw((1, 64, 64, 1, 1, 16, 16))

    def blocks(t, s, *_):
      return (t // 32 + s // 32) % 2 == 0

    table = [normal(1, 1, 64, 64)]
    masked, plain = (
      program(table, score=lambda x, t, s, b: x + b, seen=seen)
      for seen in (blocks, None)
    )
    seen = dense_seen(masked, 1, 1, 64, 64)
    results = (
      run(q, k, v, g, dlse, None, p, 0.25, SMALL, seen) for p in (masked, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, *results)

  def test_sinks(self):
    sinks = jnp.array([0.5, -1.0, 3.0, -30.0])
    nothing = program(seen=lambda t, s: (t > 3) & (s <= t))
    self.compare((1, 40, 40, 4, 2, 16, 16), nothing, sinks)

  def test_rows_that_see_nothing(self):
    p = program(seen=lambda t, s: (s <= t) & (t % 3 != 0))
    q, k, v, g, dlse = draw((1, 40, 40, 2, 1, 16, 16))
    out, lse, dq, dk, dv, _ = run(q, k, v, g, dlse, None, p, 0.25, SMALL)
    np.testing.assert_array_equal(out[:, ::3], 0.0)
    np.testing.assert_array_equal(lse[:, ::3], -np.inf)
    np.testing.assert_array_equal(dq[:, ::3], 0.0)
    self.assertTrue(all(jnp.isfinite(x).all() for x in (out, dq, dk, dv)))

  @parameterized.parameters(-0.5, 0.0)
  def test_scale_that_is_not_positive(self, scale):
    self.compare((1, 40, 40, 2, 2, 16, 16), program(seen=causal), scale=scale)

  @parameterized.parameters(
    Tiles(Tile(16, 64, 4, 2, 16), Tile(64, 16, 4, 2, 16), Tile(64, 16, 4, 2, 32)),
    Tiles(Tile(64, 16, 4, 2, 16), Tile(16, 32, 4, 2, 64), Tile(16, 64, 4, 2, 16), True),
  )
  def test_tiles(self, tiles):
    bias = normal(1, 2, 70, 90)
    p = program([bias], score=lambda x, t, s, bias: x + bias, seen=causal)
    self.compare((1, 70, 90, 2, 1, 16, 16), p, tiles=tiles)

  def test_two_runs_are_bit_equal(self):
    q, k, v, g, dlse = draw((1, 40, 40, 2, 1, 16, 16))
    p = PROGRAMS["alibi"](1, 2, 40, 40)
    first, second = (run(q, k, v, g, dlse, None, p, 0.25, SMALL) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(forward=Tile(24, 16, 4, 2, 16)), "forward.block_q is 24"),
    (dict(queries=Tile(32, 16, 3, 2, 16)), "queries.warps is 3"),
    (dict(keys=Tile(16, 32, 4, 0, 16)), "keys.stages is 0"),
    (dict(keys=Tile(16, 32, 4, 2, 16, 3)), "keys.masked_stages is 3; .* 1 to 2"),
    (dict(queries=Tile(32, 64, 4, 1, 16)), "queries.block_k is 64; .* divide"),
    (dict(keys=Tile(32, 32, 4, 1, 64)), "keys.masked is 64; .* divide"),
    (dict(forward=Tile(128, 128, 8, 5, 64)), "bytes of shared memory"),
  )
  def test_tiles(self, change, message):
    tiles = dataclasses.replace(SMALL, **change)
    with self.assertRaisesRegex(ValueError, message):
      triton_gpu.check(tiles, 128, 128, jnp.bfloat16, 80)

  @parameterized.product(
    capability=(80, 86, 89, 90, 100, 120),
    heads=((16, 16), (80, 80), (128, 128), (192, 128), (256, 256)),
    lengths=((4096, 4096), (1, 4096), (7, 5)),
  )
  def test_defaults_fit(self, capability, heads, lengths):
    tiles = triton_gpu.defaults((*lengths, *heads), jnp.bfloat16, capability)
    triton_gpu.check(tiles, *heads, jnp.bfloat16, capability)

  @parameterized.product(capability=(80, 89, 90, 100, 120), lengths=(4096, 300, 1))
  def test_defaults_hide_the_latency_of_memory(self, capability, lengths):
    """Four warps at least, and three tiles in flight in the plain kernels."""
    for size in (64, 128, 256):
      shape = lengths, 4096, size, size
      tiles = triton_gpu.defaults(shape, jnp.bfloat16, capability)
      for tile in (tiles.forward, tiles.queries, tiles.keys):
        self.assertGreaterEqual(tile.warps, 4)
        self.assertGreaterEqual(tile.stages, 3 if size == 64 else 2)
    if capability == 90:
      tiles = triton_gpu.defaults((lengths, 4096, 128, 128), jnp.bfloat16, 90)
      for tile in (tiles.forward, tiles.queries, tiles.keys):
        self.assertEqual(tile.stages, 3)

  @parameterized.parameters(
    ((4096, 256), 100, {"heavy": True}, "keys"),
    ((1, 256), 100, {}, "keys"),
    ((4096, 128), 120, {"operands": True}, "queries"),
  )
  def test_what_would_spill_has_tiles_of_its_own(self, sizes, capability, has, kernel):
    T, H = sizes
    shape, dtype = (T, 4096, H, H), jnp.bfloat16
    tiles = triton_gpu.defaults(shape, dtype, capability, **has)
    usual = triton_gpu.defaults((4096, 4096, H, H), dtype, capability)
    self.assertNotEqual(getattr(tiles, kernel), getattr(usual, kernel))
    triton_gpu.check(tiles, H, H, dtype, capability)
    if has.get("operands"):  # segments are operands: what is asked is what is passed
      q = jax.ShapeDtypeStruct((1, T, 2, H), dtype)
      p = program([jnp.zeros((1, 1, T, 1))], seen=lambda t, s, x: x > 0)
      with mock.patch.object(triton_gpu, "device", lambda: capability):
        self.assertEqual(triton_gpu.fitting(q, q, q, p), tiles)

  def test_operands_for_each_score_take_memory(self):
    tiles = triton_gpu.defaults((4096, 4096, 128, 128), jnp.bfloat16, 90)
    triton_gpu.check(tiles, 128, 128, jnp.bfloat16, 90)
    with self.assertRaisesRegex(ValueError, "forward tile .* bytes of shared memory"):
      triton_gpu.check(tiles, 128, 128, jnp.bfloat16, 90, 2)
    q = jax.ShapeDtypeStruct((1, 4096, 2, 128), jnp.bfloat16)
    for shape, dtype in (((1, 2, 64, 64), "float32"), ((1, 1, 64, 64), "int8")):
      p = program([jnp.zeros(shape, dtype)], seen=lambda t, s, x: x != 0)
      tiles = triton_gpu.fitting(q, q, q, p)
      size = jnp.dtype(dtype).itemsize
      triton_gpu.check(tiles, 128, 128, jnp.bfloat16, 90, size)

  def test_a_function_of_scores_gets_registers(self):
    plain, heavy = (
      triton_gpu.defaults((4096, 4096, 128, 128), jnp.bfloat16, 90, heavy)
      for heavy in (False, True)
    )
    self.assertLess(heavy.forward.block_k, plain.forward.block_k)
    q = jax.ShapeDtypeStruct((1, 4096, 2, 128), jnp.bfloat16)
    for p in (alibi(1, 2, 64, 64), dropout(1, 2, 64, 64)):
      self.assertEqual(triton_gpu.fitting(q, q, q, p), heavy)
    self.assertEqual(triton_gpu.fitting(q, q, q, program(seen=causal)), plain)

  @parameterized.parameters(
    (dict(dtype="int8"), "int8"),
    (dict(H=160), "H is 160; .* float32 up to 128; impl 'xla' takes any"),
    (dict(V=300, dtype="bfloat16"), "V is 300; .* bfloat16 up to 256"),
  )
  def test_arrays(self, change, message):
    H, V = change.get("H", 16), change.get("V", 16)
    q, k, v = (
      jax.ShapeDtypeStruct((1, 8, 1, size), change.get("dtype", "float32"))
      for size in (H, H, V)
    )
    with self.assertRaisesRegex(NotImplementedError, message):
      triton_gpu.supports(q, k, v, program())

  @parameterized.parameters((0, 8, 8), (1, 0, 8), (1, 8, 0), (0, 0, 0))
  def test_sizes_of_nothing_have_tiles(self, B, T, S):
    q, k = (jax.ShapeDtypeStruct((B, n, 2, 16), "bfloat16") for n in (T, S))
    for p in (program(), program(seen=causal)):
      triton_gpu.supports(q, k, k, p)
      triton_gpu.check(triton_gpu.fitting(q, k, k, p), 16, 16, jnp.bfloat16, 80)

  def test_mixed_types(self):
    q, k = (jax.ShapeDtypeStruct((1, 8, 1, 16), d) for d in ("float32", "bfloat16"))
    with self.assertRaisesRegex(NotImplementedError, "they must be one"):
      triton_gpu.supports(q, k, k, program())

  def test_primitives(self):
    q = jax.ShapeDtypeStruct((1, 8, 1, 16), "float32")
    p = program(score=lambda x, t, s: jax.lax.lgamma(x))
    with self.assertRaisesRegex(NotImplementedError, "lgamma"):
      triton_gpu.supports(q, q, q, p)


if __name__ == "__main__":
  absltest.main()
