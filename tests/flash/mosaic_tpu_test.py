"""The TPU kernels in the simulator (NaN in its memory) against the definition."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import dataclasses
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax._src.pallas.mosaic.interpret import interpret_pallas_call

from attnjax import dot_product_attention
from attnjax.core.masks import Schedule
from attnjax.core.scalar_functions import elementwise
from attnjax.core.scores import Program
from pallas_kernels.flash import mosaic_tpu
from pallas_kernels.flash.mosaic_tpu import bounds, lists, tiles, unseen, walk
from pallas_kernels.flash.mosaic_tpu import operand_gradients as slopes
from tests import definition, precision

SMALL = mosaic_tpu.Tile(128, 128, 128, 128)
# Two parts each way, so that parts of a tile are told from each other.
PARTS = mosaic_tpu.Tile(128, 256, 64, 128)
TILES = mosaic_tpu.Tiles(forward=PARTS, backward=mosaic_tpu.Tile(128, 256, 128, 128))


def program(operands=(), score=None, seen=None, keep=None):
  dtypes = [
    jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype for x in operands
  ]
  places = (jnp.int32, jnp.int32)

  def traced(function, *first):
    if function is None:
      return None
    return elementwise(function, (*first, *places), dtypes)

  return Program(
    tuple(operands), traced(score, jnp.float32), traced(seen), traced(keep)
  )


def full_size(function, B, N, T, S, operands, *first):
  t, s = jnp.arange(T)[:, None], jnp.arange(S)[None, :]
  operands = [x.astype(jnp.float32) if _floating(x) else x for x in operands]
  used = [operands[i] for i in function.operands]
  return jnp.broadcast_to(function(*first, t, s, *used), (B, N, T, S))


def _floating(x):
  return jnp.issubdtype(x.dtype, jnp.floating)


def dense(program, B, N, T, S):
  if program.seen is None:
    return np.ones((1, 1, T, S), bool)
  seen = np.asarray(full_size(program.seen, B, N, T, S, program.operands))
  heads = seen if (seen != seen[:, :1]).any() else seen[:, :1]
  return heads if (heads != heads[:1]).any() else heads[:1]


def schedule(seen, tile):
  T, S = seen.shape[2:]
  nq, nk = -(-T // tile.block_q), -(-S // tile.block_k)
  rows = np.pad(seen, [(0, 0)] * 2 + [(0, nq * tile.block_q - T), (0, 0)], "edge")
  padded = np.pad(rows, [(0, 0)] * 3 + [(0, nk * tile.block_k - S)])
  blocks = padded.reshape(*seen.shape[:2], nq, tile.block_q, nk, tile.block_k)
  kind = blocks.any((3, 5)).astype(int) + blocks.all((3, 5))
  both = *entries(kind), *entries(kind.swapaxes(2, 3))
  sizes = tile.block_q, tile.block_k
  return Schedule(*both, *sizes, visits(kind), visits(kind.swapaxes(2, 3)))


def walked(blocks, q, k):
  """The schedule with walks wherever they save a step."""
  with mock.patch.multiple(walk, FORWARD=0.0, BACKWARD=0.0):
    return walk.prepared(blocks, q, k)


def visits(kind):
  return int(np.maximum((kind > 0).sum(-1), 1).sum(-1).max())


def entries(kind):
  full, count = (kind == 2).sum(-1), (kind > 0).sum(-1)
  order = np.argsort(-kind, axis=-1, kind="stable")[..., : max(1, count.max())]
  last = np.take_along_axis(order, np.maximum(count - 1, 0)[..., None], -1)
  last = np.where(count[..., None] > 0, last, 0)
  index = np.where(np.arange(order.shape[-1]) < count[..., None], order, last)
  return tuple(np.asarray(x, np.int32) for x in (index, full, count))


def reference(q, k, v, sinks, program, scale):
  B, T, N, _ = q.shape
  S, group = k.shape[1], N // k.shape[2]
  q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
  k, v = jnp.repeat(k, group, 2), jnp.repeat(v, group, 2)
  score = scale * jnp.einsum("btnh,bsnh->bnts", q, k, precision="highest")
  if program.score is not None:
    score = full_size(program.score, B, N, T, S, program.operands, score)
  if program.seen is not None:
    seen = full_size(program.seen, B, N, T, S, program.operands)
    score = jnp.where(seen, score, -jnp.inf)
  top = score.max(-1)
  if sinks is not None:
    top = jnp.maximum(top, sinks[:, None])
  top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
  weight = jnp.exp(score - top[..., None])
  total = weight.sum(-1)
  if sinks is not None:
    total = total + jnp.exp(sinks[:, None] - top)
  some = total > 0
  lse = jnp.where(some, top + jnp.log(jnp.where(some, total, 1.0)), -jnp.inf)
  weight = weight / jnp.where(some, total, 1.0)[..., None]
  if program.keep is not None:
    weight = weight * full_size(program.keep, B, N, T, S, program.operands)
  out = jnp.einsum("bnts,bsnv->btnv", weight, v, precision="highest")
  return out, lse.swapaxes(1, 2)


def logarithm(out, top, total):
  """(out, lse) of what a kernel gives."""
  return out, top + jnp.log(total)


def parts(lse):
  """A top near each row's greatest score, and its total."""
  top = jnp.where(jnp.isfinite(lse), jnp.floor(lse) + 3.0, -jnp.inf)
  return top, jnp.where(jnp.isfinite(lse), jnp.exp(lse - top), 0.0)


def causal(offset):
  return lambda t, s, *_: s <= t + offset


def arrays(B, T, S, N, K, H, V, dtype="float32"):
  key = iter(jax.random.split(jax.random.key(0), 4))
  shapes = (B, T, N, H), (B, S, K, H), (B, S, K, V), (B, T, N, V)
  return tuple(jax.random.normal(next(key), s, dtype) for s in shapes)


def normal(seed, *shape, dtype="float32"):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def integers(seed, high, *shape, dtype="int32"):
  return jax.random.randint(jax.random.key(seed), shape, 0, high, "int32").astype(dtype)


def segments(seed, B, T, S):
  ids = jnp.sort(integers(seed, 4, B, max(T, S)), axis=1)
  return ids[:, None, :T, None], ids[:, None, None, :S]


def same_segment(t, s, a, b):
  return (a == b) & (s <= t)


def bits(t, s, seed):
  x = (t * 7919 + s).astype(jnp.uint32) * jnp.uint32(0x9E3779B1) ^ seed
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  return jnp.where((x ^ (x >> 13)) & 7 < 6, jnp.float32(8 / 6), jnp.float32(0))


def capped(cap):
  return lambda x, t, s, *_: cap * jnp.tanh(x / cap)


SHAPES = {
  "even": (1, 128, 256, 1, 1, 128, 128),
  "odd": (2, 65, 200, 2, 1, 64, 32),
  "one": (1, 1, 1, 1, 1, 8, 8),
  "seven": (1, 7, 63, 4, 2, 80, 48),
  "lanes": (1, 140, 260, 4, 2, 128, 128),
  "long": (2, 300, 517, 4, 2, 32, 16),
}


def problems():
  for name, (B, T, S, N, K, H, V) in SHAPES.items():
    shape = (B, T, S, N, K, H, V)
    yield f"plain_{name}", shape, program(), False
    yield f"causal_{name}", shape, program(seen=causal(S - T)), True
  B, T, S, N, K, H, V = shape = (2, 150, 300, 4, 2, 32, 16)
  yield "nothing_seen", shape, program(seen=lambda t, s: (s < t) & (t > 5)), False
  ids = segments(3, B, T, S)
  yield "segments", shape, program(ids, seen=same_segment), False
  windows = jnp.array([0, 20, 300, -1])[None, :, None, None]
  yield (
    "windows_by_head",
    shape,
    program((windows,), seen=lambda t, s, w: abs(s - t) <= w),
    True,
  )
  mask = integers(5, 2, B, N, T, S, dtype="int8")
  yield "array_mask", shape, program((mask,), seen=lambda t, s, m: m != 0), False
  yield (
    "bias",
    shape,
    program((normal(6, 1, N, T, S),), lambda x, t, s, b: x + b, causal(9)),
    True,
  )
  yield (
    "bias_bfloat16",
    shape,
    program((normal(6, B, 1, T, S, dtype="bfloat16"),), lambda x, t, s, b: x + b),
    False,
  )
  lines = normal(7, B, 1, T, 1), normal(8, 1, N, 1, S), normal(9, 1, N, 1, 1)
  yield (
    "lines",
    shape,
    program(
      lines, lambda x, t, s, a, b, c: x * a + jnp.tanh(b) - c * (t - s), causal(0)
    ),
    False,
  )
  yield "softcap", shape, program((), capped(5)), True
  yield (
    "softcap_nothing_seen",
    shape,
    program(score=capped(50), seen=lambda t, s: (s < t) & (t > 5)),
    False,
  )
  seeds = integers(4, 999, B, N, 1, 1, dtype="uint32")
  yield "dropout", shape, program((seeds,), seen=causal(150), keep=bits), False
  few = (2, 3, 300, 8, 2, 32, 16)
  given = (
    normal(11, 1, 8, 1, 1),
    normal(12, 2, 1, 3, 1),
    normal(13, 1, 8, 3, 300),
    integers(14, 300, 2, 1, 1, 1),
  )
  yield (
    "few_queries",
    few,
    program(
      given,
      lambda x, t, s, a, b, c, n: x + a * (t - s) + b * c,
      lambda t, s, a, b, c, n: (s <= t + n) & (n >= 0),
    ),
    True,
  )


def float64(q, k, v, g, bias, seen, scale):
  """(out, dq, dk, dv, dbias) of one head by the definition, less what none sees."""
  q, k, v, g, bias = (np.asarray(x, np.float64) for x in (q, k, v, g, bias))
  q, k, v, g = (x[0, :, 0] for x in (q, k, v, g))
  rows, columns = seen.any(1)[:, None], seen.any(0)[:, None]
  q, g, k, v = (
    np.where(a, x, 0) for a, x in zip((rows, rows, columns, columns), (q, g, k, v))
  )
  score = q @ k.T * scale
  # A sum with a bias is rounded as float32 rounds it.
  score = (score.astype(np.float32) + bias.astype(np.float32)).astype(np.float64)
  score = np.where(seen, score, -np.inf)
  top = np.where(rows, score.max(1, keepdims=True), 0.0)
  weight = np.exp(score - top)
  weight = weight / np.where(rows, weight.sum(1, keepdims=True), 1)
  out = weight @ v
  slope = weight * (g @ v.T - (g * out).sum(1, keepdims=True))
  return out, slope @ k * scale, slope.T @ q * scale, weight.T @ g, slope


def extremes():
  """Whole rows at extreme scores, products of 1e8, NaN in what nobody sees."""
  T, S = 24, 300
  q, k, v, g = arrays(1, T, S, 1, 1, 16, 16)
  zero, whole = jnp.zeros((T, S)), np.ones((T, S), bool)
  least, most = (float(x) for x in (jnp.finfo("float32").min, jnp.finfo("float32").max))
  low = zero
  for i, value in enumerate((-1e4, -1e9, -1e20, least, most / 4)):
    low = low.at[3 * i : 3 * i + 3].set(value)
  low = low.at[:, :7].add(-1.0).at[20:, 5:].set(least)
  add = {"score": lambda x, t, s, b: x + b}
  yield "rows", q, k, v, g, (low[None, None],), add, low, whole, 0.3
  causally = {"seen": causal(S - T)}
  seen = np.tril(whole, S - T)
  eights = [jnp.round(4 * x) * scale for x, scale in ((q, 1.0), (k, 16.0))]
  large = [x.at[..., 0].set(first) for x, first in zip(eights, (2.0**14, 2.0**13))]
  yield "products", *large, v, g, (), causally, zero, seen, 1 / 64
  nan, inf = jnp.nan, jnp.inf

  def some(t, s, *_):
    return (s <= t + 100) & (s != 7) & ((s < 110) | (s > 117)) & (t != 9)

  seen = np.asarray(some(jnp.arange(T)[:, None], jnp.arange(S)))
  q, g = q.at[:, 9].set(nan), g.at[:, 9].set(inf)
  k, v = (x.at[:, 7].set(nan).at[:, 112].set(inf).at[:, 124:].set(nan) for x in (k, v))
  yield "nan", q, k, v, g, (), {"seen": some}, zero, seen, 0.3
  bias = zero.at[:, 7].set(nan).at[9].set(nan).at[:, 200:].set(inf)
  yield (
    "nan_bias",
    q,
    k,
    v,
    g,
    (bias[None, None],),
    add | {"seen": some},
    bias,
    seen,
    0.3,
  )


def races():
  """Whether the simulator's last run had any."""
  return interpret_pallas_call.races.races_found


class MosaicTpuTest(parameterized.TestCase):
  @parameterized.named_parameters(problems())
  def test_forward(self, shape, program, with_sinks):
    q, k, v, _ = arrays(*shape)
    B, T, S, N, *_ = shape
    sinks = normal(1, N) if with_sinks else None
    blocks = schedule(dense(program, B, N, T, S), TILES.forward)
    blocks = walked(blocks, q, k)
    want = jax.jit(lambda *x: reference(*x, program, 0.3))(q, k, v, sinks)
    with simulate.accelerators():
      got = jax.jit(
        lambda q, k, v: logarithm(
          *mosaic_tpu.forward(q, k, v, sinks, program, blocks, scale=0.3, tiles=TILES)
        )
      )(q, k, v)
    self.assertFalse(races())
    for one, other in zip(got, want, strict=True):
      largest = np.abs(other, where=np.isfinite(other), out=np.zeros(other.shape)).max()
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * (1 + largest))

  @parameterized.named_parameters(problems())
  def test_backward(self, shape, program, with_sinks):
    q, k, v, g = arrays(*shape)
    B, T, S, N, *_ = shape
    sinks = normal(1, N) if with_sinks else None
    blocks = schedule(dense(program, B, N, T, S), TILES.backward)
    blocks = walked(blocks, q, k)
    smooth = [i for i, x in enumerate(program.operands) if _floating(x)]
    g_lse = normal(2, B, T, N)

    def loss(q, k, v, *given):
      operands = list(program.operands)
      for i, x in zip(smooth, given):
        operands[i] = x
      new = dataclasses.replace(program, operands=tuple(operands))
      out, lse = reference(q, k, v, sinks, new, 0.3)
      some = jnp.isfinite(lse)
      total = (g * out).sum() + (jnp.where(some, lse, 0) * g_lse).sum()
      return total, (out, lse)

    chosen = [program.operands[i].astype(jnp.float32) for i in smooth]
    gradients = jax.jit(jax.grad(loss, range(3 + len(smooth)), has_aux=True))
    want, (out, lse) = gradients(q, k, v, *chosen)
    delta = (g * out).sum(-1) - g_lse
    with simulate.accelerators():
      *got, slopes = jax.jit(
        lambda *x: mosaic_tpu.backward(*x, program, blocks, scale=0.3, tiles=TILES)
      )(q, k, v, g, *parts(lse), delta)
    self.assertFalse(races())
    self.assertEqual(
      [x is None for x in slopes], [not _floating(x) for x in program.operands]
    )
    got += [slopes[i] for i in smooth]
    for one, other in zip(got, want, strict=True):
      self.assertEqual(one.shape, other.shape)
      error = 2e-5 * (1 + np.abs(other).max())
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=error)

  def test_bfloat16(self):
    shape = B, T, S, N, *_ = SHAPES["lanes"]
    q, k, v, g = arrays(*shape, dtype="bfloat16")
    causally = program(seen=causal(S - T))
    blocks = schedule(dense(causally, B, N, T, S), TILES.forward)
    blocks = walked(blocks, q, k)

    problem = {
      n: np.asarray(x, np.float64) for n, x in zip(("q", "k", "v", "g"), (q, k, v, g))
    }
    problem |= {"seen": dense(causally, B, N, T, S), "scale": 0.1}
    problem["g_lse"] = np.zeros((B, T, N))
    want, plain = (f(problem, "bfloat16") for f in (definition.exact, definition.plain))
    run = {"program": causally, "schedule": blocks, "scale": 0.1, "tiles": TILES}
    with simulate.accelerators():
      got = logarithm(*mosaic_tpu.forward(q, k, v, None, **run))
      delta = (g.astype("float32") * got[0].astype("float32")).sum(-1)
      *slopes, _ = mosaic_tpu.backward(q, k, v, g, *parts(got[1]), delta, **run)
    self.assertEqual(
      [x.dtype for x in (*got, *slopes)], ["bfloat16", "float32"] + 3 * ["bfloat16"]
    )
    found = dict(zip(("out", "lse", "dq", "dk", "dv"), (*got, *slopes), strict=True))
    for name, part in precision.excess(found, want, plain, "bfloat16").items():
      self.assertLessEqual(part, 1.0, name)

  def test_long_sequences_gather_outside_fast_memory(self):
    shape = B, T, S, N, *_ = SHAPES["long"]
    q, k, v, g = arrays(*shape)
    causally = program(seen=causal(S - T))
    blocks = schedule(dense(causally, B, N, T, S), TILES.backward)
    blocks = walked(blocks, q, k)
    lse, delta = normal(3, B, T, N) + 5, normal(4, B, T, N)
    memory = mosaic_tpu.estimate(TILES, q, k, v, causally)
    self.assertTrue(memory.resident)
    tight = dataclasses.replace(TILES, memory=memory.backward - 1)
    self.assertFalse(mosaic_tpu.check(tight, q, k, v, causally).resident)
    with simulate.accelerators():
      want, got = (
        jax.jit(
          lambda *x, tiles=tiles: mosaic_tpu.backward(
            *x, causally, blocks, scale=0.3, tiles=tiles
          )
        )(q, k, v, g, *parts(lse), delta)
        for tiles in (TILES, tight)
      )
    self.assertFalse(races())
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

  @parameterized.named_parameters(extremes())
  def test_extremes(self, q, k, v, g, operands, functions, bias, seen, scale):
    given = program(operands, **functions)
    blocks = schedule(seen[None, None], TILES.forward)
    run = {"program": given, "schedule": blocks, "scale": scale, "tiles": TILES}
    want = float64(q, k, v, g, bias, seen, scale)
    with simulate.accelerators(detect_races=False):
      out, top, total = mosaic_tpu.forward(q, k, v, None, **run)
      delta = jnp.where(seen.any(1)[:, None], (g[0] * out[0]).sum(-1), 0.0)[None]
      *by, by_operand = mosaic_tpu.backward(q, k, v, g, top, total, delta, **run)
    got = [x[0, :, 0] for x in (out, *by)]
    got += [x[0, 0] for x in by_operand]
    for one, other in zip(got, want):
      error = 1e-4 * np.abs(other).max()
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=error)

  def test_the_padding_of_folded_heads_spreads_no_infinity(self):
    """Nine queries of two heads a key head, all far beyond their window's keys."""
    q, k, v, _ = arrays(1, 9, 33, 4, 2, 16, 24)
    where = {"query_positions": jnp.array([169]), "local_window_size": (20, 3)}
    with simulate.accelerators(detect_races=False):
      out = dot_product_attention(q, k, v + jnp.inf, impl="pallas", **where)
    np.testing.assert_array_equal(out, jnp.zeros_like(out))

  @parameterized.parameters(None, 40.0)
  def test_capped_scores_that_are_all_far_from_zero(self, sink):
    """Rows at -50, at 50, at both; NaN where nobody looks; a row that sees nothing."""
    T, S, H = 8, 300, 16
    _, _, v, g = arrays(1, T, S, 1, 1, H, H)
    q = jnp.zeros((1, T, 1, H)).at[0, :, 0, 0].set([-1e6, -90, -50, 0, 30, 90, 1e6, 9])
    k = jnp.zeros((1, S, 1, H)).at[0, :, 0, 0].set(1 + 0.1 * jnp.sin(jnp.arange(S)))
    q, k = q.at[0, 3, 0, 1].set(1e4), k.at[0, ::2, 0, 1].set(-1.0)
    k, v = (x.at[:, 7].set(jnp.nan).at[:, 290:].set(jnp.inf) for x in (k, v))
    given = program(score=capped(50), seen=lambda t, s: (s != 7) & (s < 290) & (t < 7))
    self.assertTrue(bounds.bounded(given, T, S))
    seen = dense(given, 1, 1, T, S)
    blocks = schedule(seen, TILES.forward)
    run = {"program": given, "schedule": blocks, "scale": 1.0, "tiles": TILES}
    sinks = None if sink is None else jnp.full((1,), sink)
    with simulate.accelerators(detect_races=False):
      out, top, total = mosaic_tpu.forward(q, k, v, sinks, **run)
      *by, _ = mosaic_tpu.backward(q, k, v, g, top, total, jnp.zeros_like(top), **run)
    some, seen = np.arange(T) < 7 if sink is None else np.full(T, True), seen[0, 0]
    x, y, keys = (np.asarray(a[0, :, 0], np.float64) for a in (q, k, v))
    y, keys = (np.where(seen.any(0)[:, None], a, 0) for a in (y, keys))
    score = np.where(seen, 50 * np.tanh(x @ y.T / 50), -np.inf)
    weight, more = np.exp(score), 0 if sink is None else np.exp(sink)
    whole = np.maximum(weight.sum(1) + more, 1e-300)
    weight = weight / whole[:, None]
    near = {"rtol": 2e-5, "atol": 1e-6}
    np.testing.assert_allclose(out[0, :, 0], weight @ keys, **near)
    lse = np.where(some, np.log(whole), -np.inf)
    np.testing.assert_allclose((top + jnp.log(total))[0, :, 0], lse, **near)
    np.testing.assert_allclose(by[2][0, :, 0], weight.T @ g[0, :, 0], **near)

  def test_rows_that_nobody_sees_change_nothing(self):
    """One array at a time, in a loop over parts, with slopes outside fast memory."""
    T, S, H = 130, 280, 16
    x = dict(zip("qkvg", arrays(1, T, S, 2, 1, H, H)))
    given = program(
      (normal(6, 1, 1, T, S),),
      lambda x, t, s, b: x + b,
      lambda t, s, *_: (s <= t + 150) & (s % 50 != 7) & (t % 60 != 9),
    )
    tile = mosaic_tpu.Tile(256, 256, 128, 128)
    cut = mosaic_tpu.Tiles(tile, tile)
    blocks = schedule(dense(given, 1, 2, T, S), tile)

    def forward(x):
      run = {"program": given, "schedule": blocks, "scale": 0.3, "tiles": cut}
      return mosaic_tpu.forward(x["q"], x["k"], x["v"], None, **run)

    def backward(x, sums):
      run = {"program": given, "schedule": blocks, "scale": 0.3, "tiles": cut}
      return mosaic_tpu.backward(*(x[n] for n in "qkvg"), *sums, x["delta"], **run)

    forward, backward = jax.jit(forward), jax.jit(backward)
    with (
      mock.patch.multiple(unseen, QUERIES=128, KEYS=128),
      mock.patch.object(slopes, "ROOM", 0),
      simulate.accelerators(detect_races=False),
    ):
      room = mosaic_tpu.estimate(cut, x["q"], x["k"], x["v"], given)
      cut = dataclasses.replace(cut, memory=room.backward - 1)
      self.assertFalse(mosaic_tpu.check(cut, x["q"], x["k"], x["v"], given).resident)
      out, *sums = want = forward(x)
      x["delta"] = (x["g"] * out).sum(-1)
      want_back = backward(x, sums)
      keys, queries = slice(7, None, 50), slice(9, None, 60)
      values = *zip(x, itertools.repeat(jnp.nan)), ("k", jnp.inf), ("v", -3e38)
      for name, value in values:
        rows = keys if name in "kv" else queries
        changed = x | {name: x[name].at[:, rows].set(value)}
        pairs = [(backward(changed, sums), want_back)]
        if name in "qkv":
          pairs.append((forward(changed), want))
        for one, other in zip(*map(jax.tree.leaves, zip(*pairs)), strict=True):
          close = {"rtol": 1e-4, "atol": 1e-5, "err_msg": f"{name} {value}"}
          np.testing.assert_allclose(one, other, **close)

  @parameterized.parameters(("v", jnp.nan), ("v", -3e38), ("delta", jnp.nan))
  def test_what_nobody_sees_weighs_nothing_without_a_program(self, name, value):
    T, S, H = 64, 120, 16
    x = dict(zip("qkvg", arrays(1, T, S, 1, 1, H, H)))
    given = program(seen=lambda t, s: (s <= t + 60) & (s != 7) & (t != 9))
    blocks = schedule(dense(given, 1, 1, T, S), SMALL)
    run = {"program": given, "schedule": blocks, "scale": 0.3}
    run["tiles"] = mosaic_tpu.Tiles(SMALL, SMALL)
    x["delta"] = normal(5, 1, T, 1)
    ones = jnp.ones((1, T, 1))
    sums = (3 * ones).at[:, 9].set(-jnp.inf), ones.at[:, 9].set(0)
    changed = x | {name: x[name].at[:, 7 if name == "v" else 40].set(value)}

    @jax.jit
    def backward(x):
      return mosaic_tpu.backward(*(x[n] for n in "qkvg"), *sums, x["delta"], **run)

    with simulate.accelerators(detect_races=False):
      got, want = backward(changed), backward(x)
    # Row 40 has a part in what its own delta makes: its dq, and dk up to key 100.
    rows = np.arange(T) != (40 if name == "delta" else -1)
    keys = np.arange(S) > (100 if name == "delta" else -1)
    for one, other, seen in zip(got[:3], want, (rows, keys, keys)):
      np.testing.assert_allclose(one[:, seen], other[:, seen], rtol=1e-4, atol=1e-5)

  @parameterized.parameters("held", "gathered")
  def test_a_bias_gradient_has_the_size_of_the_bias(self, how):
    B, T, S, N, K, H, V = 2, 140, 300, 2, 2, 16, 16
    q, k, v, g = arrays(B, T, S, N, K, H, V)
    bias = normal(6, 1, 1, T, S)
    given = program((bias,), lambda x, t, s, b: x + b, causal(100))
    blocks = schedule(dense(given, B, N, T, S), TILES.backward)
    blocks = walked(blocks, q, k)
    seen = jnp.asarray(dense(given, B, N, T, S)[0, 0])

    def loss(bias):
      new = dataclasses.replace(given, operands=(bias,))
      out, lse = reference(q, k, v, None, new, 0.3)
      return (g * out).sum(), (out, lse)

    want, (out, lse) = jax.grad(loss, has_aux=True)(bias)
    room = 4 << 20 if how == "held" else 0
    with mock.patch.object(slopes, "ROOM", room), simulate.accelerators():

      def backward(*x):
        return mosaic_tpu.backward(*x, given, blocks, scale=0.3, tiles=TILES)[3][0]

      function = jax.jit(backward)
      given_arrays = q, k, v, g, *parts(lse), (g * out).sum(-1)
      text = str(jax.make_jaxpr(backward)(*given_arrays))
      got = function(*given_arrays)
    self.assertFalse(races())
    self.assertIn("f32[1,1,256,512]", text)
    self.assertNotIn(f"f32[{B},{N},256,512]", text)
    self.assertTrue((got[0, 0][~seen] == 0).all())
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5 * np.abs(want).max())

  def test_blocks_of_several_tiles_and_parts_of_the_batch(self):
    B, T, S, N, K, H, V = 2, 140, 300, 1, 1, 16, 16
    q, k, v, g = arrays(B, T, S, N, K, H, V)
    bias = normal(5, 1, 1, 1, S)
    ends = jnp.array([140, 120])[:, None, None, None]

    def seen(t, s, n, b):
      return (s <= t + 160) & (t < n)

    given = program((ends, bias), lambda x, t, s, n, b: x + b, seen)
    own = dense(given, B, N, T, S)
    size = lists.taken(schedule(own, TILES.forward).index, batches=1)
    found = []
    for times, room in ((1, 1 << 20), (2, 1 << 20), (1, size)):
      fake = dataclasses.replace(SMALL, block_q=128 * times, block_k=256 * times)
      blocks = schedule(own, fake)

      def run(q, k, v, g, blocks=blocks):
        rest = {"scale": 0.3, "tiles": TILES}
        out, *sums = mosaic_tpu.forward(q, k, v, None, given, blocks, **rest)
        delta = (g * out).sum(-1)
        *by, by_operand = mosaic_tpu.backward(
          q, k, v, g, *sums, delta, given, blocks, **rest
        )
        return out, *sums, *by, by_operand[1]

      with (
        mock.patch.object(lists, "ROOM", room),
        mock.patch.object(tiles, "ROOM", room),
        simulate.accelerators(detect_races=False),
      ):
        found.append(jax.jit(run)(q, k, v, g))
    for other in found[1:]:
      for one, same in zip(other, found[0], strict=True):
        np.testing.assert_allclose(one, same, rtol=1e-5, atol=1e-5)

  def test_two_runs_are_bit_equal(self):
    shape = B, T, S, N, *_ = SHAPES["odd"]
    q, k, v, g = arrays(*shape)
    blocks = schedule(dense(program(), B, N, T, S), TILES.forward)
    run = {"program": program(), "schedule": blocks, "scale": 0.3, "tiles": TILES}
    forward = jax.jit(lambda *x: mosaic_tpu.forward(*x, None, **run))
    backward = jax.jit(lambda *x: mosaic_tpu.backward(*x, **run))
    with simulate.accelerators():
      one, two = (forward(q, k, v) for _ in range(2))
      delta = (one[0] * g).sum(-1)
      three, four = (backward(q, k, v, g, *one[1:], delta) for _ in range(2))
    self.assertFalse(races())
    for a, b in zip(jax.tree.leaves((one, three)), jax.tree.leaves((two, four))):
      np.testing.assert_array_equal(a, b)


class WalkTest(parameterized.TestCase):
  @parameterized.product(
    lists=("static", "data", "of_batches", "of_heads"), group=(1, 3)
  )
  def test_steps_visit_what_lists_name(self, lists, group):
    """Row by row, its heads in turn, each list in order; no step more if static."""
    N, draw = 6, np.random.default_rng(0)
    batches, apart = 1 + (lists == "of_batches"), lists == "of_heads"
    kind = draw.integers(0, 3, (batches, N if apart else 1, 4, 5))
    kind *= np.arange(4)[:, None] <= np.arange(5)
    kind[0, 0, 3] = 0
    index, full, count = entries(kind)
    bound, given = visits(kind), (index, full, count)
    if lists == "data":
      bound, given = bound + 3, tuple(map(jnp.asarray, given))
    # Rows of queries for the backward pass: with the heads of a group in turn.
    blocks = Schedule(*given, *given, 128, 128, bound, bound)
    q = jax.ShapeDtypeStruct((2 * walk.ENOUGH, 8, N, 8), jnp.float32)
    k = jax.ShapeDtypeStruct((2 * walk.ENOUGH, 8, N // group, 8), jnp.float32)
    steps = walked(blocks, q, k).walk_t
    self.assertEqual(isinstance(steps, np.ndarray), lists != "data")
    made = walk.of(index, steps, group=group)
    self.assertEqual(made.grid, (1, 1, group * bound))
    flat = walk.Flat(*map(np.asarray, walk.flat(made, *map(jnp.asarray, given), steps)))
    for b in range(2):
      for h in range(N // group):
        found, behind = [], 0
        for m in range(made.walk):
          at = made.visit(flat, b, h, 0, 0, np.int32(m))
          row = int(at.row), int(at.n)
          own = int(flat.count[at.line])
          if at.block >= max(own, 1):
            behind += 1
            self.assertFalse(at.first or at.last)
            continue
          self.assertEqual(bool(at.first), not found or found[-1][0] != row)
          self.assertEqual(bool(at.last), int(at.block) == max(own, 1) - 1)
          self.assertEqual(int(at.n), h * group + int(at.member))
          found.append((row, int(at.column), int(at.block) < int(flat.full[at.line])))
        want = []
        for row in range(4):
          for n in range(h * group, (h + 1) * group):
            own = kind[min(b, batches - 1), n if apart else 0, row]
            named = [*np.flatnonzero(own == 2), *np.flatnonzero(own == 1)] or [0]
            want += [((row, n), j, own[j] == 2) for j in named]
        self.assertEqual(found, want)
        self.assertEqual(behind, made.walk - len(want))

  def test_a_walk_is_made_where_it_saves_steps(self):
    few = walk.ENOUGH // 8
    for visits, heads, static, forward, backward in (
      (20, walk.ENOUGH, True, False, False),
      (0, walk.ENOUGH, True, False, False),
      (15, 1, True, False, True),
      (12, 1, True, True, True),
      (12, few - 1, False, False, False),
      (12, few, False, True, True),
    ):
      lists = np.zeros((1, 1, 5, 4), np.int32), *[np.ones((1, 1, 5), np.int32)] * 2
      lists = lists if static else tuple(map(jnp.asarray, lists))
      blocks = Schedule(*lists, *lists, 128, 128, visits, visits)
      q = jax.ShapeDtypeStruct((1, 8, heads, 8), jnp.float32)
      made = walk.prepared(blocks, q, q)
      self.assertEqual(made.walk is not None, forward)
      self.assertEqual(made.walk_t is not None, backward)
    self.assertEqual(walk.of(lists[0], made.walk, (2, 3), 2).grid, (10, 2, 12))
    self.assertEqual(walk.of(lists[0], None, group=2).grid, (5, 2, 4))


class BoundsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("none", None, False),
    ("cap", capped(50), True),
    ("high_cap", capped(53), False),
    ("nothing", lambda x, t, s, *_: x, False),
    ("cap_and_bias", lambda x, t, s, b, i: capped(5)(x, t, s) + b, False),
    (
      "cap_and_bounded_bias",
      lambda x, t, s, b, i: capped(5)(x, t, s) + jnp.tanh(b),
      True,
    ),
    ("cap_and_distance", lambda x, t, s, *_: capped(5)(x, t, s) - 0.1 * (t - s), True),
    ("cap_and_far", lambda x, t, s, *_: capped(5)(x, t, s) - 0.2 * (t - s), False),
    ("cap_and_integer", lambda x, t, s, b, i: capped(5)(x, t, s) * i, False),
    ("hidden", lambda x, t, s, *_: jnp.where(t < s, -jnp.inf, jnp.tanh(x)), False),
  )
  def test_bounded(self, score, bounded):
    given = jnp.zeros((1, 1, 1, 300)), jnp.zeros((1, 1, 1, 1), jnp.int32)
    self.assertEqual(bounds.bounded(program(given, score), 300, 300), bounded)


class RefusalTest(parameterized.TestCase):
  def run_with(self, dtype="float32", tiles=TILES, blocks=TILES.forward, **functions):
    q, k, v, _ = arrays(1, 128, 256, 1, 1, 8, 8)
    q = q.astype(dtype)
    given = program(**functions)
    made = schedule(np.ones((1, 1, 128, 256), bool), blocks)
    return mosaic_tpu.forward(q, k, v, None, given, made, scale=1.0, tiles=tiles)

  @parameterized.parameters(
    (lambda x, t, s: jnp.cosh(x), "'cosh' has no lowering"),
    (lambda x, t, s: x.astype(jnp.float16), "makes float16 numbers"),
  )
  def test_operation(self, score, words):
    with self.assertRaisesRegex(NotImplementedError, words):
      self.run_with(score=score)

  def test_dtype(self):
    with self.assertRaisesRegex(NotImplementedError, "q is int32"):
      self.run_with(dtype="int32")

  @parameterized.parameters(
    ({"block_k": 200}, "block_k 200 is not a multiple of 128"),
    ({"inner_q": 12}, "inner_q 12 is not a multiple of 16"),
    ({"inner_k": 384}, "inner_k 384 does not divide block_k 256"),
  )
  def test_tile(self, changed, words):
    tile = dataclasses.replace(TILES.forward, **changed)
    tiles = dataclasses.replace(TILES, forward=tile)
    with self.assertRaisesRegex(ValueError, words):
      self.run_with(tiles=tiles, blocks=tile)

  def test_memory(self):
    tiles = dataclasses.replace(TILES, memory=1 << 20)
    with self.assertRaisesRegex(ValueError, "tiles.forward needs .* MiB"):
      self.run_with(tiles=tiles)

  def test_schedule_for_other_tiles(self):
    with self.assertRaisesRegex(
      ValueError, r"blocks \(128, 128\), .* whole tiles.forward"
    ):
      self.run_with(blocks=SMALL)

  @parameterized.parameters(
    (1, 2**20, 16, "bfloat16"), (8, 2**18, 16, "bfloat16"), (16, 2**17, 16, "float32")
  )
  def test_long_contexts_are_taken(self, B, T, N, dtype):
    x = jax.ShapeDtypeStruct((B, T, N, 128), dtype)
    ids = jax.ShapeDtypeStruct((B, T), jnp.int32)

    def loss(q, k, v, ids):
      given = {"is_causal": True, "segment_ids": ids, "impl": "pallas"}
      return dot_product_attention(q, k, v, **given).astype(jnp.float32).sum()

    found = jax.eval_shape(jax.grad(loss, (0, 1, 2)), x, x, x, ids)
    self.assertEqual([one.shape for one in found], [x.shape] * 3)

  def test_what_no_tiles_hold_is_not_implemented(self):
    x = jax.ShapeDtypeStruct((1, 64, 1, 1 << 15), "float32")
    with self.assertRaisesRegex(NotImplementedError, "MiB of fast memory"):
      jax.eval_shape(lambda x: dot_product_attention(x, x, x, impl="pallas"), x)

  @parameterized.parameters(1, 7, 127, 129, 1000, 4096, 5000)
  def test_defaults_fit(self, T):
    for H, dtype in ((64, "bfloat16"), (256, "float32")):
      shapes = [jax.ShapeDtypeStruct((1, T, 2, H), dtype) for _ in range(3)]
      bias = jax.ShapeDtypeStruct((1, 2, T, T), jnp.float32)
      for given in (program(), program((bias,), lambda x, t, s, b: x + b)):
        tiles = mosaic_tpu.defaults(*shapes, given, "TPU v5 lite")
        self.assertLessEqual(
          mosaic_tpu.check(tiles, *shapes, given).forward, tiles.memory
        )


if __name__ == "__main__":
  absltest.main()
