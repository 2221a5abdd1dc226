"""The parts of definitions: masked softmax, visible pairs, documents, the best tokens.

Every `reference` is written with these and plain `jax.numpy`. The implementations that
are compared with it use none of them, and none of these uses a part of theirs: an error
in a shared part would be in both results, and no comparison would show it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def wide(x: Num[Array, "..."]) -> Float[Array, "..."]:
  """Upcasts to float32; float64 stays."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def weights(
  scores: Float[Array, "*R S"], seen: Any = True
) -> tuple[Float[Array, "*R S"], Float[Array, "*R"]]:
  """Computes the softmax over the last axis, and the log of its denominator.

  Args:
    scores: of all pairs.
    seen: False takes a pair out. A row without a pair has weights 0 and log -inf.
  """
  scores = jnp.where(seen, scores, -jnp.inf)
  some = (scores != -jnp.inf).any(axis=-1, keepdims=True)
  scores = jnp.where(some, scores, 0)  # no NaN in the gradient of an empty row
  log = jnp.where(some[..., 0], jax.nn.logsumexp(scores, axis=-1), -jnp.inf)
  return jnp.where(some, jax.nn.softmax(scores, axis=-1), 0), log


def attention(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  seen: Any = True,
  *,
  bias: Any = None,
  scale: float | None = None,
) -> tuple[Float[Array, "B T N V"], Float[Array, "B T N"]]:
  """Computes (out, lse) of softmax attention; query head n reads key head n K // N.

  Keys that no query sees may hold anything, NaN too.

  Args:
    q: queries.
    k: keys.
    v: values.
    seen: False takes a pair out; it broadcasts to (B, N, T, S).
    bias: added to the scaled scores; it broadcasts too.
    scale: H^-0.5 if None.
  """
  scale = q.shape[3] ** -0.5 if scale is None else scale
  key, value = (jnp.repeat(wide(x), q.shape[2] // x.shape[2], axis=2) for x in (k, v))
  if seen is not True:
    shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    some = jnp.broadcast_to(seen, shape).any(axis=2).swapaxes(1, 2)[..., None]
    key, value = jnp.where(some, key, 0), jnp.where(some, value, 0)
  scores = scale * jnp.einsum("btnh,bsnh->bnts", wide(q), key)
  weight, lse = weights(scores if bias is None else scores + bias, seen)
  out = jnp.einsum("bnts,bsnv->btnv", weight, value)
  return out.astype(v.dtype), lse.swapaxes(1, 2)


def attention_on_grid(
  q: Float[Array, "B *S N H"],
  k: Float[Array, "B *R K H"],
  v: Float[Array, "B *R K V"],
  seen: Any = True,
  **options,
) -> Float[Array, "B *S N V"]:
  """Computes `attention` of all points of a grid, in row-major order."""
  one, two, three = (x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (q, k, v))
  out, _ = attention(one, two, three, seen, **options)
  return out.reshape(*q.shape[:-1], v.shape[-1])


def visible(
  T: int,
  S: int,
  causal: bool = False,
  offset: Int[Array, ""] | int | None = None,
  segment_ids: Int[Array, "..."] | None = None,
  kv_segment_ids: Int[Array, "..."] | None = None,
  mask: Bool[Array, "#B #N #T #S"] | None = None,
) -> Bool[Array, "#B #N T S"]:
  """Returns whether query t sees key s; the arguments of softmax attention say it."""
  seen = jnp.ones((1, 1, T, S), bool)
  if causal:
    offset = S - T if offset is None else offset
    seen = seen & (jnp.arange(S) <= jnp.arange(T)[:, None] + offset)
  if segment_ids is not None:
    own = jnp.atleast_2d(segment_ids)[:, None, :, None]
    others = segment_ids if kv_segment_ids is None else kv_segment_ids
    seen = seen & (own == jnp.atleast_2d(others)[:, None, None, :]) & (own >= 0)
  return seen if mask is None else seen & mask


def documents(
  segment_ids: Int[Array, "B T"] | None,
  valid: Bool[Array, "B T"] | None,
  shape: tuple[int, int],
) -> Int[Array, "B T"]:
  """Returns the number of each token's document, a run of equal ids; -1 at padding.

  Padding, where the id is negative or `valid` is False, does not end a document.

  Args:
    segment_ids: None is one document.
    valid: None is no padding.
    shape: (B, T).
  """
  ids = jnp.zeros(shape, jnp.int32) if segment_ids is None else segment_ids
  real = ids >= 0 if valid is None else (ids >= 0) & valid
  t = jnp.arange(shape[1])
  earlier = real[:, None, :] & (t < t[:, None])
  before = jnp.where(earlier, t, -1).max(axis=2, initial=-1)
  last = jnp.take_along_axis(ids, jnp.maximum(before, 0), axis=1)
  new = real & ((before < 0) | (last != ids))
  return jnp.where(real, jnp.cumsum(new, axis=1) - 1, -1)


def best(
  scores: Float[Array, "..."],
  allowed: Bool[Array, "..."],
  count: int | Int[Array, "..."],
) -> Bool[Array, "..."]:
  """Returns whether a token has fewer than `count` allowed ones before it in rank.

  Before it are greater scores, and equal ones of earlier tokens.
  """
  s = jnp.arange(scores.shape[-1])
  one, other = scores[..., :, None], scores[..., None, :]
  ahead = (other > one) | (other == one) & (s < s[:, None])
  return allowed & ((allowed[..., None, :] & ahead).sum(axis=-1) < count)
