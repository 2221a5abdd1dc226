"""Makes the table of decoding under cache policies, from results/decode."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.docs import markdown

Row = dict[str, Any]
_HEADS = ("policy", "T", "MB read", "share", "a layer more", "ms", "full cache, ms")
_MORE = ("caches, MB", "a prompt, s", "its arrays, MB")


def decoded(root: Path) -> str:
  """Returns what a decoding step reads and takes, a row for each policy and length."""
  lines = [_cells(row) for row in _rows(root)]
  if not lines:
    return "Not measured yet."
  return markdown.table((*_HEADS, *_MORE), lines)


def _rows(root: Path) -> Iterator[Row]:
  """Yields the rows of all records, those of the full cache first."""
  paths = sorted((root / "results" / "decode").glob("*.json"))
  for path in sorted(paths, key=lambda path: path.stem != "full"):
    record = json.loads(path.read_text(encoding="utf-8"))
    yield from record["rows"]


def _cells(row: Row) -> tuple[str, ...]:
  prompt = row["prompt"] or {}
  seconds, arrays = prompt.get("seconds"), prompt.get("temporary")
  return (
    f"`{row['policy']}`",
    f"{row['T']:,}",
    f"{row['bytes'] / 1e6:.3g}",
    f"{row['share']:.3f}",
    f"{row['choosing']:.3f}",
    f"{1e3 * row['seconds']:.3g}",
    f"{1e3 * row['full_seconds']:.3g}",
    f"{row['cache'] / 1e6:.3g}",
    "-" if seconds is None else f"{seconds:.3g}",
    "-" if arrays is None else f"{arrays / 1e6:.3g}",
  )
