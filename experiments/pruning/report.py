"""The table and the page of a pruned run."""

from collections.abc import Mapping
from typing import Any

from experiments.pages import page

_NUMBERS = ("heads", "parameters", "flops")


def text(record: Mapping[str, Any]) -> str:
  """Formats the table of the whole model as plain text."""
  lines = [["", "before", "after", "left"], *whole(record)]
  widths = [max(len(line[i]) for line in lines) for i in range(4)]
  return "\n".join(
    "  ".join(
      [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]
    ).rstrip()
    for line in lines
  )


def whole(record: Mapping[str, Any]) -> list[list[str]]:
  """Returns rows (what, before, after, share that is left) of the whole model."""
  before, after = record["before"], record["after"]
  rows = [_compared(n, before["model"][n], after["model"][n]) for n in _NUMBERS]
  for name, size in before["model"]["modules"].items():
    left = after["model"]["modules"].get(name, 0)
    rows.append(_compared(f"parameters of {name}", size, left))
  for name, row in record.get("weights", {}).items():
    rows.append(_compared(f"weights of {name}", row["parameters"], row["left"]))
  for name, value in before["quality"].items():
    rows.append([name, f"{value:.4g}", f"{after['quality'][name]:.4g}", ""])
  return rows


def blocks(record: Mapping[str, Any]) -> list[list[str]]:
  """Returns rows (block, number, before, after, left) of every block and module."""
  rows = []
  after = {one["name"]: one for one in record["after"]["blocks"]}
  same = len(after) == len(record["before"]["blocks"])
  for one in record["before"]["blocks"]:
    # Where layers are dropped the others are numbered anew, and are as they were.
    other = after[one["name"]] if same else one
    for name in _NUMBERS:
      rows.append([one["name"], *_compared(name, one[name], other[name])])
    for name, size in one["modules"].items():
      left = other["modules"].get(name, 0)
      rows.append([one["name"], *_compared(f"parameters of {name}", size, left)])
  return rows


def html(record: Mapping[str, Any]) -> str:
  """Returns the page: what is left of the model, and of every block."""
  before, after = record["before"]["model"], record["after"]["model"]
  kept = f"{record['workdir']} at step {record['step']}: {record['kept']}."
  layers = [len(record[name]["blocks"]) for name in ("before", "after")]
  cards = [(name, _share(before[name], after[name])) for name in _NUMBERS]
  cards.append(("layers", f"{layers[1]} of {layers[0]}"))
  row = f"a row of {record['tokens']} tokens" if record["tokens"] else "an image"
  counted = f"FLOPs are of the matrix products of {row}."
  return page.page(
    "Pruning — attnjax",
    "<header><h1>What pruning leaves</h1></header>\n<main>",
    page.paragraph(kept),
    page.pairs("cards", cards),
    page.section(
      "Model",
      page.paragraph(counted),
      page.table("Before and after", ["", "before", "after", "left"], whole(record)),
    ),
    page.section(
      "Blocks",
      page.table(
        "Every block and module",
        ["block", "number", "before", "after", "left"],
        blocks(record),
      ),
    ),
    "</main>",
  )


def _compared(name: str, before: int, after: int) -> list[str]:
  return [name, f"{before:,}", f"{after:,}", _share(before, after)]


def _share(before: int, after: int) -> str:
  return f"{after / before:.1%}" if before else "–"
