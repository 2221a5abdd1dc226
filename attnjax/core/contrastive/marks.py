"""The vectors of a side: which pairs are positive, which are counted, and slopes."""

from typing import Any, NamedTuple

import jax.numpy as jnp


class Marks(NamedTuple):
  """The integers of a side's rows, (R,), which are compared with the other side's.

  Attributes:
    label: a pair whose labels are equal is positive. Items have their own numbers,
      queries those of their positives, negative ones if they have none.
    group: a pair whose groups are equal is not counted, if it is not positive; None
      where no pair is left out. Negative numbers of the sides differ.
  """

  label: Any
  group: Any = None


class Slopes(NamedTuple):
  """The floats of a side's rows, (R,), of which the gradients of scores are made.

    dscore[i, j] = exp(score - top[i]) total[i] + exp(score - top[j]) total[j]
                   + (positive[i] + positive[j] of a positive pair)

  Attributes:
    top: greatest scores, 0 for an empty row.
    total: the cotangents of the sums of exp(score - top).
    positive: the cotangents of positive scores.
  """

  top: Any
  total: Any
  positive: Any


def matching(rows: Marks, columns: Marks):
  """Returns the booleans (R, C) of positive pairs."""
  return rows.label[:, None] == columns.label


def counted(rows: Marks, columns: Marks, mask):
  """Returns the booleans (R, C) of counted pairs, None where all are."""
  seen = None if mask is None else mask != 0
  if rows.group is not None:
    other = rows.group[:, None] != columns.group
    seen = other if seen is None else seen & other
  return None if seen is None else seen | matching(rows, columns)


def spans(label, tile: int):
  """Returns (the least, the greatest) label of each tile of rows, (tiles, 2).

  Two tiles whose ranges are apart hold no positive pair.
  """
  tiles = -(-label.shape[0] // tile)
  label = jnp.pad(label, (0, tiles * tile - label.shape[0]), mode="edge")
  label = label.reshape(tiles, tile)
  return jnp.stack([label.min(axis=1), label.max(axis=1)], axis=1).astype(jnp.int32)
