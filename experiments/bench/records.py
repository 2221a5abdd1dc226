"""Keeps the rows of a benchmark, a file of results/<kind> for each name in them."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.claims import measuring

# Kinds of benchmarks whose rows are kept so: kind -> the key of a row's name.
NAMES = {"length": "name", "decode": "policy", "tokens": "slug", "pixels": "slug"}
_DIGITS = 4  # of seconds that are kept


def written(kind: str, found: Sequence[dict], root: Path = Path()) -> list[Path]:
  """Writes the rows of each name to a file of its own; returns the files.

  Args:
    kind: of the benchmark, one of NAMES.
    found: its rows.
    root: the folder of results/.
  """
  key = NAMES[kind]
  paths = []
  for name in dict.fromkeys(row[key] for row in found):
    own = [_short(row) for row in found if row[key] == name]
    label = "policy" if key == "policy" else "slug"
    record = {label: name} | measuring.surroundings(root) | {"rows": own}
    path = root / "results" / kind / f"{_stem(name)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    paths.append(path)
  return paths


def merged(path: Path, found: Sequence[dict]) -> list[dict]:
  """Returns a file's rows with these in place of those of equal packages or names.

  Args:
    path: of the rows that are kept; nothing if it is not there.
    found: the new rows; those of kernels have a `package`, others a `name`.
  """
  old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
  new = {_key(row) for row in found}
  rows = [row for row in old if _key(row) not in new]
  return sorted([*rows, *found], key=lambda row: row.get("package", ""))


def _key(row: dict) -> str:
  return row.get("package") or row["name"]


def _stem(name: str) -> str:
  return "".join(c if c.isalnum() or c in "._" else "-" for c in name)


def _short(row: dict) -> dict:
  """Returns a row whose list of seconds, if it has one, has few digits."""
  seconds = row.get("seconds")
  if not isinstance(seconds, list):
    return row
  return row | {"seconds": [float(f"{value:.{_DIGITS}g}") for value in seconds]}
