"""Which query may see which key.

Masks are boolean, True = may attend. A token whose segment id is negative sees
nothing and is seen by nothing: that is how padding is written.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
  """The conjunction of its parts; a part that is None or False allows everything.

  The leaves are typed Any, since JAX rebuilds a pytree with whatever it maps to.

  Attributes:
    causal: query t sees keys s <= t + offset.
    offset: int, (); S - T aligns the last query with the last key (bottom-right).
    segment_ids: int, (B, T); seen are the keys of the same segment, none if negative.
    kv_segment_ids: int, (B, S).
    array: bool, broadcastable to (B, N, T, S).
  """

  causal: bool = dataclasses.field(default=False, metadata={"static": True})
  offset: Any = 0
  segment_ids: Any = None
  kv_segment_ids: Any = None
  array: Any = None

  def tile(self, t: Int[Array, "t"], s: Int[Array, "s"]) -> Bool[Array, "#B #N t s"]:
    """The mask at the query indices t and the key indices s."""
    seen = jnp.ones((1, 1, t.size, s.size), bool)
    if self.causal:
      seen &= s[None, :] <= t[:, None] + self.offset
    if self.segment_ids is not None:
      query = jnp.take(self.segment_ids, t, axis=1, mode="clip")[:, None, :, None]
      key = jnp.take(self.kv_segment_ids, s, axis=1, mode="clip")[:, None, None, :]
      seen &= (query == key) & (query >= 0)
    if self.array is not None:
      seen &= block(self.array, t, s)
    return seen

  def dense(self, T: int, S: int) -> Bool[Array, "#B #N T S"]:
    """The whole mask."""
    return self.tile(jnp.arange(T), jnp.arange(S))

  def empty(self, t: Int[Array, "t"], s: Int[Array, "s"]) -> Bool[Array, ""]:
    """True only if no query of the ascending indices t sees a key of s."""
    if not self.causal:
      return jnp.array(False)
    return s[0] > t[-1] + self.offset


def conjunction(
  shape: tuple[int, int, int, int],
  causal: bool = False,
  offset: Int[Array, ""] | int | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  kv_segment_ids: Int[Array, "B S"] | None = None,
  array: Array | None = None,
) -> Mask:
  """A Mask over (B, N, T, S) from what public functions take, with its checks."""
  B, N, T, S = shape
  if segment_ids is None and kv_segment_ids is not None:
    raise ValueError("kv_segment_ids without segment_ids")
  if kv_segment_ids is None:
    kv_segment_ids = segment_ids
  for name, ids, want in (
    ("segment_ids", segment_ids, (B, T)),
    ("kv_segment_ids", kv_segment_ids, (B, S)),
  ):
    if ids is not None and ids.shape != want:
      raise ValueError(f"{name} has the shape {ids.shape}; it must be {want}")
  if array is not None and array.dtype != bool:
    raise ValueError(f"mask has the type {array.dtype}; it must be boolean")
  if array is not None and not (
    array.ndim == 4 and all(a in (1, w) for a, w in zip(array.shape, shape))
  ):
    raise ValueError(f"mask {array.shape} does not broadcast to (B, N, T, S) {shape}")
  offset = S - T if offset is None else offset
  return Mask(causal, offset, segment_ids, kv_segment_ids, array)


def block(array: Array, t: Int[Array, "t"], s: Int[Array, "s"]) -> Array:
  """Rows t and columns s of (..., T, S), where an axis of size 1 stands for all."""
  for axis, index in ((-2, t), (-1, s)):
    if array.shape[axis] > 1:
      array = jnp.take(array, index, axis=axis, mode="clip")
  return array


def segments(
  segment_ids: Int[Array, "B T"] | None,
  padding: Bool[Array, "B T"] | None,
  shape: tuple[int, ...],
) -> Int[Array, "B T"] | None:
  """Segment ids with -1 at the padding; None if neither is given.

  Args:
    segment_ids: equal within a document; None is one document.
    padding: True at the real tokens; None is no padding.
    shape: (B, T), what both must have.
  """
  for name, given in (("segment_ids", segment_ids), ("padding", padding)):
    if given is not None and given.shape != shape:
      raise ValueError(f"{name} has the shape {given.shape}; x has (B, T) = {shape}")
  if segment_ids is None and padding is None:
    return None
  ids = jnp.zeros(shape, jnp.int32) if segment_ids is None else segment_ids
  ids = ids.astype(jnp.int32)
  return ids if padding is None else jnp.where(padding, ids, -1)


def documents(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
  """Numbers the runs of equal ids 0, 1, 2, ...; negative ids stay -1.

  For mechanisms whose state passes from token to token, a document is a run: an id
  that comes back after another one starts a new document.
  """
  change = segment_ids[:, 1:] != segment_ids[:, :-1]
  run = jnp.cumsum(jnp.pad(change, ((0, 0), (1, 0))), axis=1)
  return jnp.where(segment_ids < 0, -1, run).astype(jnp.int32)
