"""The results of a check on a GPU, as a table of this project."""

import json
import re
from pathlib import Path

from experiments import errors
from experiments.bench.device import bounds

# What a step that was not taken says.
LATE = "no time left"


def rows(*outs: Path) -> tuple[str, list[dict], bool]:
  """Returns (the chip's name, rows, whether all that was checked is right).

  Args:
    outs: the folders that check.py wrote, of one chip. A step that a later run took
      again replaces the earlier one, unless it had no time left.

  Raises:
    UserError: if a folder has no results.
  """
  steps: dict[tuple[str, str], dict] = {}
  for out in outs:
    path = out / "results.jsonl"
    if not path.is_file():
      raise errors.UserError(f"--collect {out}: there is no results.jsonl in it")
    for line in path.read_text("utf-8").splitlines():
      row = json.loads(line)
      step = row["who"], row["case"]
      if row.get("failed") != LATE or step not in steps:
        steps[step] = row
  found = [_judged(row) for row in steps.values() if row.get("failed") != LATE]
  print(f"{len(steps) - len(found)} steps had no time left")
  machine = next((row for row in found if row["who"] == "machine"), {"gpu": "unknown"})
  checked = [
    row for row in found if row["who"] in ("right", "limit", "memcheck", "racecheck")
  ]
  holds = bool(checked) and all(row.get("ok", False) for row in checked)
  print(fastest(found))
  return chip(machine["gpu"]), found, holds


def _judged(row: dict) -> dict:
  """Judges a row by today's bounds, whatever those were when it was measured."""
  if "errors" in row:
    ok, worst = bounds.right(row["case"], row["errors"], row["equal"])
    return row | {"ok": ok, "worst": worst}
  if row["who"] == "limit" and "error" in row:
    return row | {"ok": bounds.limit(row["error"], row["size"])}
  return row


def chip(name: str) -> str:
  """Shortens a GPU's name to a part of a file's name: h100, h200, rtx4090."""
  short = re.search(r"RTX (PRO )?\d+|[A-Z]+\d+", name)
  return (short[0] if short else name.split(",")[0]).replace(" ", "").lower()


def fastest(found: list[dict]) -> str:
  """Formats the tiles tried, the fastest of each kernel and size of head first."""
  lines = []
  for kernel, times in tried(found).items():
    lines += [kernel, *(f"  {ms:9.3f} ms  {tile}" for ms, tile in times)]
  return "\n".join(lines)


def tried(found: list[dict]) -> dict[str, list[tuple[float, str]]]:
  """Returns kernel to its (milliseconds, tile), the fastest first."""
  times: dict[str, list[tuple[float, str]]] = {}
  for row in found:
    if row["case"].startswith("tune_") and "ms" in row:
      part, _, more = row["case"].removeprefix("tune_flash_").rpartition("_warps")
      kernel, _, size = part.rpartition("_")
      tile = f"{size}, warps {more.replace('_', ' ')}"
      times.setdefault(kernel, []).append((row["ms"], tile))
  return {kernel: sorted(each) for kernel, each in times.items()}
