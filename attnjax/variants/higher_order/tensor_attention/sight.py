"""The arguments that say which keys a query sees, checked."""

from typing import Any, TypedDict

import jax.numpy as jnp

from attnjax.core.third_order import Sight


class Seen(TypedDict, total=False):
  """Further arguments: which keys a query sees, in every stream unless said otherwise.

  Attributes:
    causal: token t sees the keys s <= t + offset.
    offset: S - T if None, which aligns the last query with the last key.
    window: for each stream the tokens t + offset - w < s that a query sees of it, and
      s < t + offset + w if not causal; None is no window.
    segment_ids: (T,) or (B|1, T); tokens see their own segment; negative ids see
      nothing and are not seen.
    kv_segment_ids: (S,) or (B|1, S); `segment_ids` if None, which needs T = S.
    mask: (S,) or (B|1, S), True at the keys that may be seen.
  """

  causal: bool
  offset: Any
  window: Any
  segment_ids: Any
  kv_segment_ids: Any
  mask: Any


def windows(given: Any, streams: int) -> tuple[int, ...]:
  """Returns a window a stream, 0 for none.

  Raises:
    ValueError: for another number of windows, or one below 1.
  """
  given = (None,) * streams if given is None else tuple(given)
  if len(given) != streams:
    raise ValueError(f"window = {given}; {streams} streams have one each")
  found = tuple(0 if w is None else w for w in given)
  if any(w is not None and w < 1 for w in given):
    raise ValueError(f"window = {given}; each is None or at least 1")
  return found


def offsets(offset: Any, T: int, S: int) -> tuple[int | None, Any]:
  """Returns the offset as (a number, None), or, if it is an array, (None, int32 ())."""
  offset = S - T if offset is None else offset
  if isinstance(offset, int):
    return offset, None
  return None, jnp.asarray(offset, jnp.int32)


def segments(shape, segment_ids=None, kv_segment_ids=None, mask=None) -> Any:
  """Returns the ids ((B, T), (B, S)) of queries and keys, or None if all are equal.

  Args:
    shape: (B, T, S).
    segment_ids: as in `Seen`.
    kv_segment_ids: as in `Seen`.
    mask: as in `Seen`.

  Raises:
    ValueError: for a shape or a type that does not fit.
  """
  B, T, S = shape
  if segment_ids is None and kv_segment_ids is not None:
    raise ValueError("kv_segment_ids without segment_ids")
  if segment_ids is None and mask is None:
    return None
  others = segment_ids if kv_segment_ids is None else kv_segment_ids
  own = _lines("segment_ids", segment_ids, (B, T))
  others = _lines("kv_segment_ids", others, (B, S))
  if mask is not None:
    if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
      raise ValueError(f"mask has the type {mask.dtype}; it must be boolean")
    others = jnp.where(_lines("mask", mask, (B, S)), others, -1)
  return own, others


def _lines(name: str, given, shape: tuple[int, int]):
  """Returns an array of ids or booleans as (B, T), 0 if it is None."""
  if given is None:
    return jnp.zeros(shape, jnp.int32)
  given = jnp.asarray(given)
  if given.shape not in (shape, (1, shape[1]), shape[1:]):
    raise ValueError(
      f"{name} has the shape {given.shape}; it must be {shape} or {shape[1:]}"
    )
  given = given if given.dtype == bool else given.astype(jnp.int32)
  return jnp.broadcast_to(given, shape)


def of(q, k1, scale: float, window: Any, given: Any) -> tuple[Sight, Any, Any]:
  """Returns (the Sight, ids or None, the traced offset or None) of the arguments.

  Args:
    q: (B, T, N, H).
    k1: (B, S, K, H).
    scale: of the scores.
    window: of both streams, 0 for none.
    given: the other arguments of `Seen`, by name.
  """
  (B, T), S, rest = q.shape[:2], k1.shape[1], dict(given)
  causal, (number, offset) = (
    rest.pop("causal", False),
    offsets(rest.pop("offset", None), T, S),
  )
  rest.pop("window", None)
  ids = segments((B, T, S), **rest)
  return Sight(scale, causal, window, number), ids, offset
