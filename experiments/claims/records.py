"""The records of claims, one file a system: results/claims/<slug>.json."""

import json
from pathlib import Path
from typing import Any

from experiments.claims.bounds import REPORTED
from experiments.claims.claim import REPRODUCED
from experiments.errors import UserError

PROTOCOL = 1
BEFORE = "measured before the protocol"


def path(root: Path, slug: str) -> Path:
  """Returns the path of a system's record."""
  return root / "results" / "claims" / f"{slug}.json"


def read(root: Path, slug: str) -> dict[str, Any]:
  """Returns a system's record, {} if there is none; UserError if it cannot be read."""
  file = path(root, slug)
  if not file.exists():
    return {}
  try:
    record = json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:
    raise UserError(f"{file} cannot be read: {error}") from None
  if not isinstance(record, dict):
    raise UserError(f"{file} holds no JSON object")
  return record


def write(root: Path, slug: str, record: dict[str, Any]) -> None:
  """Writes a system's record, and nothing else."""
  file = path(root, slug)
  file.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps({"slug": slug} | record, indent=2, allow_nan=True)
  file.write_text(text + "\n", encoding="utf-8")


def verdicts(record: dict[str, Any]) -> dict[str, int]:
  """Returns how many claims came to each verdict.

  Before the protocol a number within its bound counts under "within bounds", one
  outside under "outside bounds".
  """
  found: dict[str, int] = {}
  for claim in record.get("claims", []):
    if record.get("protocol"):
      word = claim["verdict"]
    elif claim["rule"] == REPORTED:
      continue
    else:
      word = "within bounds" if claim["holds"] else "outside bounds"
    found[word] = found.get(word, 0) + 1
  return found


def earlier(old: dict[str, Any], registration: str = "") -> dict[str, Any]:
  """Returns what a new record keeps of an old one: measured claims do not get lost.

  Args:
    old: the record that the new one replaces.
    registration: of the new one; an old one of the same is only measured again.
  """
  kept = list(old.get("earlier", []))
  if old.get("protocol") and old["registration"] != registration:
    kept += [c | {"commit": old["commit"]} for c in old["claims"] if c["rows"]]
  return {"earlier": kept} if kept else {}


def holds(record: dict[str, Any]) -> bool:
  """Returns whether every claim was reproduced, or is within its bound."""
  fine = {REPRODUCED, "within bounds"}
  return set(verdicts(record)) <= fine
