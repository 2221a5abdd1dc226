"""The suite's rows: each is kept as it is measured, and not measured again.

A row is a mechanism on a problem. It is known by a hash of the protocol and of the
problem, so that a change of either makes it anew.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.claims import measuring
from experiments.suite import training
from experiments.suite.problems import PROBLEMS, Problem

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path("results") / "suite.json"


def registration(problem: Problem) -> str:
  """Returns the hash of the protocol's file and of a problem's sizes."""
  own = Path(training.__file__).read_bytes() + repr(problem).encode()
  return hashlib.sha256(own).hexdigest()[:16]


def measure(slugs: Iterable[str], names: Iterable[str], root: Path = ROOT) -> None:
  """Measures the rows that are not there, prints them, and writes RESULTS."""
  names = list(names)
  for slug in slugs:
    for name in names:
      row = _row(slug, name, root)
      seeds = [result["test"] for result in row["seeds"]]
      words = ", ".join(f"{value:.3f}" for value in seeds)
      print(f"{slug} on {name}: {words} ({row['seconds']:.0f} s)", flush=True)
      write(root)


def _row(slug: str, name: str, root: Path) -> dict[str, Any]:
  problem = PROBLEMS[name]
  kept = measuring.Kept(_file(root, slug), registration(problem))
  return kept(name, lambda: training.measured(slug, problem))


def _file(root: Path, slug: str) -> Path:
  return root / "runs" / "suite" / f"{slug}.jsonl"


def write(root: Path = ROOT) -> None:
  """Writes all rows of today's protocol and problems to RESULTS, beside older ones.

  A row that was measured elsewhere stays until it is measured here.
  """
  path = root / RESULTS
  found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
  rows = found.get("rows", {})
  for slug in training.mechanisms():
    for name, problem in PROBLEMS.items():
      kept = measuring.Kept(_file(root, slug), registration(problem))
      if name in kept.known:
        own = {"registration": registration(problem), **kept.known[name]["value"]}
        rows.setdefault(name, {})[slug] = own
  record = measuring.surroundings(root) | {"rows": rows}
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def stale(root: Path = ROOT) -> list[str]:
  """Returns the rows of RESULTS that another protocol or problem has measured."""
  path = root / RESULTS
  if not path.exists():
    return []
  rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
  return [
    f"{slug} on {name}"
    for name, own in rows.items()
    for slug, row in own.items()
    if name not in PROBLEMS or row["registration"] != registration(PROBLEMS[name])
  ]
