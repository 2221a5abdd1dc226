"""Chunks of an axis: of one length but for the last, or of each document's length."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attnjax.core import masks
from attnjax.core.recurrence import linear


@dataclasses.dataclass(frozen=True)
class Group:
  """Sums and maxima over the chunk of each entry, which broadcast to the entries.

  Attributes:
    number: entries of the chunk, at least 1.
    total: entries to their sums.
    most: entries to their maxima.
  """

  number: Any
  total: Callable[[Array], Array]
  most: Callable[[Array], Array]


def static(z: Array, heads: int) -> Iterator[tuple[tuple[Array, Group], Any]]:
  """Yields ((z (*B, chunks, size), its Group), which heads) for z (*B, S).

  First all chunks but the last, if there are others, then the last one.

  Args:
    z: its last axis is cut.
    heads: M.
  """
  S = z.shape[-1]
  size, number = max(S // heads, 1), min(heads, S)
  before = (number - 1) * size
  parts = (
    (z[..., :before], size, slice(0, number - 1)),
    (
      z[..., before:],
      S - before,
      slice(number - 1, number),
    ),
  )
  for part, length, which in parts:
    if part.shape[-1]:
      cut = part.reshape(*part.shape[:-1], -1, length)
      group = Group(
        length,
        lambda y: y.sum(axis=-1, keepdims=True),
        lambda y: y.max(axis=-1, keepdims=True),
      )
      yield (cut, group), (which, None)


def of_documents(z: Array, heads: int, segment_ids, valid) -> tuple[Array, Any, Group]:
  """Returns (which entries are real, each entry's head, its Group) for z (B, *R, S).

  Padding within a document does not part it.

  Args:
    z: its last axis is cut.
    heads: M.
    segment_ids: (B, S) or None.
    valid: (B, S) or None.
  """
  B, S = z.shape[0], z.shape[-1]
  ids = masks.segments(segment_ids, valid, (B, S))
  if ids is None:
    raise ValueError("segment_ids and valid are None: the chunks are static")
  ids, real = linear.spans(ids)
  new = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)))
  document = jnp.cumsum(new, axis=1)
  same = (document[:, :, None] == document[:, None, :]) & real[:, None, :]
  rank = (same & jnp.tri(S, k=-1, dtype=bool)[None]).sum(axis=2)
  head = jnp.minimum(rank // jnp.maximum(same.sum(axis=2) // heads, 1), heads - 1)
  same &= (head[:, :, None] == head[:, None, :]) & real[:, :, None]
  first = same.argmax(axis=2)  # of the chunk, whose number it is

  def like(y):
    return y.reshape(B, *(1,) * (z.ndim - 2), S)

  def total(y):
    return jnp.einsum("b...s,bts->b...t", y, same.astype(y.dtype))

  def most(y):
    y = jnp.where(like(real), y, -jnp.inf)

    def one(row, number):  # (*R, S), (S,)
      top = jax.ops.segment_max(jnp.moveaxis(row, -1, 0), number, S)
      return jnp.moveaxis(top[number], 0, -1)

    return jnp.where(like(real), jax.vmap(one)(y, first), 0)

  number = jnp.maximum(same.sum(axis=2), 1).astype(z.dtype)
  return like(real), like(head), Group(like(number), total, most)
