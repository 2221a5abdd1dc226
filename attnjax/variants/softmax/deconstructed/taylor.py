"""Taylor attention in linear time: chunks of tokens, and a state between them.

The state S (B, N, 1 + H + H^2, V + 1) holds the sums over the past tokens of

  (1, k, vec k k^T) (v, 1)^T

so that a query reads the sums of its three orders, scaled q being q H^-0.5:

  S[0],   q S[1 .. H],   1/2 vec(q q^T) S[H + 1 ..]

and its own chunk's tokens by all pairs. The last column is the denominator.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import devices
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence import chunking, linear

CHUNK = 64


def empty(batch: int, heads: int, size: int, value_size: int, dtype: Any) -> Array:
  """Returns the state of no tokens, for keys of `size` and values of `value_size`."""
  return jnp.zeros((batch, heads, 1 + size + size**2, value_size + 1), dtype)


def chunked(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T N H"],
  v: Float[Array, "B T N V"],
  state: Float[Array, "B N F E"] | None,
  *,
  segment_ids: Int[Array, "B T"] | None,
  scale: float,
  normalise: str,
  chunk: int,
) -> tuple[Float[Array, "B T N V"], Float[Array, "B N F E"]]:
  """Returns (out, the state after the last real token).

  Args:
    q: queries.
    k: keys.
    v: values.
    state: before the first token, of its document; None for no tokens.
    segment_ids: runs are documents, negative ids padding; None is one document.
    scale: of q . k.
    normalise: "common" or "per_order".
    chunk: tokens of a chunk, at most.
  """
  (B, T, N, H), V, dtype = q.shape, v.shape[3], accumulator_dtype(q)
  number = max(1, -(-T // chunk))
  size = -(-T // number)
  state = empty(B, N, H, V, dtype) if state is None else state.astype(dtype)
  if not B * T:
    return jnp.zeros((B, T, N, V), v.dtype), state
  one = jnp.ones((B, T, N, 1), dtype)
  ids = real = None
  if segment_ids is not None:
    ids, real = linear.spans(segment_ids)
    q, k, v, one = (jnp.where(real[..., None, None], x, 0) for x in (q, k, v, one))
  q, k, v, one, ids, state = devices.vary((q, k, v, one, ids, state))
  arrays = scale * q.astype(dtype), k.astype(dtype)
  arrays += (jnp.concatenate([v.astype(dtype), one], axis=-1),)
  parts = (
    *(chunking.split(x, number, size).swapaxes(2, 3) for x in arrays),
    None if ids is None else chunking.split(ids, number, size, mode="edge"),
  )
  start = state, None if ids is None else ids[:, 0]
  # The products of a chunk are recomputed in the backward pass, not kept.
  body = jax.checkpoint(functools.partial(_chunk, normalise), prevent_cse=False)
  (state, _), out = jax.lax.scan(body, start, parts)
  out = jnp.moveaxis(out, (0, 3), (1, 2)).reshape(B, number * size, N, V)[:, :T]
  if real is not None:
    out = jnp.where(real[..., None, None], out, 0)
  return out.astype(v.dtype), state


def _chunk(normalise, carry, part):
  """Runs a chunk: q, k (B, N, C, H), v and ones (B, N, C, V + 1), ids (B, C)."""
  (state, before), (q, k, v, ids) = carry, part
  C = q.shape[2]
  seen = jnp.tril(jnp.ones((1, 1, C, C), bool))
  read = write = keep = jnp.ones((1, 1, 1, 1), bool)
  if ids is not None:
    seen = seen & (ids[:, :, None] == ids[:, None, :])[:, None]
    read = (ids == before[:, None])[:, None, :, None]
    write = (ids == ids[:, -1:])[:, None, :, None]
    keep = (ids[:, -1] == before)[:, None, None, None]
    before = ids[:, -1]
  x = jnp.einsum("bnrh,bnch->bnrc", q, k)
  weights = [jnp.where(seen, w, 0) for w in (jnp.ones_like(x), x, x * x / 2)]
  past = _orders(_features(q) * read, state)
  sums = [jnp.einsum("bnrc,bnce->bnre", w, v) + o for w, o in zip(weights, past)]
  added = jnp.einsum("bncf,bnce->bnfe", _features(k), v * write)
  return (state * keep + added, before), normalised(sums, normalise)


def normalised(sums, normalise: str) -> Array:
  """Returns the outputs of the sums of the three orders, (..., V + 1) each.

  "common": their sum over that of the denominators; "per_order": the sum of the three
  quotients. A denominator of 0 gives 0.
  """
  sums = [sums[0] + sums[1] + sums[2]] if normalise == "common" else sums
  below = [s[..., -1:] for s in sums]
  some = [jnp.where(b == 0, 1, b) for b in below]
  quotients = [
    jnp.where(b == 0, 0, s[..., :-1] / d) for s, b, d in zip(sums, below, some)
  ]
  return functools.reduce(jnp.add, quotients)


def _features(x):
  """Returns (1, x, vec x x^T), (..., 1 + H + H^2)."""
  square = (x[..., :, None] * x[..., None, :]).reshape(*x.shape[:-1], -1)
  return jnp.concatenate([jnp.ones_like(x[..., :1]), x, square], axis=-1)


def _orders(features, state):
  """Returns what queries (B, N, C, 1 + H + H^2) read of each order, (B, N, C, V + 1).

  H follows from 1 + H + H^2 by the greatest root below it.
  """
  H = int((features.shape[-1] - 1) ** 0.5)
  cuts, read = [1, 1 + H], functools.partial(jnp.einsum, "bncf,bnfe->bnce")
  parts = zip(jnp.split(features, cuts, axis=-1), jnp.split(state, cuts, axis=-2))
  zero, one, two = (read(f, s) for f, s in parts)
  return zero, one, two / 2
