"""Makes the section of the kernels that were run on the chips they are made for."""

import json
import math
from pathlib import Path
from typing import Any

from experiments.bench.device import collecting
from experiments.docs import markdown

Row = dict[str, Any]
_PROOFS = {
  "right": "kernels: results and gradients against float64, two runs equal to the bit",
  "system": "systems' functions that call them: results and gradients against float64",
  "limit": "arrays of more than 2^31 elements",
  "memcheck": "compute-sanitizer's memcheck",
  "racecheck": "compute-sanitizer's racecheck",
}


def chips(root: Path) -> str:
  """Returns what ran on each chip and how fast, or that nothing did."""
  found = []
  for path in sorted((root / "results").glob("bench_device_*.json")):
    chip = path.stem.removeprefix("bench_device_")
    rows = json.loads(path.read_text(encoding="utf-8"))
    parts = [f"### {chip.upper()}", _machine(rows), _proofs(rows)]
    parts += [_times(rows), _tiles(rows), f"[All rows](../results/{path.name})."]
    found.append("\n\n".join(part for part in parts if part))
  return "\n\n".join(found) or (
    "**None of the kernels has been run on the hardware that it is for, as far as"
    " `results/` shows**: there is no `results/bench_device_<chip>.json`. What is above"
    " is what compilers say, and tests in simulators; it is no measured time."
  )


def _machine(rows: list[Row]) -> str:
  names = "gpu ptxas jax torch".split()
  for row in rows:
    if row["who"] == "machine":
      return ", ".join(f"{n}: {row[n]}" for n in names if n in row) + "."
  return ""


def _proofs(rows: list[Row]) -> str:
  """Returns a table of what was proved, and the names of what was not right."""
  lines, wrong = [], []
  for who, what in _PROOFS.items():
    own = [row for row in rows if _proof(row) == who]
    bad = [row for row in own if not row.get("ok", False)]
    if own:
      lines.append((what, f"{len(own) - len(bad)} of {len(own)}"))
    wrong += [f"`{r['case']}` ({r['who']}): {_reason(r)}" for r in bad]
  table = markdown.table(("proof", "right"), lines) if lines else ""
  return "\n\n".join([table, *(f"Not right: {each}." for each in wrong)])


def _proof(row: Row) -> str:
  return "system" if row["case"].startswith("system_") else row["who"]


def _reason(row: Row) -> str:
  if "failed" in row:
    return markdown.prose(row["failed"][:90])
  if "errors" in row:
    worst = row.get("worst", "")
    error, usual = row["errors"].get(worst, (math.nan, math.nan))
    equal = "" if row.get("equal") else ", two runs differ"
    return f"error of `{worst}` {error:.1e}, plain JAX's {usual:.1e}{equal}"
  return f"error {row['error']:.3g}" if "error" in row else "see its row"


def _times(rows: list[Row]) -> str:
  """Returns milliseconds of a call, and of its peers with the kernels' speed-up."""
  timed = [r for r in rows if r["case"].startswith("time_") and "ms" in r]
  people = list(dict.fromkeys(row["who"] for row in timed))
  cells: dict[str, dict[str, Row]] = {}
  for row in timed:
    cells.setdefault(row["case"].removeprefix("time_"), {})[row["who"]] = row
  lines = []
  for name, by in cells.items():
    own = by.get("kernel")
    shown = [_cell(by.get(who), own) for who in people]
    lines.append((f"`{name}`", *shown))
  if not lines:
    return ""
  head = ("ms a call (TFLOP/s of the seen pairs; speed of attnjax beside it)", *people)
  return markdown.table(head, lines)


def _cell(row: Row | None, own: Row | None) -> str:
  if row is None:
    return "-"
  text = f"{row['ms']:.3f} ({row['TFLOP/s']:.0f})"
  if own is not None and row is not own:
    text += f", {row['ms'] / own['ms']:.2f}x"
  return text


def _tiles(rows: list[Row]) -> str:
  """Returns the fastest tiles of those tried, three of each kernel."""
  lines = []
  for kernel, times in collecting.tried(rows).items():
    best = [f"{tile}: {ms:.3f} ms" for ms, tile in times[:3]]
    lines.append((f"`{kernel}`", str(len(times)), *best, *["-"] * (3 - len(best))))
  if not lines:
    return ""
  return markdown.table(("tiles of", "tried", "fastest", "second", "third"), lines)
