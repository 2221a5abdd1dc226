"""The results of a check on a GPU, as a table of this project."""

import json
import re
from pathlib import Path

from experiments import errors


def rows(out: Path) -> tuple[str, list[dict], bool]:
  """Returns (the chip's name, rows, whether all that was checked is right).

  Args:
    out: the folder that check.py wrote.

  Raises:
    UserError: if the folder has no results.
  """
  path = out / "results.jsonl"
  if not path.is_file():
    raise errors.UserError(f"--collect {out}: there is no results.jsonl in it")
  found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
  machine = next((row for row in found if row["who"] == "machine"), {"gpu": "unknown"})
  checked = [
    row for row in found if row["who"] in ("right", "limit", "memcheck", "racecheck")
  ]
  holds = bool(checked) and all(row.get("ok", False) for row in checked)
  print(fastest(found))
  return chip(machine["gpu"]), found, holds


def chip(name: str) -> str:
  """Shortens a GPU's name to a part of a file's name: h100, h200, rtx4090."""
  short = re.search(r"RTX (PRO )?\d+|[A-Z]+\d+", name)
  return (short[0] if short else name.split(",")[0]).replace(" ", "").lower()


def fastest(found: list[dict]) -> str:
  """Formats the tiles tried, the fastest of each kernel and size of head first."""
  tried: dict[str, list[tuple[float, str]]] = {}
  for row in found:
    if row["case"].startswith("tune_") and "ms" in row:
      part, _, tile = row["case"].removeprefix("tune_flash_").rpartition("_warps")
      kernel, _, size = part.rpartition("_")
      tried.setdefault(kernel, []).append((row["ms"], f"{size}_warps{tile}"))
  lines = []
  for kernel, times in tried.items():
    lines.append(kernel)
    lines += [f"  {ms:9.3f} ms  {tile}" for ms, tile in sorted(times)]
  return "\n".join(lines)
