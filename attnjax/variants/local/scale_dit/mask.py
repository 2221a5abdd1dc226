"""The hierarchical mask: which tokens of the three streams see each other."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from attnjax.core.masks import Dense, Mask, Segments
from attnjax.variants.local.scale_dit.layout import Layout

_FAR = 2**20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Near(Mask):
  """Seen where the coordinates differ by at most `reach` on every axis.

  Attributes:
    queries: int32, (axes, T).
    keys: int32, (axes, S).
    reach: the greatest difference on each axis.
  """

  queries: Any
  keys: Any
  reach: tuple[int, ...] = dataclasses.field(metadata={"static": True})

  def operands(self):
    """Returns the queries' coordinates, then the keys'."""
    queries = tuple(x[None, None, :, None] for x in self.queries)
    return (*queries, *(x[None, None, None, :] for x in self.keys))

  def seen(self, q, k, *operands):
    """Returns whether a key is near on every axis."""
    del q, k
    axes, result = len(self.reach), True
    for i, j, reach in zip(operands[:axes], operands[axes:], self.reach):
      test = (j <= i + reach) & (j >= i - reach)
      result = test if result is True else result & test
    return result


def hierarchical_local_mask(layout: Layout, queries: int = 0) -> Mask:
  """Returns the mask, the union of the rules for text, neighbours and guide.

  Args:
    layout: the numbers and the order of the tokens.
    queries: number of first tokens that are queries; all if 0.
  """
  rows = slice(0, queries or layout.tokens)
  text, high, low = (layout.streams() == stream for stream in range(3))
  seen = Dense(text[None, None, None, :])
  asks = Dense(text[rows][None, None, :, None])
  if layout.text_sees == "limited":
    asks = asks & Dense(~low[None, None, None, :])
  above, below = layout.groups()
  guide = _ids(layout, high, above)[:, rows], _ids(layout, low, below)
  seen = seen | asks | _neighbours(layout, high, rows)
  seen = seen | Segments(*guide)
  blocks = np.arange(layout.low) // layout.dense
  ids = _ids(layout, low, blocks)
  return seen | Segments(ids[:, rows], ids)


def _neighbours(layout, high, rows):
  row, column = layout.coordinates()
  if layout.kind == "sliding":
    at = np.stack([_ids(layout, high, x)[0] for x in (row, column)])
    # Tokens of other streams are put far away, queries and keys on opposite sides.
    queries, keys = (np.where(high, at, far).astype(np.int32) for far in (-_FAR, _FAR))
    return Near(queries[:, rows], keys, tuple(w // 2 for w in layout.window))
  cells = [
    (x + 1) % n // w for x, n, w in zip((row, column), layout.grid, layout.window)
  ]
  ids = _ids(layout, high, cells[0] * -(-layout.grid[1] // layout.window[1]) + cells[1])
  return Segments(ids[:, rows], ids)


def _ids(layout, flags, values) -> np.ndarray:
  """Returns (1, T): the values at the flagged tokens, -1 at the others."""
  ids = np.full((1, layout.tokens), -1, np.int32)
  ids[0, flags] = values
  return ids


def dense(layout: Layout) -> Bool[np.ndarray, "T T"]:
  """Computes the dense mask, rule by rule."""
  E, P, L = layout.text, math.prod(layout.grid), math.prod(layout.low_grid)
  row, column = np.divmod(layout.places(), layout.grid[1])
  if layout.kind == "sliding":
    reach = [w // 2 for w in layout.window]
    local = abs(row[:, None] - row) <= reach[0]
    local &= abs(column[:, None] - column) <= reach[1]
  else:
    local = np.ones((P, P), bool)
    for x, n, w in zip((row, column), layout.grid, layout.window):
      cell = (x + 1) % n // w
      local &= cell[:, None] == cell
  guide = np.ones((P, L), bool)
  if layout.dense < L:  # equal runs of windows see a part each
    size, (height, width) = math.prod(layout.window), layout.window
    rows, columns = (-(-n // w) for n, w in zip(layout.grid, layout.window))
    run = -(-rows * columns // -(-L // size))
    part = (row // height * columns + column // width) // run
    guide = part[:, None] == np.arange(L) // size
  seen = np.zeros((E + P + L,) * 2, bool)
  seen[:, :E] = True
  seen[:E, : None if layout.text_sees == "all" else E + P] = True
  seen[E : E + P, E : E + P] = local
  seen[E : E + P, E + P :] = guide
  block = np.arange(L) // layout.dense
  seen[E + P :, E + P :] = block[:, None] == block
  return seen
