"""The sink score: the mean attention that a token gets from the queries behind it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from attnjax import attention, statistics
from attnjax.contract import check_known
from attnjax.contract.trace import Trace
from attnjax.core import masks
from attnjax.ops import traced_attention

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def sink_scores(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  *,
  scale: float | None = None,
  window: int = 0,
  distance: int = 0,
  least: int = 1,
  segment_ids: Int[Array, "B T"] | None = None,
  impl: str = "auto",
) -> Float[Array, "B N T"]:
  """Computes the mean weight of each token over the queries behind it.

    score[n, j] = mean of A[n, i, j] over the queries i > j + distance that may see j

  A is causal softmax attention. Memory is O(T), by `attention_column_sums`.

  Args:
    q: queries, with positions in them.
    k: keys; K divides N.
    scale: H^-0.5 if None.
    window: keys that a query sees, itself included; 0 is all before it.
    distance: nearer queries do not count; where attention fades with distance, nearness
      looks like a sink, and 16 leaves that out.
    least: a token with fewer such queries has the score 0.
    segment_ids: (B, T), documents; negative ids see nothing.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: for a `window` or `distance` below 0, or a `least` below 1.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  for name, value, low in (("window", window, 0), ("distance", distance, 0)):
    if value < low:
      raise ValueError(f"{name} = {value}; it must be {low} or more")
  if least < 1:
    raise ValueError(f"least = {least}; it must be 1 or more")
  if impl == "reference":
    given = {"scale": scale, "window": window, "distance": distance, "least": least}
    return reference_sink_scores(q, k, **given, segment_ids=segment_ids)
  mask: Any = masks.Causal()
  mask = mask & masks.Window(window - 1, 0) if window else mask
  given = {"scale": scale, "segment_ids": segment_ids, "impl": impl}
  _, lse = attention.dot_product_attention(
    q, k, k[..., :1], mask=mask, return_lse=True, **given
  )
  counted = mask & ~masks.Window(distance, 0)
  sums = statistics.attention_column_sums(q, k, lse, mask=counted, **given)
  number = later(q.shape[1], window, distance, segment_ids)
  return jnp.where(number >= least, sums / jnp.maximum(number, 1), 0)


def later(T: int, window: int, distance: int, segment_ids: Any = None) -> Array:
  """Returns how many queries count for each token, (B|1, 1, T) float32."""
  t = jnp.arange(T)
  if segment_ids is None:
    last = jnp.minimum(T - 1, t + window - 1) if window else jnp.full(T, T - 1)
    return jnp.maximum(last - t - distance, 0.0)[None, None]
  apart = t[:, None] - t
  seen = (apart > distance) & ((apart < window) if window else True)
  same = (segment_ids[:, :, None] == segment_ids[:, None]) & (segment_ids >= 0)[:, None]
  return (seen & same).sum(axis=1, dtype=jnp.float32)[:, None]


def reference_sink_scores(
  q, k, *, scale=None, window=0, distance=0, least=1, segment_ids=None
):
  """Computes the scores by their definition: one (T, T) matrix for each head."""
  (_, T, N, H), K = q.shape, k.shape[2]
  apart = jnp.arange(T)[:, None] - jnp.arange(T)
  seen = jnp.broadcast_to((apart >= 0)[None], (len(q), T, T))
  if window:
    seen &= apart < window
  if segment_ids is not None:
    seen &= segment_ids[:, :, None] == segment_ids[:, None]
    seen &= (segment_ids >= 0)[:, None]
  key = jnp.repeat(k, N // K, axis=2)
  score = jnp.einsum("btnh,bsnh->bnts", q, key, preferred_element_type=jnp.float32)
  score = score * (H**-0.5 if scale is None else scale)
  score = jnp.where(seen[:, None], score, -1e30)
  top = jax.lax.stop_gradient(score.max(axis=-1, keepdims=True))
  weight = jnp.where(seen[:, None], jnp.exp(score - top), 0)
  total = weight.sum(axis=-1, keepdims=True)
  weight = weight / jnp.where(total == 0, 1, total)
  counted = (seen & (apart > distance))[:, None]
  number = counted.sum(axis=2)
  sums = jnp.where(counted, weight, 0).sum(axis=2)
  return jnp.where(number >= least, sums / jnp.where(number, number, 1), 0)


def scores_of(
  trace: Trace, *, window: int = 0, distance: int = 0, least: int = 1
) -> Float[np.ndarray, "B L N T"]:
  """Computes `sink_scores` of every layer of a trace.

  Raises:
    NotImplementedError: for a layer whose mechanism is not causal softmax attention of
      its q, k and v: its weights are not those of this function.
  """
  found, mask = [], masks.Window(window - 1, 0) if window else None
  for index, (heads, mixed) in enumerate(zip(trace.heads, trace.mixed)):
    traced_attention.lse(heads, mixed, index=index, mask=mask)  # or an error
    seen = heads.seen.get("segment_ids")
    how = {"window": window, "distance": distance, "least": least}
    found.append(np.asarray(_scored(heads.q, heads.k, seen, **how)))
  return np.stack(found, axis=1)


@functools.partial(jax.jit, static_argnames=("window", "distance", "least"))
def _scored(q, k, segment_ids, **options):
  return sink_scores(q, k, segment_ids=segment_ids, **options)


def spearman(x: Num[np.ndarray, "n"], y: Num[np.ndarray, "n"]) -> float:
  """Computes the rank correlation of two lists; NaN if one of them is constant."""
  return pearson(_ranks(np.asarray(x)), _ranks(np.asarray(y)))


def pearson(x: Num[np.ndarray, "n"], y: Num[np.ndarray, "n"]) -> float:
  """Computes the linear correlation of two lists; NaN if one of them is constant."""
  x, y = (np.asarray(a, np.float64) - np.mean(a) if len(a) else a for a in (x, y))
  length = np.sqrt(np.sum(np.square(x)) * np.sum(np.square(y)))
  return float(np.sum(x * y) / length) if length > 0 else float("nan")


def _ranks(x):
  """Returns ranks from 0, equal values sharing the mean of theirs."""
  _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
  return (np.cumsum(counts) - (counts + 1) / 2)[place.reshape(np.shape(x))]
