"""Masks from the segments, the padding and the documents that layers take."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from attnjax.core.masks.algebra import And, Mask
from attnjax.core.masks.arrays import Dense, Segments
from attnjax.core.masks.integers import asarray, integers
from attnjax.core.masks.positional import Causal


def conjunction(
  shape: tuple[Any, Any, Any, Any],
  causal: bool = False,
  offset: Any = None,
  segment_ids: Any = None,
  kv_segment_ids: Any = None,
  array: Any = None,
) -> Mask:
  """Checks the masking arguments of a public function; returns their mask.

  Args:
    shape: (B, N, T, S).
    causal: query t sees keys s <= t + offset.
    offset: S - T if None, which aligns the last query with the last key.
    segment_ids: (T,) or (B|1, T), equal within a segment; negative ids see nothing
      and are not seen.
    kv_segment_ids: (S,) or (B|1, S); `segment_ids` if None.
    array: boolean, broadcastable to (B, N, T, S); or a Mask of places 0, 1, 2, ...
  """
  B, _, T, S = shape
  if segment_ids is None and kv_segment_ids is not None:
    raise ValueError("kv_segment_ids without segment_ids")
  if kv_segment_ids is None:
    kv_segment_ids = segment_ids
  own = _ids("segment_ids", segment_ids, (B, T))
  others = _ids("kv_segment_ids", kv_segment_ids, (B, S))
  parts: tuple[Mask, ...] = ()
  if causal:
    parts += (Causal(S - T if offset is None else offset),)
  if own is not None:
    parts += (Segments(own, others),)
  if isinstance(array, Mask):
    array.check(shape)
    parts += array.conjuncts()
  elif array is not None:
    parts += (dense(array, shape),)
  return And(parts)


def _ids(name, given, want):
  """Returns the ids as (B|1, T), or None; raises ValueError for another shape."""
  if given is None:
    return None
  ids = integers(name, given)
  shape = np.shape(ids)
  if shape not in (want, (1, want[1]), want[1:]):
    raise ValueError(f"{name} has the shape {shape}; it must be {want} or {want[1:]}")
  return ids[None] if ids.ndim == 1 else ids


def dense(array: Any, shape: tuple[Any, Any, Any, Any]) -> Mask:
  """Checks a boolean array and returns it as a mask."""
  array = asarray(array)
  if array.dtype != bool:
    raise ValueError(f"mask has the type {array.dtype}; it must be boolean")
  if not (array.ndim == 4 and all(a in (1, w) for a, w in zip(array.shape, shape))):
    raise ValueError(f"mask {array.shape} does not broadcast to (B, N, T, S) {shape}")
  return Dense(array)


def segments(
  segment_ids: Int[Array, "B T"] | None,
  valid: Bool[Array, "B T"] | None,
  shape: tuple[int, ...],
) -> Int[Array, "B T"] | None:
  """Returns segment ids with -1 at the padding; None if neither is given.

  Args:
    segment_ids: equal within a document; None is one document.
    valid: True at the real tokens; None is no padding.
    shape: (B, T), which both must have.
  """
  for name, given in (("segment_ids", segment_ids), ("valid", valid)):
    if given is not None and given.shape != shape:
      raise ValueError(f"{name} has the shape {given.shape}; x has (B, T) = {shape}")
  if segment_ids is None and valid is None:
    return None
  ids = jnp.zeros(shape, jnp.int32) if segment_ids is None else segment_ids
  ids = ids.astype(jnp.int32)
  return ids if valid is None else jnp.where(valid, ids, -1)


def documents(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
  """Returns the index 0, 1, 2, ... of each token's run of equal ids, -1 at ids < 0.

  For mechanisms whose state passes from token to token, a document is a run: an id
  that comes back after another one starts a new document.
  """
  change = segment_ids[:, 1:] != segment_ids[:, :-1]
  run = jnp.cumsum(jnp.pad(change, ((0, 0), (1, 0))), axis=1)
  return jnp.where(segment_ids < 0, -1, run).astype(jnp.int32)
