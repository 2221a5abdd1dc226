"""Compares runs: a table on stdout, and a page with their curves.

python -m experiments.compare runs/a runs/b [--output compare.html]
python -m experiments.compare runs/kjv/* --record results/compared/kjv.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import errors
from experiments.pages import charts, page, records
from experiments.pages.columns import Column, Run, columns, remarks
from experiments.training import metrics

_ABOUT = """\
Compares runs of experiments.run: one table here, and one page with their curves.

The table has the settings in which the runs differ, the last and the best loss and
metrics (of validation), parameters, XLA's count of FLOPs and its memory (temporary and
arguments) of a step, the median time of a step, and the speed. * marks the best of a
column, among runs that have finished. A run without summary.json is "unfinished"."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints the table, writes the page, and returns the exit status.

  Raises UserError if a folder is not there or no run, or the page cannot be written.
  """
  parser = argparse.ArgumentParser(
    prog="python -m experiments.compare",
    description=_ABOUT,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("dirs", nargs="+", metavar="DIR", help="the folder of a run")
  parser.add_argument(
    "--output",
    metavar="FILE",
    default="compare.html",
    help="the page to write (default: %(default)s)",
  )
  parser.add_argument(
    "--record",
    metavar="FILE",
    default="",
    help="also writes the runs' summaries to this JSON file, for the pages of docs, "
    "in place of those of equal names and beside those of others",
  )
  options = parser.parse_args(arguments)
  found = load(options.dirs)
  table, notes = columns(found), remarks(found)
  print(text(found, table))
  print("Loss and metrics are of validation; * marks the best of a column.")
  for note in notes:
    print(note)
  page.save(Path(options.output), html(found, table, notes))
  print(f"page: {options.output}")
  if options.record:
    path = Path(options.record)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.dumps(_recorded(path, [record(run) for run in found]), indent=1)
    page.save(path, f"{rows}\n")
  return 0


def load(dirs: Sequence[str]) -> list[Run]:
  """Loads the runs of these folders, each folder once; UserError if one is no run."""
  paths = {Path(d).resolve(): d for d in dirs}
  for given in paths.values():
    records.check(given)
  short = [path.name for path in paths]
  return [
    Run(
      path.name if short.count(path.name) == 1 else given,
      records.settings(path),
      metrics.read(path),
      records.summary(path),
    )
    for path, given in paths.items()
  ]


def text(found: Sequence[Run], table: Sequence[Column]) -> str:
  """Formats the table as plain text; * marks the best of a column."""
  finished = [run.summary is not None for run in found]
  blocks = [["run", *(run.label for run in found)]]
  for column in table:
    best = column.best(finished)
    # Room for the mark behind every cell keeps the digits aligned.
    room = " " if best else ""
    cells = [c + ("*" if i in best else room) for i, c in enumerate(column.cells())]
    blocks.append([column.name + room, *cells])
  widths = [max(map(len, block)) for block in blocks]
  lines = []
  for first, *rest in zip(*blocks):
    aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:])]
    lines.append("  ".join([first.ljust(widths[0]), *aligned]).rstrip())
  return "\n".join(lines)


def record(run: Run) -> dict[str, Any]:
  """Returns a run's name, summary and median speed.

  Raises:
    UserError: if the run has not finished.
  """
  if run.summary is None:
    raise errors.UserError(f"--record: {run.label} has no summary.json")
  speed = records.speed(run.lines)
  return {"run": run.name} | run.summary | ({} if speed is None else dict([speed]))


def _recorded(path: Path, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the rows of a file, if there is one, with the new ones among them."""
  old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
  rows = {row["run"]: row for row in [*old, *new]}
  return list(rows.values())


def html(found: Sequence[Run], table: Sequence[Column], notes: Sequence[str]) -> str:
  """Returns the HTML page of the comparison."""
  finished = [run.summary is not None for run in found]
  best = {(i, j) for j, c in enumerate(table, 1) for i in c.best(finished)}
  cells = [[run.label, *row] for run, *row in zip(found, *(c.cells() for c in table))]
  logs = {run.name: run.lines for run in found}
  measures = dict.fromkeys(m for run in found for m in records.measures(run.lines))
  curves = (charts.curves(logs, measure) for measure in measures)
  every = dict.fromkeys(key for run in found for key in run.settings)
  differing = [
    [key, *(str(run.settings.get(key, "–")) for run in found)]
    for key in every
    if len({str(run.settings.get(key)) for run in found}) > 1
  ]
  head = ["setting", *logs]
  return page.page(
    "Comparison of runs — attnjax",
    f"<header><h1>{len(found)} runs compared</h1></header>\n<main>",
    *map(page.paragraph, notes),
    page.table(
      "Loss and metrics are of validation; ★ marks the best of a column",
      ["run", *(c.name for c in table)],
      cells,
      frozenset(best),
    ),
    page.section(
      "Curves",
      page.paragraph("Thick: validation. Thin: training. Diamond: test."),
      page.grid("charts", [page.figure(c, "") for c in curves if c]),
    ),
    page.section(
      "Settings that differ",
      page.table("– : this run has no such setting", head, differing)
      if differing
      else "",
    ),
    "</main>",
  )


if __name__ == "__main__":
  sys.exit(errors.guard(main))
