"""The numbers and the page of an analysed run."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from experiments.analyse.entries import Entry
from experiments.pages import charts, page


def text(record: Mapping[str, Any]) -> str:
  """Formats the single numbers and words of all analyses as plain text."""
  lines = [f"{record['workdir']} at step {record['step']}, {record['rows']} rows"]
  for slug, found in record["analyses"].items():
    single = [(n, v) for n, v in found.items() if not record["axes"][slug][n]]
    lines += [f"{slug}: {name} = {Entry.number(value)}" for name, value in single]
  return "\n".join(lines)


def html(
  record: Mapping[str, Any],
  modules: Mapping[str, ModuleType],
  found: Mapping[str, Mapping[str, Any]],
  weights: Mapping[str, np.ndarray],
) -> str:
  """Returns the page: cards, a table by layer, pictures, and tables of the rest.

  Args:
    record: what is written as JSON.
    modules: the analyses by their slugs.
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
    *[_of(modules[slug], one) for slug, one in found.items()],
    page.section(
      "Weights of heads",
      page.paragraph("The first example: queries down, keys across.") if drawn else "",
      page.grid("charts", drawn),
    ),
    "</main>",
  )


def _of(module: ModuleType, found: Mapping[str, Any]) -> str:
  """Returns the section of an analysis."""
  entries = [Entry.of(module, name, value) for name, value in found.items()]
  single = [e for e in entries if not e.axes]
  by_layer = [e for e in entries if e.axes == "L" and not e.constant]
  rest = [e for e in entries if e.axes not in ("", "L") and not e.constant]
  tables = [e for e in rest if e.small]
  pictures = [figure for e in rest if not e.small for figure in e.figures()]
  same = {}
  for entry in tables:
    same.setdefault((entry.axes, entry.value.shape), []).append(entry)
  return page.section(
    (module.__doc__ or "").partition("\n")[0],
    _meanings(single),
    _layers(by_layer),
    page.grid("charts", pictures),
    page.grid("charts", [_together(group) for group in same.values()]),
    _constants([e for e in entries if e.axes and e.constant]),
  )


def _meanings(single: list[Entry]) -> str:
  """Returns the single numbers with what they are."""
  shown = [(e.meaning, e.number(e.value).replace("–", "not defined")) for e in single]
  return page.pairs("cards", shown)


def _layers(entries: list[Entry]) -> str:
  """Returns a table with a row a layer, of all numbers that have one a layer."""
  if not entries:
    return ""
  rows = [
    [str(layer), *(e.number(e.value[layer]) for e in entries)]
    for layer in range(len(entries[0].value))
  ]
  return page.table("By layer", ["layer", *(e.meaning for e in entries)], rows)


def _together(entries: list[Entry]) -> str:
  """Returns small arrays of equal axes: one table of vectors, or a table each."""
  axes = entries[0].axes
  if len(axes) > 1:
    return "\n".join(map(_table, entries))
  if axes == "B":
    rows = [[e.meaning, *e.summary()] for e in entries]
    head = ["", "mean", "least", "largest", "the values"]
    return page.table("Over the examples", head, rows)
  rows = [[e.meaning, *map(e.number, e.value)] for e in entries]
  return page.table("", ["", *entries[0].labels(axes)], rows)


def _table(entry: Entry) -> str:
  """Returns an array of two axes as a table, its first axis down."""
  down, across = entry.axes
  if down == "B":
    parts = zip(entry.labels(across), entry.value.T)
    rows = [[label, *entry.summary(column)] for label, column in parts]
    head = ["", "mean", "least", "largest", "the values"]
    return page.table(f"{entry.meaning}, over the examples", head, rows)
  rows = [
    [label, *map(entry.number, row)]
    for label, row in zip(entry.labels(down), entry.value)
  ]
  head = [entry.axis(down), *entry.labels(across)]
  return page.table(entry.meaning, head, rows)


def _constants(entries: list[Entry]) -> str:
  """Returns a table of the arrays that are the same everywhere, or empty."""
  rows = [[e.meaning, e.everywhere()] for e in entries]
  said = "The same everywhere, or empty"
  return page.table(said, ["", "value"], rows) if rows else ""
