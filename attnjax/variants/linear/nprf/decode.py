"""Decoding of causal attention with a state of constant size.

Lags of D - 1 and more have one weight: for tokens that far back sums over keys are
kept, for the last D - 1 tokens keys and values.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import masks, toeplitz
from attnjax.core.exported import serializable
from attnjax.core.recurrence import linear
from attnjax.variants.linear.nprf import algorithms, attention, kernel


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """The decoding state; its size does not depend on the number of tokens.

  It holds the last document only, since no later token sees an earlier document.

  Attributes:
    k: (B, D - 1, N, H), keys of the last tokens, as given.
    v: (B, D - 1, N, E).
    document: int32, (B, D - 1), 0 for tokens of the document, -1 for all others.
    sums: (B, N, F, E + 1), float32, of phi(k) [v, 1] over the document's earlier
      tokens, each feature's sum divided by exp(peak).
    peak: (B, N, F), the greatest exponent in each sum; -inf for none.
  """

  k: Any
  v: Any
  document: Any
  sums: Any
  peak: Any

  @classmethod
  def empty(cls, batch, distance, heads, head_dim, value_dim, num_features, dtype):
    """Returns the state before the first token; `distance` is D.

    `num_features` is F, the size of phi.
    """
    kept, wide = (batch, distance - 1), jnp.promote_types(dtype, jnp.float32)
    return cls(
      k=jnp.zeros((*kept, heads, head_dim), dtype),
      v=jnp.zeros((*kept, heads, value_dim), dtype),
      document=jnp.full(kept, -1, jnp.int32),
      sums=jnp.zeros((batch, heads, num_features, value_dim + 1), wide),
      peak=jnp.full((batch, heads, num_features), -jnp.inf, wide),
    )


def step(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T N H"],
  v: Float[Array, "B T N E"],
  state: State,
  bias: Float[Array, "N L"] | None = None,
  w: Float[Array, "*N M H"] | None = None,
  *,
  feature_map: str = "positive",
  normalise: bool = True,
  scale: float | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T N E"], State]:
  """Returns (z, next state) of the next T >= 1 tokens, equal to causal `attend`.

  Args:
    q: queries.
    k: keys.
    v: values.
    state: the state before the tokens, at the start `State.empty` with the bias's D.
    bias: as in `attend`, (N, 2 D - 1).
    w: as in `attend`.
    feature_map: as in `attend`.
    normalise: as in `attend`.
    scale: as in `attend`.
    segment_ids: as in `attend`; negative at padding.
  """
  B, T, N, _ = q.shape
  own = _numbered(segment_ids, (B, T))
  k = jnp.concatenate([state.k, k.astype(state.k.dtype)], axis=1)
  v = jnp.concatenate([state.v, v.astype(state.v.dtype)], axis=1)
  document = jnp.concatenate([state.document, own], axis=1)
  (q, _), (keys, amplitude) = (
    kernel.of(attention.scaled(x, normalise, scale), w, feature_map) for x in (q, k)
  )
  amplitude = jnp.moveaxis(amplitude, 2, 1)
  amplitude = jnp.where((document >= 0)[:, None], amplitude, -jnp.inf)
  q, keys, ones = (jnp.moveaxis(x, 2, 1) for x in (q, keys, attention.with_ones(v)))
  x = algorithms.Factors(q, keys, amplitude, ones)
  positive, c = feature_map == "positive", kernel.table(bias, N, 1, True)
  rows = algorithms.joined(
    _near(x, c, own, document, positive), _far(x.q, c, own, state, positive)
  )
  out = jnp.where((own >= 0)[:, None, :, None], rows.sums, 0)
  z = jnp.moveaxis(attention.divide(out, v.dtype), 1, 2)
  gone = algorithms.Factors(x.q, *(y[:, :, :T] for y in x[1:]))
  last = jnp.maximum(own.max(axis=1), 0)[:, None]
  sums, peak = _leave(gone, document[:, :T] == last, last == 0, state, positive)
  document = jnp.where(document[:, T:] == last, 0, -1)
  return z, State(k[:, T:], v[:, T:], document, sums, peak)


def _near(x, c, own, document, positive) -> algorithms.Rows:
  """Computes the sums over the kept tokens and the new ones."""
  T, S = x.q.shape[2], x.k.shape[2]
  # The lags of T rows; the first row is the token after the kept ones.
  logs = toeplitz.rows(kernel.spread(c, (S,), True)[:, : S + T - 1], T)
  same = (own[:, :, None] == document[:, None, :])[:, None]
  return algorithms.direct(x, jnp.where(same, logs, -jnp.inf), positive)


def _far(q, c, own, state, positive) -> algorithms.Rows:
  """Computes the sums over the tokens that are no longer kept, all at one lag."""
  peak = algorithms.finite(state.peak)[:, :, None]
  logs = q + peak if positive else jnp.broadcast_to(peak, q.shape)
  top = algorithms.finite(logs.max(-1))
  scale = jnp.exp(logs - top[..., None])
  sums = jnp.einsum("bntf,bnfe->bnte", scale if positive else scale * q, state.sums)
  here = (own == 0)[:, None]
  some = here & (state.peak.max(-1) > -jnp.inf)[..., None]
  return algorithms.Rows(jnp.where(some, top + c[None, :, :1], -jnp.inf), sums)


def _leave(x, seen, goes_on, state, positive) -> tuple[Array, Array]:
  """Returns (sums, peak) with the tokens added that are kept no longer, where `seen`.

  goes_on (B, 1): whether the last document is the document of the state.
  """
  amplitude = jnp.where(seen[:, None], x.amplitude, -jnp.inf)[..., None]
  logs = jnp.broadcast_to(x.k + amplitude if positive else amplitude, x.k.shape)
  before = jnp.where(goes_on[..., None], state.peak, -jnp.inf)
  peak = jnp.maximum(before, logs.max(axis=2))
  shift = algorithms.finite(peak)
  new = jnp.exp(logs - shift[:, :, None])
  new = new if positive else new * x.k
  added = jnp.einsum("bnsf,bnse->bnfe", new, x.columns)
  kept = jnp.exp(before - shift)[..., None] * state.sums
  return kept + added, peak


def _numbered(segment_ids, shape) -> Int[Array, "B T"]:
  """Returns the consecutive numbers of the tokens' documents; -1 at padding."""
  if segment_ids is None:
    return jnp.zeros(shape, jnp.int32)
  filled, real = linear.spans(segment_ids)
  return jnp.where(real, masks.documents(filled), -1)
