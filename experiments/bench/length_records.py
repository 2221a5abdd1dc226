"""Keeps the rows of the benchmark of lengths in one file a mechanism."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.claims import measuring


def written(found: Sequence[dict], root: Path = Path()) -> list[Path]:
  """Writes each mechanism's rows to a file of its own; returns the files.

  Args:
    found: rows, as `length.rows` gives them.
    root: the folder of results/.
  """
  paths = []
  for slug in dict.fromkeys(row["name"] for row in found):
    own = [row | {"seconds": _short(row["seconds"])} for row in found]
    own = [row for row in own if row["name"] == slug]
    record = {"slug": slug} | measuring.surroundings(root) | {"rows": own}
    path = root / "results" / "length" / f"{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    paths.append(path)
  return paths


def _short(values: Sequence[float]) -> list[float]:
  return [float(f"{value:.4g}") for value in values]
