"""The reference of softmax attention, with the whole (T, S) matrix of scores."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores


def reference(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  scores: Scores | None = None,
  *,
  sinks: Float[Array, "N"] | None = None,
  scale: float | None = None,
) -> tuple[Float[Array, "B T N V"], Float[Array, "B T N"]]:
  """Computes (out, lse) by the definition in the package's docstring, line by line."""
  scores = Scores() if scores is None else scores
  check(q, k, v, scores, sinks)
  (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
  scale = H**-0.5 if scale is None else scale
  score = scored(q, k, v, scores, scale)
  query, key = scores.positions(T, S)
  sink = None if sinks is None else sinks.astype(score.dtype)[:, None, None]
  if sink is not None:
    column = jnp.broadcast_to(sink, (*score.shape[:3], 1))
    score = jnp.concatenate([score, column], axis=-1)
  some = (score != -jnp.inf).any(axis=-1, keepdims=True)
  # The scores of an empty row are 0, so that no gradient is NaN.
  score = jnp.where(some, score, 0.0)
  weight = jnp.where(some, jax.nn.softmax(score, axis=-1), 0.0)[..., :S]
  lse = jnp.where(some[..., 0], jax.nn.logsumexp(score, axis=-1), -jnp.inf)
  if scores.rate:
    weight = weight * scores.kept(scores.seeds, query, key)
  weight = weight.reshape(B, K, N // K, T, S)
  out = jnp.einsum(
    "bkgts,bskv->btkgv", weight, _clean(v), preferred_element_type=accumulator_dtype(q)
  )
  return out.reshape(B, T, N, -1).astype(v.dtype), lse.swapaxes(1, 2)


def scored(q, k, v, scores: Scores, scale: float) -> Float[Array, "B N T S"]:
  """Returns all scores, -inf where unseen, NaN where q, k or v is not finite."""
  (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
  heads = _clean(q).reshape(B, T, K, N // K, H)  # query head n reads key head n K // N
  raw = jnp.einsum(
    "btkgh,bskh->bkgts", heads, _clean(k), preferred_element_type=accumulator_dtype(q)
  )
  raw = scale * raw.reshape(B, N, T, S)
  query, key = scores.positions(T, S)
  places = jnp.arange(B), jnp.arange(N), query, key
  seen = scores.mask.dense(T, S, query, key)
  # Unseen scores are 0 before the modifications, so that no derivative is NaN.
  raw = jnp.where(seen, raw, 0.0)
  bias = scores.bias
  if bias is not None:  # upcast before it is broadcast, so that its gradient sums wide
    bias = jnp.where(seen, bias.astype(raw.dtype), 0.0)
  score = scores.modified(raw, bias, scores.consts, *places)
  score = jnp.where(_infected(q, k, v, N), jnp.nan, score)
  return jnp.where(seen, score, -jnp.inf)


def _clean(x):
  """Replaces NaN and infinity by 0.

  A product would spread them to queries that do not see them.
  """
  return jnp.where(jnp.isfinite(x), x, 0)


def _infected(q, k, v, N):
  """Returns where q, k or v is not finite, (B, N, T, S): scores there are NaN."""
  rows, keys, values = (~jnp.isfinite(x).all(axis=-1) for x in (q, k, v))
  keys = jnp.repeat(keys | values, N // k.shape[2], axis=2)
  return rows.swapaxes(1, 2)[:, :, :, None] | keys.swapaxes(1, 2)[:, :, None]


def check(q, k, v, scores=None, sinks=None) -> None:
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
  whole = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
  if scores is not None:
    scores.mask.check(whole)
    bias = scores.bias
    if bias is not None and not (
      bias.ndim == 4 and all(b in (1, w) for b, w in zip(bias.shape, whole))
    ):
      raise ValueError(f"bias {bias.shape} does not broadcast to (B, N, T, S) {whole}")
  if sinks is not None and sinks.shape != (q.shape[2],):
    raise ValueError(f"sinks {sinks.shape} must have one number a query head, (N,)")


def combine(
  outs: Iterable[Float[Array, "*B T N V"]], lses: Iterable[Float[Array, "*B T N"]]
) -> tuple[Float[Array, "*B T N V"], Float[Array, "*B T N"]]:
  """Combines (out, lse) of attention over parts of the keys to those over all keys.

  Args:
    outs: of each part; a list of arrays, or one array.
    lses: of each part, -inf where a query saw nothing there.
  """
  out, lse = jnp.stack(list(outs)), jnp.stack(list(lses))
  some = lse != -jnp.inf
  top = jax.lax.stop_gradient(jnp.where(some.any(axis=0), lse.max(axis=0), 0))
  # Differences first: at -1e9 the log of their sum would be lost to rounding.
  weight = jnp.where(some, jnp.exp(jnp.where(some, lse, top[None]) - top[None]), 0)
  total = weight.sum(axis=0)
  share = weight / jnp.where(total == 0, 1, total)[None]
  whole = (share[..., None] * out.astype(accumulator_dtype(out))).sum(axis=0)
  log = jnp.where(total == 0, -jnp.inf, top + jnp.log(jnp.where(total == 0, 1, total)))
  return whole.astype(out.dtype), log
