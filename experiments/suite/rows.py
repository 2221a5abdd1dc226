"""The suite's rows: each is kept as it is measured, and not measured again.

A row is a mechanism on a problem. It is known by a hash of the protocol and of the
problem, so that a change of either makes it anew; a change of words does not.
"""

import ast
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.claims import measuring
from experiments.suite import images, long_tokens, tokens, training
from experiments.suite.problems import IMAGES, LONG, PROBLEMS

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path("results") / "suite.json"


def half(name: str) -> ModuleType:
  """Returns the half of the suite with a task of this name."""
  if name in LONG:
    return long_tokens
  return images if name in IMAGES else tokens


def pairs(slugs: Iterable[str], names: Iterable[str]) -> Iterator[tuple[str, str]]:
  """Yields each (mechanism, task) that go together, task by task."""
  slugs = list(slugs)
  for name in names:
    yield from ((s, name) for s in slugs if s in half(name).mechanisms())


def registration(name: str) -> str:
  """Returns the hash of the protocol's code and of a problem's sizes."""
  modules = training, half(name), *getattr(half(name), "USES", ())
  files = (Path(str(module.__file__)) for module in modules)
  own = [_code(file.read_text(encoding="utf-8")) for file in files]
  known = PROBLEMS[name]
  return hashlib.sha256(repr((known, own)).encode()).hexdigest()[:16]


@functools.cache
def _code(text: str) -> str:
  """Returns a program without its comments and docstrings."""
  tree = ast.parse(text)
  for node in ast.walk(tree):
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
      first.value = ast.Constant("")
  return ast.unparse(tree)


def measure(slugs: Iterable[str], names: Iterable[str], root: Path = ROOT) -> None:
  """Measures the rows that are not there, prints them, and writes RESULTS."""
  for slug, name in pairs(slugs, names):
    known = kept(root, slug, name)
    there = name in known.known
    asked = half(name), slug, PROBLEMS[name]
    row = known(name, functools.partial(training.measured, *asked))
    seeds = ", ".join(f"{result['test']:.3f}" for result in row["seeds"])
    print(f"{slug} on {name}: {seeds} ({row['seconds']:.0f} s)", flush=True)
    if not there:
      write(root)


def kept(root: Path, slug: str, name: str) -> measuring.Kept:
  """Returns what is kept of a mechanism, as measured by today's protocol."""
  path = root / "runs" / "suite" / f"{slug}.jsonl"
  return measuring.Kept(path, registration(name))


def write(root: Path = ROOT) -> None:
  """Writes all rows of today's protocol and problems to RESULTS, beside older ones.

  A row that was measured elsewhere stays until it is measured here.
  """
  path = root / RESULTS
  found = read(root)
  rows, chance = found.get("rows", {}), found.get("chance", {})
  for name, problem in PROBLEMS.items():
    for slug in half(name).mechanisms():
      known = kept(root, slug, name).known
      if name in known:
        own = {"registration": registration(name), **known[name]["value"]}
        if rows.setdefault(name, {}).get(slug) != own:
          rows[name][slug] = own
          chance[name] = training.chance(half(name), problem)
  record = measuring.surroundings(root) | {"chance": chance, "rows": rows}
  path.parent.mkdir(exist_ok=True)
  text = json.dumps(record, indent=1)
  # A list of numbers is one line.
  text = re.sub(r"\[\s+([^\[\]{}\"]+?)\s+\]", lambda m: f"[{_joined(m[1])}]", text)
  path.write_text(text + "\n", encoding="utf-8")


def read(root: Path = ROOT) -> dict[str, Any]:
  """Returns what RESULTS holds; nothing if it is not there."""
  path = root / RESULTS
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _joined(numbers: str) -> str:
  return ", ".join(numbers.replace(",", " ").split())


def stale(root: Path = ROOT) -> list[str]:
  """Returns the rows of RESULTS that another protocol or problem has measured."""
  return [
    f"{slug} on {name}"
    for name, own in read(root).get("rows", {}).items()
    for slug, row in own.items()
    if name not in PROBLEMS or row["registration"] != registration(name)
  ]
