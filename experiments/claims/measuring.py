"""Measures claims row by row; what has been measured is kept and not measured again."""

import hashlib
import importlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.claims.claim import WAITING, Cost, NotTestable, Quality

_VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy")
Say = Callable[[str], None]


def module(slug: str) -> Any:
  """Returns the module with a system's claims."""
  return importlib.import_module(f"experiments.claims.systems.{slug}")


def registration(slug: str) -> str:
  """Returns the hash of a system's claim file, which says what was registered."""
  return hashlib.sha256(Path(module(slug).__file__).read_bytes()).hexdigest()


class Kept:
  """Numbers that are kept as they are measured: one JSON line each.

  Lines of another registration are left alone, and not read.
  """

  def __init__(self, path: Path, own: str):
    self.path, self.own = path, own
    self.known: dict[str, Any] = {}
    if path.is_file():
      for line in path.read_text(encoding="utf-8").splitlines():
        self._read(line)

  def __call__(self, key: str, measure: Callable[[], Any]) -> Any:
    """Returns the number of a key, measured if it is not there yet."""
    return self.together([key], lambda _: [measure()])[0]

  def together(
    self, keys: Sequence[str], measure: Callable[[list[int]], Sequence[Any]]
  ) -> list[Any]:
    """Returns the numbers of keys; those that are not there are measured at once.

    Args:
      keys: their names.
      measure: the indices of missing keys to their numbers.
    """
    missing = [i for i, key in enumerate(keys) if key not in self.known]
    started = time.monotonic()
    values = measure(missing) if missing else []
    seconds = round((time.monotonic() - started) / max(len(missing), 1), 2)
    for i, value in zip(missing, values, strict=True):
      self._write(keys[i], value, seconds)
    return [self.known[key]["value"] for key in keys]

  def _write(self, key: str, value: Any, seconds: float) -> None:
    line = {"registration": self.own, "key": key, "value": value, "seconds": seconds}
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with self.path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(line) + "\n")
    self.known[key] = line

  @property
  def seconds(self) -> float:
    """Returns the seconds that all known numbers took to measure."""
    return sum(line["seconds"] for line in self.known.values())

  def _read(self, text: str) -> None:
    try:
      line = json.loads(text)
    except ValueError:
      return  # cut off as it was written
    if line.get("registration") == self.own:
      self.known[line["key"]] = line


def measured(claim, number: int, kept: Kept, say: Say) -> dict[str, Any]:
  """Measures a claim, the `number`-th of its file, and returns its record."""
  record = {"sentence": claim.sentence, "source": claim.source}
  if isinstance(claim, NotTestable):
    return record | {"verdict": "not testable here", "said": claim.reason, "rows": []}
  rows = (_qualities if isinstance(claim, Quality) else _costs)(
    claim, number, kept, say
  )
  verdict, said = claim.verdict({row["name"]: row["values"] for row in rows})
  record |= {"unit": claim.unit, "rule": claim.rule, "verdict": verdict, "said": said}
  if isinstance(claim, Quality):
    record |= {"paper": claim.paper, "seeds": list(claim.seeds)}
    record["rates"] = list(claim.rates)
  else:
    record["sizes"] = list(claim.sizes)
  return record | {"rows": rows}


def waiting(claim) -> dict[str, Any]:
  """Returns the record of a claim that is registered and not measured."""
  if isinstance(claim, NotTestable):
    return measured(claim, 0, Kept(Path(), ""), print)
  said = {"verdict": WAITING, "said": "", "rows": []}
  record = {"sentence": claim.sentence, "source": claim.source, "unit": claim.unit}
  return record | {"rule": claim.rule} | said


def _qualities(claim: Quality, number: int, kept: Kept, say: Say) -> list[dict]:
  rows, first = [], claim.seeds[0]
  for row in claim.rows:

    def train(runs, row=row):
      def run(missing):
        trained = row.train([runs[i] for i in missing])
        return [[one.value, one.validation, one.parameters] for one in trained]

      keys = [f"{number}/{row.name}/{rate:g}/{seed}" for rate, seed in runs]
      found = kept.together(keys, run)
      for (rate, seed), one in zip(runs, found):
        say(f"  {row.name}, rate {rate:g}, seed {seed}: {one[0]:.4g} {claim.unit}")
      return found

    tried = dict(zip(claim.rates, train([(rate, first) for rate in claim.rates])))
    best = max if claim.better == "more" else min
    # NaN, of a training that diverged, is never the best.
    known = [rate for rate in claim.rates if tried[rate][1] == tried[rate][1]]
    rate = best(known or claim.rates, key=lambda rate, tried=tried: tried[rate][1])
    found = [tried[rate], *train([(rate, seed) for seed in claim.seeds[1:]])]
    rows.append(
      {
        "name": row.name,
        "kind": row.kind,
        "rate": rate,
        "parameters": found[0][2],
        "values": [value for value, _, _ in found],
      }
    )
  return rows


def _costs(claim: Cost, number: int, kept: Kept, say: Say) -> list[dict]:
  rows = []
  for row in claim.rows:
    values = []
    for size in claim.sizes:
      key = f"{number}/{row.name}/{size}"
      values.append(kept(key, lambda row=row, size=size: float(row.measure(size))))
      say(f"  {row.name}, size {size}: {values[-1]:.4g} {claim.unit}")
    rows.append({"name": row.name, "kind": row.kind, "values": values})
  return rows


def surroundings(root: Path) -> dict[str, Any]:
  """Returns the commit, the machine and the versions of a measurement."""
  return {
    "commit": _commit(root),
    "machine": f"{platform.machine()}, {platform.system()}",
    "versions": {name: metadata.version(name) for name in _VERSIONS},
  }


def _commit(root: Path) -> str:
  """Returns the checked-out commit; "" where that is not known."""
  command = ["git", "rev-parse", "HEAD"]
  try:
    done = subprocess.run(
      command, cwd=root, capture_output=True, text=True, check=False
    )
  except OSError:
    return ""
  return "" if done.returncode else done.stdout.strip()
