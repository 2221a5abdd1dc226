"""Softmax attention in pure JAX: the definition, and a form with O(T) memory.

  score[t, s] = scale q[t] . k[s] + bias[t, s]    where seen, else -inf
  lse[t]      = log sum_s exp(score[t, s])
  out[t]      = sum_s exp(score[t, s] - lse[t]) v[s]

A query that sees no key has out = 0, lse = -inf and no gradient. Scores, weights and
lse are float32 (float64 for float64) whatever the input is.

Shapes: q (B, T, N, H), k (B, S, K, H), v (B, S, K, V), K divides N; bias broadcasts
to (B, N, T, S); out (B, T, N, V), lse (B, T, N).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core import masks
from attnjax.core.masks import Mask

IMPLEMENTATIONS = ("reference", "xla")
EVERYTHING = Mask()
# Scores of a tile, over all heads: 4 MB stay in a processor's cache, and a tile is
# still large enough that the loop's own cost does not show.
TILE = 2**20


def attend(q, k, v, *, mask=EVERYTHING, bias=None, scale=None, impl="auto"):
  """(out, lse) by the implementation of that name; "auto" is "xla" everywhere."""
  match impl:
    case "reference":
      return reference(q, k, v, mask=mask, bias=bias, scale=scale)
    case "xla" | "auto":
      return chunked(q, k, v, mask=mask, bias=bias, scale=scale)
  raise ValueError(f"impl {impl!r} is none of auto, {', '.join(IMPLEMENTATIONS)}")


def reference(q, k, v, *, mask=EVERYTHING, bias=None, scale=None):
  """The definition, with the whole (T, S) matrix of scores."""
  check(q, k, v, bias)
  (_, T, N, H), (S, K) = q.shape, k.shape[1:3]
  scale = H**-0.5 if scale is None else scale
  k, v = (jnp.repeat(x, N // K, axis=2) for x in (k, v))
  score = scale * jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=wide(q))
  if bias is not None:
    score = score + bias
  score = jnp.where(mask.dense(T, S), score, -jnp.inf)
  some = (score != -jnp.inf).any(axis=-1, keepdims=True)
  # An empty row gets harmless scores, so that no gradient is NaN.
  score = jnp.where(some, score, 0.0)
  weight = jnp.where(some, jax.nn.softmax(score, axis=-1), 0.0)
  lse = jnp.where(some[..., 0], jax.nn.logsumexp(score, axis=-1), -jnp.inf)
  out = jnp.einsum("bnts,bsnv->btnv", weight, v, preferred_element_type=wide(q))
  return out.astype(v.dtype), lse.swapaxes(1, 2)


def chunked(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  mask: Any = EVERYTHING,  # or anything with its `tile` and `empty`
  bias: Float[Array, "#B #N #T #S"] | None = None,
  scale: float | None = None,
  tile: tuple[int, int] | None = None,
) -> tuple[Float[Array, "B T N V"], Float[Array, "B T N"]]:
  """The same in tiles with a running softmax: memory linear in T and S.

  Its derivative is a rule of its own, again in tiles, whose transpose is the usual
  backward pass from (out, lse). Being a forward rule in plain JAX, it gives
  `jax.jvp`, `jax.vjp` and higher orders.

  Markus N. Rabe, Charles Staats. Self-attention Does Not Need O(n^2) Memory.
  arXiv:2112.05682. Tri Dao et al. FlashAttention. arXiv:2205.14135 (the backward).
  """
  check(q, k, v, bias)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  (B, T, N, _), (S, K) = q.shape, k.shape[1:3]
  rows, columns = _tile(B * N) if tile is None else tile
  query = _split(q, K, _even(T, rows))
  key, value = (_split(x, K, _even(S, columns))[:, :, :, 0] for x in (k, v))
  # Values lie as (V, s): their gradient is then a product that transposes no tile.
  out, lse = _tiles(scale, S, mask, query, key, value.swapaxes(3, 4), bias)
  return _join(out, T), _join(lse, T)


def check(q, k, v, bias=None) -> None:
  """Raises ValueError, naming the argument, if shapes do not fit."""
  for name, x in (("q", q), ("k", k), ("v", v)):
    if x.ndim != 4:
      raise ValueError(f"{name} has the shape {x.shape}; it must be (B, T, N, H)")
  if k.shape[:3] != v.shape[:3]:
    raise ValueError(f"k {k.shape} and v {v.shape} differ in B, S or K")
  if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
    raise ValueError(f"q {q.shape} and k {k.shape} differ in B or H")
  if q.shape[2] % k.shape[2]:
    raise ValueError(f"{q.shape[2]} query heads do not divide by {k.shape[2]} kv heads")
  if bias is not None:
    whole = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    fits = bias.ndim == 4 and all(b in (1, w) for b, w in zip(bias.shape, whole))
    if not fits:
      raise ValueError(f"bias {bias.shape} does not broadcast to (B, N, T, S) {whole}")


def wide(x: Array) -> jnp.dtype:
  """The type of scores and sums: float64 for float64, else float32."""
  return jnp.promote_types(x.dtype, jnp.float32)


# In tiles: q (i, B, K, G, t, H) with G = N / K query heads of a key head, k (j, B, K,
# s, H), v (j, B, K, V, s), out (i, B, K, G, t, V), lse (i, B, K, G, t).
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _tiles(scale, S, mask, q, k, v, bias):
  def rows(query, t):
    def visit(carry, key, value, s):
      top, total, acc = carry
      score = _scores(query, key, bias, mask, t, s, scale, S)
      new = jnp.maximum(top, score.max(axis=-1))
      safe = jnp.where(new == -jnp.inf, 0.0, new)
      weight = jnp.exp(score - safe[..., None])
      old = jnp.exp(top - safe)
      acc = acc * old[..., None] + _product("bkgts,bkvs->bkgtv", weight, value)
      return new, total * old + weight.sum(axis=-1), acc

    zero = jnp.zeros(query.shape[:-1], wide(q))
    start = zero - jnp.inf, zero, jnp.zeros((*zero.shape, v.shape[3]), wide(q))
    parts = k, v, _indices(k, 3)
    top, total, acc = _visit_all(visit, start, mask, t, parts)
    some = total != 0
    total = jnp.where(some, total, 1.0)
    lse = jnp.where(some, top + jnp.log(total), -jnp.inf)
    return (acc / total[..., None]).astype(v.dtype), lse

  return jax.lax.map(lambda x: rows(*x), (q, _indices(q, 4)))


@_tiles.defjvp
def _tiles_jvp(scale, S, primals, tangents):
  mask, q, k, v, bias = primals
  # Wide, since their transposes are sums over all tiles.
  dq, dk, dv, dbias = jax.tree.map(lambda x: x.astype(wide(x)), tangents[1:])
  out, lse = _tiles(scale, S, *primals)

  @jax.checkpoint  # the weights of a tile are made again, not kept
  def rows(query, dquery, out, lse, t):
    safe = jnp.where(lse == -jnp.inf, jnp.inf, lse)

    @jax.checkpoint
    def visit(carry, key, value, dkey, dvalue, s):
      dlse, dout = carry
      score = _scores(query, key, bias, mask, t, s, scale, S)
      weight = jnp.exp(score - safe[..., None])
      dscore = _product("bkgth,bksh->bkgts", dquery, key)
      dscore = dscore + _product("bkgth,bksh->bkgts", query, dkey)
      # Transposed, the barrier keeps XLA from making `change` once for each product.
      dscore = scale * jax.lax.optimization_barrier(dscore)
      if bias is not None:
        dscore = dscore + _by_head(masks.block(dbias, t, s), query)
      change = weight * dscore
      dout = dout + _product("bkgts,bkvs->bkgtv", change, value)
      dout = dout + _product("bkgts,bkvs->bkgtv", weight, dvalue)
      return dlse + change.sum(axis=-1), dout

    start = jnp.zeros_like(lse), jnp.zeros(out.shape, wide(q))
    parts = k, v, dk, dv, _indices(k, 3)
    dlse, dout = _visit_all(visit, start, mask, t, parts)
    return (dout - dlse[..., None] * out).astype(v.dtype), dlse

  parts = q, dq, out, lse, _indices(q, 4)
  return (out, lse), jax.lax.map(lambda x: rows(*x), parts)


def _visit_all(visit, carry, mask, t, parts):
  """`carry` after all tiles of keys that a query of t may see; parts end with s."""

  def step(carry, part):
    empty = _for_all(mask.empty(t, part[-1]))
    return jax.lax.cond(empty, lambda c, *_: c, visit, carry, *part), None

  return jax.lax.scan(step, carry, parts)[0]


@jax.custom_batching.custom_vmap
def _for_all(empty):
  """`empty`; under vmap one answer for the whole batch, so that tiles are skipped."""
  return empty


@_for_all.def_vmap
def _for_all_vmap(size, batched, empty):
  del size, batched
  return _for_all(empty.all(axis=0)), False


def _scores(query, key, bias, mask, t, s, scale, S):
  score = scale * _product("bkgth,bksh->bkgts", query, key)
  if bias is not None:
    score = score + _by_head(masks.block(bias, t, s), query)
  seen = _by_head(mask.tile(t, s), query) & (s < S)
  return jnp.where(seen, score, -jnp.inf)


def _product(formula, a, b):
  return jnp.einsum(formula, a, b, preferred_element_type=wide(a))


def _by_head(x, query):
  """(B|1, N|1, t, s) to (B|1, K|1, G|1, t, s)."""
  heads = query.shape[1:3] if x.shape[1] > 1 else (1, 1)
  return x.reshape(x.shape[0], *heads, *x.shape[2:])


def _split(x, K, pieces):
  """(B, T, N, H) to (i, B, K, G, t, H), with zeros after the end."""
  (i, t), (B, T, N, H) = pieces, x.shape
  x = jnp.pad(x, ((0, 0), (0, i * t - T), (0, 0), (0, 0)))
  return jnp.moveaxis(x.reshape(B, i, t, K, N // K, H), (1, 2), (0, 4))


def _join(x, T):
  """(i, B, K, G, t, ...) to (B, T, N, ...)."""
  x = jnp.moveaxis(x, (0, 4), (1, 2))
  B, i, t, K, G, *rest = x.shape
  return x.reshape(B, i * t, K * G, *rest)[:, :T]


def _indices(x, axis):
  """The places in the sequence of each tile's tokens, (tiles, tokens)."""
  shape = x.shape[0], x.shape[axis]
  return jnp.arange(math.prod(shape)).reshape(shape)


def _tile(heads: int) -> tuple[int, int]:
  """Queries and keys of a tile, so that all heads have about TILE scores."""
  cells = max(TILE // heads, 64 * 128)
  columns = min(512, 2 ** math.ceil(math.log2(2 * cells) / 2))
  return min(512, cells // columns), columns


def _even(length: int, most: int) -> tuple[int, int]:
  """(number, size) of equal pieces of at most `most` that cover `length`."""
  number = max(1, -(-length // most))
  return number, max(1, -(-length // number))
