"""Makes the table of a page of runs from a record of `experiments.compare`."""

import json
from pathlib import Path
from typing import Any

from attnjax import contract
from experiments.docs import markdown
from experiments.pages import readable

Row = dict[str, Any]
_HEAD = (
  "mechanism",
  "bits a byte",
  "parameters",
  "FLOPs a step",
  "memory",
  "seconds a step",
  "tokens a second",
)


def language(root: Path) -> str:
  """Returns the table of results/compared/kjv.json, the lowest bits a byte first."""
  path = root / "results" / "compared" / "kjv.json"
  if not path.is_file():
    return "No runs are recorded."
  rows = json.loads(path.read_text(encoding="utf-8"))
  rows.sort(key=lambda row: row["final"]["validation"]["bits_per_byte"])
  table = markdown.table(_HEAD, [_cells(row) for row in rows])
  return f"{table}\n\n{_machine(rows)}"


def _cells(row: Row) -> tuple[str, ...]:
  name = row["mechanism"]
  known = name in contract.systems()
  memory = row["bytes_temporary"] + row["bytes_arguments"]
  return (
    f"[`{name}`](systems/{name}.md)" if known else f"`{name}`",
    f"{row['final']['validation']['bits_per_byte']:.3f}",
    readable.count(row["parameters"]),
    readable.count(row["flops_per_step"]),
    readable.size(memory),
    f"{row['step_seconds']:.3g}",
    readable.count(row["tokens_per_second"]),
  )


def _machine(rows: list[Row]) -> str:
  found = {(row["device"], row["steps"], row["versions"]["jax"]) for row in rows}
  kinds = (f"{steps} steps on {device}, jax {jax}" for device, steps, jax in found)
  return f"Measured: {'; '.join(sorted(kinds))}."
