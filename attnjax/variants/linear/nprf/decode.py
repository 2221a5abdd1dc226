"""The next tokens of causal attention, from a state of constant size.

Lags of D - 1 and more have one weight: of the tokens that far back sums over keys are
enough, of the last D - 1 tokens keys and values are kept.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import linear, masks, toeplitz
from attnjax.variants.linear.nprf import attention, kernel


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """What decoding keeps; its size does not depend on the number of tokens.

  Attributes:
    k: (B, D - 1, N, H), of the last tokens, as given.
    v: (B, D - 1, N, E).
    document: int32, (B, D - 1), the number of each one's document; -1 is no token.
    sums: (B, N, F, E + 1), float32, of phi(k) [v, 1] over the tokens before them.
    sums_document: int32, (B,), the one document that the sums are of.
    peak: (B, N), the exponent that the sums are divided by.
    segment_ids: int32, (B,), of the last real token; -1 before the first one.
    number: int32, (B,), of the last real token's document.
  """

  k: Any
  v: Any
  document: Any
  sums: Any
  sums_document: Any
  peak: Any
  segment_ids: Any
  number: Any

  @classmethod
  def empty(cls, batch, distance, heads, head_dim, value_dim, features, dtype):
    """Before the first token; `distance` is D, `features` F, the size of phi."""
    kept, wide = (batch, distance - 1), jnp.promote_types(dtype, jnp.float32)
    return cls(
      k=jnp.zeros((*kept, heads, head_dim), dtype),
      v=jnp.zeros((*kept, heads, value_dim), dtype),
      document=jnp.full(kept, -1, jnp.int32),
      sums=jnp.zeros((batch, heads, features, value_dim + 1), wide),
      sums_document=jnp.full((batch,), -1, jnp.int32),
      peak=jnp.full((batch, heads), -jnp.inf, wide),
      segment_ids=jnp.full((batch,), -1, jnp.int32),
      number=jnp.zeros((batch,), jnp.int32),
    )


def step(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T N H"],
  v: Float[Array, "B T N E"],
  state: State,
  bias: Float[Array, "N L"] | None = None,
  w: Float[Array, "*N M H"] | None = None,
  *,
  features: str = "positive",
  normalise: bool = True,
  scale: float | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T N E"], State]:
  """(z, next state) of the next T tokens, T >= 1; what `attend` with `causal` does.

  Args:
    q: queries.
    k: keys.
    v: values.
    state: of the tokens before, `State.empty` with the D of the bias at first.
    bias: as in `attend`, (N, 2 D - 1).
    w: as in `attend`, and so are the others.
    features: the same.
    normalise: the same.
    scale: the same.
    segment_ids: the same; negative at the padding.
  """
  B, T, N, _ = q.shape
  own, state = _number(segment_ids, (B, T), state)
  k = jnp.concatenate([state.k, k.astype(state.k.dtype)], axis=1)
  v = jnp.concatenate([state.v, v.astype(state.v.dtype)], axis=1)
  document = jnp.concatenate([state.document, own], axis=1)
  q, keys = (attention.scaled(x, normalise, scale) for x in (q, k))
  peak, decay = _raise(keys, w, features, normalise, document, state)
  phi_q = jnp.moveaxis(kernel.of_queries(q, w, features), 2, 1)
  shift = jnp.broadcast_to(peak[:, None], keys.shape[:-1])
  phi_k = jnp.moveaxis(kernel.of_keys(keys, w, features, shift), 2, 1)
  phi_k = jnp.where((document >= 0)[:, None, :, None], phi_k, 0)
  ones = jnp.moveaxis(attention.with_ones(v), 2, 1)

  c, sums = kernel.table(bias, N, 1, True), decay[..., None, None] * state.sums
  out = _near(phi_q, phi_k, ones, c, own, document)
  far = c[:, :1, None] * jnp.einsum("bntf,bnfe->bnte", phi_q, sums)
  out = out + jnp.where((own == state.sums_document[:, None])[:, None, :, None], far, 0)
  out = jnp.where((own >= 0)[:, None, :, None], out, 0)
  z = jnp.moveaxis(attention.divide(out, v.dtype), 1, 2)
  sums, of = _leave(phi_k[:, :, :T], ones[:, :, :T], document[:, :T], sums, state)
  k, v, document = k[:, T:], v[:, T:], document[:, T:]
  state = dataclasses.replace(state, k=k, v=v, document=document, peak=peak)
  return z, dataclasses.replace(state, sums=sums, sums_document=of)


def _near(phi_q, phi_k, ones, c, own, document):
  """The sums over the tokens that are kept and the new ones."""
  T, S = phi_q.shape[2], phi_k.shape[2]
  # The lags of T rows, the first of which is that of the token after those kept.
  weights = toeplitz.rows(kernel.spread(c, (S,), True)[:, : S + T - 1], T)
  weights = weights * jnp.einsum("bntf,bnsf->bnts", phi_q, phi_k)
  same = own[:, :, None] == document[:, None, :]
  return jnp.einsum("bnts,bnse->bnte", jnp.where(same[:, None], weights, 0), ones)


def _leave(phi_k, ones, document, sums, state):
  """(sums, their document) with the tokens that are kept no longer."""
  last = jnp.where(document.max(axis=1) >= 0, document.max(axis=1), state.sums_document)
  added = jnp.where((document == last[:, None])[:, None, :, None], phi_k, 0)
  goes_on = (last == state.sums_document)[:, None, None, None]
  added = jnp.einsum("bnsf,bnse->bnfe", added, ones)
  return jnp.where(goes_on, sums, 0) + added, last


def _number(segment_ids, shape, state) -> tuple[Array, State]:
  """The documents of the new tokens, numbered on from the state's."""
  ids = jnp.zeros(shape, jnp.int32) if segment_ids is None else segment_ids
  ids = jnp.concatenate([state.segment_ids[:, None], ids.astype(jnp.int32)], axis=1)
  filled, real = linear.spans(ids)
  numbers = jnp.where(real, masks.documents(filled) + state.number[:, None], -1)
  last = jnp.where(filled[:, -1] < 0, state.segment_ids, filled[:, -1])
  number = jnp.maximum(state.number, numbers.max(axis=1))
  return numbers[:, 1:], dataclasses.replace(state, segment_ids=last, number=number)


def _raise(keys, w, features, normalise, document, state):
  """The new peak, and what divides the old sums by it."""
  if normalise:
    return jnp.zeros_like(state.peak), jnp.ones_like(state.peak)
  peaks = kernel.peaks(keys, w, features)
  peaks = jnp.where((document >= 0)[..., None], peaks, -jnp.inf)
  peak = jnp.maximum(state.peak, peaks.max(axis=1))
  finite = jnp.where(jnp.isfinite(peak), peak, 0)
  decay = jnp.where(jnp.isfinite(state.peak), jnp.exp(state.peak - finite), 0)
  # Before the first real token nothing has been summed, and nothing is remembered.
  return finite, decay
