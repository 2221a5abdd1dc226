"""Makes the section of a system's page on the details that tests notice."""

import json
from typing import Any

from experiments.docs import markdown
from experiments.docs.systems import System

Record = dict[str, Any]
_ALIKE = "changes no output"


def section(system: System) -> str:
  """Returns the counts of results/mutants/<slug>.json and its survivors; "" if none."""
  path = system.root / "results" / "mutants" / f"{system.slug}.json"
  if not path.is_file():
    return ""
  record = json.loads(path.read_text(encoding="utf-8"))
  survivors = [row for row in record["not killed"] if row["verdict"] != _ALIKE]
  table = markdown.table(("survivor", "change", "why"), map(_cells, survivors))
  return markdown.section("Broken details", _counts(record, path.name), table)


def _counts(record: Record, name: str) -> str:
  counts = record["counts"]
  judged = counts["killed"] + counts["survived"]
  return (
    f"Tests notice {counts['killed']} of {judged} drawn details (of {record['all']})"
    f" that change an output when they are broken; {counts[_ALIKE]} more change none of"
    f" the outputs that were compared ([all](../../results/mutants/{name}), made by"
    " `python -m experiments.mutate`)."
  )


def _cells(row: Record) -> tuple[str, str, str]:
  why = row.get("reason") or f"changes {row['why']}"
  change = row["change"].replace("|", "\\|")
  return f"`{row['place'].rsplit('/', 1)[-1]}`", f"`{change}`", markdown.prose(why)
