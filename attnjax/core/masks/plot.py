"""Pictures of masks: as text, and in a notebook."""

import numpy as np

from attnjax.core.masks.algebra import Mask

_SHADES = " ░▒▓█"
_SIDE = 32  # characters, at most


def text(mask: Mask, T: int | None = None, S: int | None = None) -> str:
  """Draws the mask of the first batch entry and head as text; darker is more seen.

  Args:
    mask: of any kind.
    T: number of queries; of the mask's arrays if None, else 16.
    S: number of keys; of the mask's arrays if None, else T.
  """
  T, S = _lengths(mask, T, S)
  seen = np.asarray(mask.dense(T, S))[0, 0].astype(float)
  rows, columns = (np.array_split(np.arange(n), min(n, _SIDE)) for n in seen.shape)
  lines = [f"{type(mask).__name__}, {T} queries (down) x {S} keys"]
  for row in rows:
    part = [seen[row[0] : row[-1] + 1, c[0] : c[-1] + 1].mean() for c in columns]
    lines.append("".join(_SHADES[int(np.ceil(p * (len(_SHADES) - 1)))] for p in part))
  return "\n".join(lines)


def draw(mask: Mask, T: int | None = None, S: int | None = None, *, block: int = 0):
  """Draws the mask of the first batch entry and head by matplotlib; returns the Axes.

  Args:
    mask: of any kind.
    T: number of queries; of the mask's arrays if None, else 16.
    S: number of keys; of the mask's arrays if None, else T.
    block: tokens of a block; draws the grid of blocks, 0 draws none.
  """
  from matplotlib import pyplot

  T, S = _lengths(mask, T, S)
  _, axes = pyplot.subplots(figsize=(4, 4))
  axes.imshow(np.asarray(mask.dense(T, S))[0, 0], cmap="Blues", vmin=0, vmax=1.2)
  axes.set(xlabel="key", ylabel="query", title=type(mask).__name__)
  if block:
    axes.set_xticks(np.arange(0, S, block) - 0.5, labels=[])
    axes.set_yticks(np.arange(0, T, block) - 0.5, labels=[])
    axes.grid(color="gray", linewidth=0.5)
  return axes


def _lengths(mask, T, S):
  shapes = [a.shape for a in mask.operands()] or [(1, 1, 1, 1)]
  rows, columns = (max(s[axis] for s in shapes) for axis in (2, 3))
  T = T or (rows if rows > 1 else max(columns, 1) if columns > 1 else 16)
  return T, S or (columns if columns > 1 else T)
