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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core import masks
from attnjax.core.masks import Mask

IMPLEMENTATIONS = ("reference", "xla")
# Rows and columns of a tile of scores: small enough for a cache of a few MB, large
# enough that the loop's own cost does not show.
TILE = (256, 512)


def attend(q, k, v, *, mask=Mask(), bias=None, scale=None, impl="auto"):
  """(out, lse) by the implementation of that name; "auto" is "xla" everywhere."""
  match impl:
    case "reference":
      return reference(q, k, v, mask=mask, bias=bias, scale=scale)
    case "xla" | "auto":
      return chunked(q, k, v, mask=mask, bias=bias, scale=scale)
  raise ValueError(f"impl {impl!r} is none of auto, {', '.join(IMPLEMENTATIONS)}")


def reference(q, k, v, *, mask=Mask(), bias=None, scale=None):
  """The definition, with the whole (T, S) matrix of scores."""
  check(q, k, v, bias)
  (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
  scale = H**-0.5 if scale is None else scale
  k, v = (jnp.repeat(x, N // K, axis=2) for x in (k, v))
  score = scale * jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=wide(q))
  if bias is not None:
    score = score + bias
  seen = jnp.broadcast_to(mask.dense(T, S), score.shape)
  some = seen.any(axis=-1, keepdims=True)
  # An empty row gets harmless scores, so that no gradient is NaN.
  score = jnp.where(seen, score, jnp.where(some, -jnp.inf, 0.0))
  weight = jnp.where(seen, jax.nn.softmax(score, axis=-1), 0.0)
  lse = jnp.where(some[..., 0], jax.nn.logsumexp(score, axis=-1), -jnp.inf)
  out = jnp.einsum("bnts,bsnv->btnv", weight, v, preferred_element_type=wide(q))
  return out.astype(v.dtype), lse.swapaxes(1, 2)


def chunked(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  mask: Mask = Mask(),
  bias: Float[Array, "#B #N #T #S"] | None = None,
  scale: float | None = None,
  tile: tuple[int, int] = TILE,
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
  return _chunked(scale, tile, mask, q, k, v, bias)


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


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _chunked(scale, tile, mask, q, k, v, bias):
  grid = _Grid(q, k, v, tile)

  def rows(query, t):
    def keys(carry, part):
      key, value, s = part

      def visit(carry):
        top, total, acc = carry
        score = grid.scores(query, key, bias, mask, t, s, scale)
        new = jnp.maximum(top, score.max(axis=-1))
        safe = jnp.where(new == -jnp.inf, 0.0, new)
        weight = jnp.exp(score - safe[..., None])
        old = jnp.exp(top - safe)
        acc = acc * old[..., None] + grid.product(weight, value)
        return new, total * old + weight.sum(axis=-1), acc

      return jax.lax.cond(mask.empty(t, s), lambda c: c, visit, carry), None

    zero = jnp.zeros(grid.row_shape, wide(q))
    start = (zero - jnp.inf, zero, jnp.zeros((*grid.row_shape, v.shape[-1]), wide(q)))
    (top, total, acc), _ = jax.lax.scan(keys, start, (*grid.split_keys(k, v), grid.s))
    lse = jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1)), -jnp.inf)
    return acc / jnp.where(total > 0, total, 1)[..., None], lse

  out, lse = jax.lax.map(lambda x: rows(*x), (grid.split_queries(q), grid.t))
  return grid.join(out).astype(v.dtype), grid.join(lse)


@_chunked.defjvp
def _chunked_jvp(scale, tile, primals, tangents):
  mask, q, k, v, bias = primals
  _, dq, dk, dv, dbias = tangents
  out, lse = _chunked(scale, tile, *primals)
  grid = _Grid(q, k, v, tile)

  @jax.checkpoint  # the weights of a tile are made again, not kept
  def rows(query, dquery, out, lse, t):
    @jax.checkpoint
    def keys(carry, part):
      key, value, dkey, dvalue, s = part

      def visit(carry):
        dlse, dout = carry
        score = grid.scores(query, key, bias, mask, t, s, scale)
        safe = jnp.where(lse == -jnp.inf, jnp.inf, lse)
        weight = jnp.exp(score - safe[..., None])
        dscore = scale * (grid.dot(dquery, key) + grid.dot(query, dkey))
        if bias is not None:
          dscore = dscore + grid.by_head(masks.block(dbias, t, s))
        change = weight * dscore
        dout = dout + grid.product(change, value) + grid.product(weight, dvalue)
        return dlse + change.sum(axis=-1), dout

      return jax.lax.cond(mask.empty(t, s), lambda c: c, visit, carry), None

    zero = jnp.zeros(grid.row_shape, wide(q))
    start = zero, jnp.zeros((*grid.row_shape, v.shape[-1]), wide(q))
    parts = (*grid.split_keys(k, v), *grid.split_keys(dk, dv), grid.s)
    (dlse, dout), _ = jax.lax.scan(keys, start, parts)
    return dout - dlse[..., None] * out, dlse

  split = grid.split_queries
  parts = (split(q), split(dq), split(out.astype(wide(q))), split(lse), grid.t)
  dout, dlse = jax.lax.map(lambda x: rows(*x), parts)
  return (out, lse), (grid.join(dout).astype(v.dtype), grid.join(dlse))


class _Grid:
  """Cuts arrays in tiles: queries (i, B, K, G, t, H), keys (j, B, K, s, H).

  G = N / K is the number of query heads of a key head.
  """

  def __init__(self, q, k, v, tile):
    (self.B, self.T, N, _), (self.S, self.K) = q.shape, k.shape[1:3]
    self.G = N // self.K
    self.rows, self.columns = _even(self.T, tile[0]), _even(self.S, tile[1])
    self.row_shape = (self.B, self.K, self.G, self.rows[1])
    self.t = jnp.arange(math.prod(self.rows)).reshape(self.rows)
    self.s = jnp.arange(math.prod(self.columns)).reshape(self.columns)

  def split_queries(self, x):
    (i, t), B, K, G = self.rows, self.B, self.K, self.G
    x = jnp.pad(x, ((0, 0), (0, i * t - self.T)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(B, i, t, K, G, *x.shape[3:]), (1, 2), (0, 4))

  def split_keys(self, *arrays):
    j, s = self.columns
    arrays = [jnp.pad(x, ((0, 0), (0, j * s - self.S), (0, 0), (0, 0))) for x in arrays]
    return [
      jnp.moveaxis(x.reshape(self.B, j, s, self.K, x.shape[3]), (1, 2), (0, 3))
      for x in arrays
    ]

  def join(self, x):  # (i, B, K, G, t, ...) -> (B, T, N, ...)
    x = jnp.moveaxis(x, (0, 4), (1, 2))
    return x.reshape(self.B, -1, self.K * self.G, *x.shape[5:])[:, : self.T]

  def by_head(self, x):  # (B|1, N|1, t, s) -> (B|1, K|1, G|1, t, s)
    heads = (self.K, self.G) if x.shape[1] > 1 else (1, 1)
    return x.reshape(x.shape[0], *heads, *x.shape[2:])

  def dot(self, query, key):
    return jnp.einsum(
      "bkgth,bksh->bkgts", query, key, preferred_element_type=wide(query)
    )

  def product(self, weight, value):
    return jnp.einsum(
      "bkgts,bksv->bkgtv", weight, value, preferred_element_type=wide(value)
    )

  def scores(self, query, key, bias, mask, t, s, scale):
    score = scale * self.dot(query, key)
    if bias is not None:
      score = score + self.by_head(masks.block(bias, t, s))
    seen = self.by_head(mask.tile(t, s)) & (s < self.S)
    return jnp.where(seen, score, -jnp.inf)


def _even(length: int, most: int) -> tuple[int, int]:
  """(number, size) of equal pieces of at most `most` that cover `length`."""
  number = max(1, -(-length // most))
  return number, max(1, -(-length // number))
