"""The numbers and the page of an analysed run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.pages import charts, page

_SHOWN = 3  # examples whose maps of layers and tokens are drawn
_ROWS = 64  # of a table


def text(record: Mapping[str, Any]) -> str:
  """Formats the single numbers and words of all analyses as plain text."""
  lines = [f"{record['workdir']} at step {record['step']}, {record['rows']} rows"]
  for slug, found in record["analyses"].items():
    single = [(n, v) for n, v in found.items() if not record["axes"][slug][n]]
    lines += [f"{slug}: {name} = {_number(value)}" for name, value in single]
  return "\n".join(lines)


def html(
  record: Mapping[str, Any],
  found: Mapping[str, Mapping[str, Any]],
  weights: Mapping[str, np.ndarray],
) -> str:
  """Returns the page: cards, tables by layer, and pictures of what has two axes.

  Args:
    record: what is written as JSON.
    found: the reports, arrays included.
    weights: names of heads with their weights (T, S).
  """
  said = f"{record['workdir']} at step {record['step']}, {record['split']}:"
  said += f" {record['rows']} examples."
  drawn = [
    page.figure(charts.attention(x, f"weights of {name}"), name)
    for name, x in weights.items()
  ]
  return page.page(
    "Analysis — attnjax",
    "<header><h1>What is inside</h1></header>\n<main>",
    page.paragraph(said),
    *[_of(slug, one, record["axes"][slug]) for slug, one in found.items()],
    page.section(
      "Weights of heads",
      page.paragraph("The first example: queries down, keys across.") if drawn else "",
      page.grid("maps", drawn),
    ),
    "</main>",
  )


def _of(slug: str, found: Mapping[str, Any], axes: Mapping[str, str]) -> str:
  """Returns the section of an analysis."""
  single = [(n, _number(v)) for n, v in found.items() if not axes[n]]
  by_layer = {n: v for n, v in found.items() if axes[n] == "L"}
  pictures, tables = [], []
  for name, value in found.items():
    array, letters = np.asarray(value), axes[name]
    if not letters or letters == "L" or array.size == 0:
      continue
    if letters[0] == "B" and array.ndim > 2:
      for row in range(min(_SHOWN, len(array))):
        pictures.append(_map(array[row], f"{name}, example {row}", letters[1:]))
    elif array.ndim > 1 and array.size > 4 * _ROWS:
      pictures.append(_map(array, name, letters))
    else:
      tables.append(_table(name, array, letters))
  return page.section(
    slug.replace("_", " "),
    page.pairs("cards", single),
    _layers(by_layer),
    page.grid("charts", filter(None, pictures)),
    *tables,
  )


def _map(array: np.ndarray, name: str, letters: str) -> str:
  """Draws an array; counts of a histogram as ln(1 + count)."""
  while array.ndim > 2:
    array, letters = array[0], letters[1:]
  if not np.isfinite(np.asarray(array, float)).any():
    return ""
  shown = np.log1p(array) if name == "histogram" else array
  low, high = (_number(f(np.asarray(array, float))) for f in (np.nanmin, np.nanmax))
  down, across = (_AXES.get(letter, letter) for letter in letters)
  caption = f"{name}: {down} down, {across} across, {low} to {high}"
  return page.figure(charts.attention(np.asarray(shown, float), caption), caption)


_AXES = {"B": "examples", "L": "layers", "T": "tokens", "N": "heads", "M": "lifetimes"}


def _layers(found: Mapping[str, Any]) -> str:
  """Returns a table with a row a layer, of all numbers that have one a layer."""
  if not found:
    return ""
  size = len(next(iter(found.values())))
  rows = [[str(i), *(_number(v[i]) for v in found.values())] for i in range(size)]
  return page.table("By layer", ["layer", *found], rows)


def _table(name: str, array: np.ndarray, letters: str) -> str:
  """Returns a small array as a table, its first axis down."""
  flat = array.reshape(len(array), -1)[:_ROWS]
  head = [_AXES.get(letters[0], letters[0]), *map(str, range(flat.shape[1]))]
  rows = [[str(i), *map(_number, row)] for i, row in enumerate(flat)]
  return page.table(name, head, rows)


def _number(value: Any) -> str:
  if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
    return "–"
  return value if isinstance(value, str) else f"{value:.4g}"
