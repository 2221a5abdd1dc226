"""Keeps the rows of the benchmark of decoding, in one file a policy."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.claims import measuring


def written(found: Sequence[dict], root: Path = Path()) -> list[Path]:
  """Writes each policy's rows to a file of its own; returns the files.

  Args:
    found: rows, as `decode.rows` gives them.
    root: the folder of results/.
  """
  paths = []
  for text in dict.fromkeys(row["policy"] for row in found):
    own = [row for row in found if row["policy"] == text]
    record = {"policy": text} | measuring.surroundings(root) | {"rows": own}
    name = "".join(c if c.isalnum() or c in "._" else "-" for c in text)
    path = root / "results" / "decode" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    paths.append(path)
  return paths
