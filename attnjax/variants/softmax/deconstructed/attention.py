"""The three functions that take the place of softmax attention, and definitions."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax import attention, backends
from attnjax.contract import check_known
from attnjax.core import masks, softmax
from attnjax.core.recurrence.prefix import State
from attnjax.variants.recurrent import aaren
from attnjax.variants.softmax import dot_product
from attnjax.variants.softmax.deconstructed import documents, taylor
from attnjax.variants.softmax.deconstructed.definition import (
  reference,
  reference_fixed_qk_attention,
  reference_gated_mean_attention,
)

__all__ = [
  "IMPLEMENTATIONS",
  "NORMALISE",
  "fixed_qk_attention",
  "gated_mean_attention",
  "reference",
  "reference_fixed_qk_attention",
  "reference_gated_mean_attention",
  "taylor_attention",
]
IMPLEMENTATIONS = attention.IMPLEMENTATIONS
NORMALISE = ("common", "per_order")


def taylor_attention(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S N H"],
  v: Float[Array, "B S N V"],
  initial: Float[Array, "B N F E"] | None = None,
  *,
  causal: bool = False,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  normalise: str = "common",
  chunk: int | None = None,
  return_state: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes attention with weights 1 + x + x^2 / 2, x = scale q . k; (B, T, N, V).

  Over all pairs it is softmax attention of the scores log(1 + x + x^2 / 2); in chunks,
  whose time is linear in T, it is plain JAX.

  Args:
    q: queries.
    k: keys.
    v: values.
    initial: the state before the first token, see `taylor`; it is of its document.
    causal: token t sees s <= t; T = S.
    segment_ids: runs of equal ids are documents, negative ids padding; T = S.
    scale: H^-0.5 if None.
    normalise: "common": one denominator; "per_order": one for each of the terms 1, x
      and x^2 / 2, as in the recurrence of the paper's appendix.
    chunk: tokens of a chunk; 0 for all pairs; None for chunks where they cost less
      (T > 2 H^2), and for what needs them: a state, "per_order".
    return_state: also return the state after the last real token.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: for shapes that do not fit and unknown names.
    NotImplementedError: for chunks that are not causal or not in "xla".
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  _check(q, k, v, causal or segment_ids is not None, normalise)
  scale = q.shape[3] ** -0.5 if scale is None else scale
  given: dict[str, Any] = {"segment_ids": segment_ids, "scale": scale}
  if impl == "reference":
    given |= {"causal": causal, "normalise": normalise, "return_state": return_state}
    return reference(q, k, v, initial, **given)
  if _pairs(q, causal, chunk, return_state or initial is not None, normalise, impl):
    return _all_pairs(q, k, v, causal=causal, **given, impl=impl)
  given |= {"normalise": normalise, "chunk": chunk or taylor.CHUNK}
  out, state = taylor.chunked(q, k, v, initial, **given)
  return (out, state) if return_state else out


def _check(q, k, v, one_length: bool, normalise: str) -> None:
  check_known("normalise", normalise, NORMALISE)
  softmax.check(q, k, v)
  if one_length and q.shape[:3] != k.shape[:3]:
    raise ValueError(f"q {q.shape}, k {k.shape}: causal and segments need one length")


def _pairs(q, causal, chunk: int | None, state: bool, normalise, impl: str) -> bool:
  """Returns whether all pairs are computed, not chunks; refuses what neither can."""
  T, H, needs = q.shape[1], q.shape[3], state or normalise == "per_order"
  if chunk == 0 and needs:
    raise NotImplementedError("chunk = 0: all pairs keep no state and no orders apart")
  plain = causal and impl in ("auto", "xla")
  if (chunk or needs) and not plain:
    raise NotImplementedError(
      f"impl {impl!r}, causal = {causal}: a state, orders apart and chunks are causal,"
      " and run in 'xla'"
    )
  long = plain and T > 2 * H**2
  return not (needs or chunk or (chunk is None and long))


def _all_pairs(q, k, v, *, causal, segment_ids, scale, impl):
  if segment_ids is not None:
    segment_ids = documents.numbered(segment_ids)[0]
  return attention.dot_product_attention(
    q,
    k,
    v,
    mask=masks.Causal() if causal else None,
    score=lambda x, b, n, q, k: jnp.log1p(x + x * x / 2),
    segment_ids=segment_ids,
    scale=scale,
    impl=impl,
  )


def gated_mean_attention(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T N H"],
  v: Float[Array, "B T N V"],
  initial: State | None = None,
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  return_state: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes the mean of the values so far, by weights exp(H^-0.5 q[s] . k[s]).

  The weight of token s is its own affair: there is no query, (B, T, N, V). It is
  `aaren.attend` with a query of ones and the keys q * k.

  Args:
    q: what gates the keys of the same tokens; the paper's is a SiLU.
    k: keys.
    v: values.
    initial: the state before the first token, of its document.
    segment_ids: a document is a run of equal ids and sees itself only; a negative id is
      padding, whose output is 0.
    return_state: also return the state after the last real token.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  softmax.check(q, k, v)
  if impl == "reference":
    return reference_gated_mean_attention(q, k, v, initial, segment_ids, return_state)
  wide = jnp.promote_types(q.dtype, jnp.float32)
  gated, ones = q.astype(wide) * k.astype(wide), jnp.ones(q.shape[2:], wide)
  given: dict[str, Any] = {"segment_ids": segment_ids, "return_state": return_state}
  return aaren.attend(ones, gated, v, initial, **given, impl=impl)


def fixed_qk_attention(
  q: Float[Array, "1 L N H"],
  k: Float[Array, "1 L N H"],
  v: Float[Array, "B T N V"],
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes causal softmax attention by the maps of one fixed sequence.

  Token t of a document reads its token s by the weight that place t of the sequence
  gives to place s. Rows that are one document share the map: it is computed once, with
  the values of all rows side by side, unless a kernel computes it.

  Args:
    q: queries of the sequence, of the places 0, 1, 2, ...
    k: keys of the sequence.
    v: values of the tokens; T is at most L.
    segment_ids: a document is a run of equal ids and sees itself only; a negative id is
      padding, whose output is 0.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  B, T = v.shape[:2]
  if q.shape != k.shape or q.shape[0] != 1 or q.shape[2] != v.shape[2]:
    raise ValueError(f"q {q.shape}, k {k.shape}: (1, L, N, H) for v {v.shape}")
  if T > q.shape[1]:
    raise ValueError(f"{T} tokens; the fixed sequence has {q.shape[1]}")
  if impl == "reference":
    return reference_fixed_qk_attention(q, k, v, segment_ids)
  if segment_ids is not None:
    number, place = documents.numbered(segment_ids)
    q, k = (x[0][place] for x in (q, k))
    return dot_product.attend(q, k, v, causal=True, segment_ids=number, impl=impl)
  q, k = q[:, :T], k[:, :T]
  if impl == "xla" or (impl == "auto" and backends.kernels() is None):
    wide = jnp.moveaxis(v, 0, 2).reshape(1, T, v.shape[2], -1)
    out = dot_product.attend(q, k, wide, causal=True, impl="xla")
    return jnp.moveaxis(out.reshape(T, v.shape[2], B, v.shape[3]), 2, 0)
  q, k = (jnp.broadcast_to(x, (B, *x.shape[1:])) for x in (q, k))
  return dot_product.attend(q, k, v, causal=True, impl=impl)
