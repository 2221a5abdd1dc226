"""Keeps the rows of the benchmark of fewer tokens, in one file a system."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.claims import measuring


def written(found: Sequence[dict], root: Path = Path()) -> list[Path]:
  """Writes each system's rows to a file of its own, results/tokens; returns the files.

  Args:
    found: rows, as `tokens.rows` gives them.
    root: the folder of results/.
  """
  paths = []
  for slug in dict.fromkeys(row["slug"] for row in found):
    own = [row for row in found if row["slug"] == slug]
    record = {"slug": slug} | measuring.surroundings(root) | {"rows": own}
    path = root / "results" / "tokens" / f"{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    paths.append(path)
  return paths
