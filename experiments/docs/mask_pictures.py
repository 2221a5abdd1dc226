"""Draws masks as SVG: who sees whom, and which blocks a kernel visits."""

import inspect
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from attnjax.core import masks
from attnjax.core.masks import Mask
from experiments.docs import docstrings, markdown

_T, _BLOCK, _CELL = 24, 4, 7
# Of one picture with its title: pixels.
_WIDE, _HIGH, _TITLE = 264, 216, 30
# Functions of `attnjax.masks` that make masks, and classes that only combine others.
_MAKERS = ("packed_bits", "per_head", "permute", "prefix_lm", "select", "sinks", "tree")
_COMBINED = ("And", "Mask", "Not", "Or", "PerHead", "Permuted")
_STYLE = """
text { font: 14px ui-monospace, Menlo, Consolas, monospace; fill: #1c2126; }
.seen { fill: #7db4f0; } .full { fill: #1d5fb0; }
.empty { fill: #7db4f0; opacity: 0.1; }
rect { shape-rendering: crispEdges; }
.frame { fill: none; stroke: #8a949d; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e8eb; } .seen { fill: #3f7fc4; } .full { fill: #a9d1ff; }
}
"""


def examples() -> dict[str, Mask]:
  """Returns the masks of the picture by what makes them."""
  ids = jnp.asarray([[0] * 7 + [1] * 11 + [2] * 6])
  causal, window = masks.Causal(), masks.Window(5, 0)
  return {
    "Causal()": causal,
    "Causal() & Window(5, 0)": causal & window,
    "Causal() & Segments(ids, ids)": causal & masks.Segments(ids, ids),
    "prefix_lm(7)": masks.prefix_lm(7),
    "sinks(4) | Window(5, 0)": (masks.sinks(4) & causal) | (window & causal),
    "Dilated(3) & Causal()": masks.Dilated(3) & causal,
  }


def files() -> dict[str, str]:
  """Returns the pictures by their names in docs."""
  return {"masks.svg": picture(examples())}


def picture(shown: dict[str, Mask], columns: int = 3) -> str:
  """Returns an SVG of masks; strong blocks are full, faint ones are never visited."""
  wide, high = columns * _WIDE, -(-len(shown) // columns) * _HIGH
  body = []
  for number, (name, mask) in enumerate(shown.items()):
    row, column = divmod(number, columns)
    seen = np.asarray(mask.dense(_T, _T))[0, 0]
    body += _mask(name, seen, 2 + column * _WIDE, _TITLE + row * _HIGH)
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}"'
    f' width="{wide}" height="{high}" role="img">\n<title>Masks: queries down, keys'
    f" across</title>\n<style>{_STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
  )


def _mask(name: str, seen: np.ndarray, left: int, top: int) -> Iterator[str]:
  """Yields the elements of one mask: runs of seen keys, full and empty blocks."""
  side = _T * _CELL
  text = name.replace("&", "&amp;")
  yield f'<text x="{left}" y="{top - 9}">{text}</text>'
  for row, keys in enumerate(seen):
    for start, stop in _runs(keys):
      yield (
        f'<rect class="seen" x="{left + start * _CELL}" y="{top + row * _CELL}"'
        f' width="{(stop - start) * _CELL}" height="{_CELL}"/>'
      )
  for i in range(0, _T, _BLOCK):
    for j in range(0, _T, _BLOCK):
      part = seen[i : i + _BLOCK, j : j + _BLOCK]
      if part.any() and not part.all():
        continue
      kind = "full" if part.all() else "empty"
      size = _BLOCK * _CELL
      yield (
        f'<rect class="{kind}" x="{left + j * _CELL}" y="{top + i * _CELL}"'
        f' width="{size}" height="{size}"/>'
      )
  yield f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>'


def _runs(keys: np.ndarray) -> list[tuple[int, int]]:
  """Returns (start, stop) of the runs of keys that are seen."""
  edges = np.flatnonzero(np.diff(np.concatenate([[0], keys.astype(int), [0]])))
  return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def table() -> str:
  """Returns what there is in `attnjax.masks` that makes a mask, from docstrings."""
  rows = []
  for name in masks.__all__:
    made = getattr(masks, name)
    kind = inspect.isclass(made) and issubclass(made, Mask) and name not in _COMBINED
    if not kind and name not in _MAKERS:
      continue
    said = docstrings.read(inspect.getdoc(made)).title
    given = ", ".join(inspect.signature(made).parameters)
    rows.append((f"`{name}({given})`", markdown.prose(said)))
  return markdown.table(("mask", "who is seen"), rows)
