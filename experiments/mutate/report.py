"""A system's mutants: which are killed, which survive, which change nothing."""

import dataclasses
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments import errors
from experiments.mutate import details, outputs, trials

KILLED, SURVIVED, UNCHANGED = "killed", "survived", "changes no output"
# The part of the mutants with another output that tests have to kill.
ENOUGH = 0.9


@dataclasses.dataclass
class Trial:
  """A mutant, and what became of it.

  Attributes:
    module: the name of the module.
    path: its file.
    mutant: the broken detail.
    verdict: KILLED, SURVIVED, UNCHANGED, or "" before its trial.
    why: what killed it, or which outputs it changes.
  """

  module: str
  path: Path
  mutant: details.Mutant
  verdict: str = ""
  why: str = ""

  @property
  def place(self) -> str:
    """Returns file:line."""
    return f"{self.path.relative_to(trials.ROOT)}:{self.mutant.line}"

  @property
  def line(self) -> str:
    """Returns file:line, as `trials.tests` notes it."""
    return f"{self.path}:{self.mutant.line}"


def of_a_system(slug: str, count: int, seed: int, processes: int) -> bool:
  """Tries a system's mutants, prints and writes them; returns whether enough died.

  Raises UserError if the system's tests fail as it is.
  """
  own = trials.prepare(slug)
  found = [
    Trial(name, path, mutant)
    for name, path in trials.files(own).items()
    for mutant in details.mutants(path.read_text(encoding="utf-8"))
  ]
  total = len(found)
  if count and count < total:
    chosen = sorted(random.Random(seed).sample(range(total), count))
    found = [found[i] for i in chosen]
  begun = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    _Tries(slug, own, Path(folder), processes).all(found)
  record = _record(found, total, seed, round(time.monotonic() - begun))
  path = trials.ROOT / "results" / "mutants" / f"{slug}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  before = json.loads(path.read_text()) if path.exists() else {}
  _keep_reasons(record, before)
  path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
  counts = record["counts"]
  print(f"{slug}: of {len(found)} mutants of {total}: {counts}; {record['score']:.0%}")
  return record["score"] >= ENOUGH


class _Tries:
  """The trials of one system's mutants."""

  def __init__(self, slug: str, own: str, folder: Path, processes: int):
    self.slug, self.own, self.folder, self.processes = slug, own, folder, processes
    self.lines: dict[str, list[str]] = {}
    self.logs: dict[int, Path] = {}
    self.limit = 600.0  # seconds of a processor

  def all(self, found: list[Trial]) -> None:
    """Tries every mutant, several at once."""
    self._as_it_is()
    left, running, ends = list(found), {}, {}
    while left or running:
      while left and len(running) < self.processes:
        trial = left.pop(0)
        if trial.line not in self.lines:
          self._done(trial, SURVIVED, "no test runs this line")
          continue
        self._start(trial, "tests", running, ends)
      if not running:
        continue
      process, status, _ = trials.wait(ends)
      trial, what = running.pop(process)
      ends.pop(process)
      if what == "tests" and status == 0:
        self._start(trial, "outputs", running, ends)
      elif what == "tests":
        self._done(trial, KILLED, self._killer(process, status))
      else:
        self._judge(trial, process, status)

  def _as_it_is(self):
    """Runs the tests and keeps the outputs of the system as it is."""
    lines, log, took = self.folder / "lines", self.folder / "log", 0.0
    runs = (
      lambda: trials.tests(self.slug, self.own, lines),
      lambda: outputs.save(self.slug, self.folder / "own.npz") or 0,
    )
    for run in runs:
      process = trials.fork(self.own, None, run, log, self.limit)
      _, status, used = trials.wait({process: self._end()})
      if status:
        tail = log.read_text(errors="replace")[-2000:]
        raise errors.UserError(f"{self.slug} as it is: status {status}\n{tail}")
      took = max(took, used)
    self.lines = json.loads(lines.read_text())
    self.limit = max(60.0, 5 * took)

  def _end(self) -> float:
    """Returns the second of the clock by which a trial hangs, whatever else runs."""
    return time.monotonic() + 20 * self.limit

  def _start(self, trial, what, running, ends):
    """Starts the tests of a mutant, or makes its outputs."""
    path = self.folder / f"{id(trial)}.npz"
    first = self.lines[trial.line]
    run: Any = {
      "tests": lambda: trials.tests(self.slug, self.own, first=first),
      "outputs": lambda: outputs.save(self.slug, path) or 0,
    }[what]
    broken = trial.module, trial.path, trial.mutant.tree
    log = self.folder / f"{id(trial)}.log"
    process = trials.fork(self.own, broken, run, log, self.limit)
    running[process] = trial, what
    ends[process] = self._end()
    self.logs[process] = log

  def _killer(self, process, status) -> str:
    """Returns the name of the test that failed."""
    if status in (trials.IMPORT, trials.LATE):
      return {trials.IMPORT: "cannot be imported", trials.LATE: "too late"}[status]
    lines = self.logs[process].read_text(errors="replace").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].split("::")[-1] if failed else f"status {status}"

  def _judge(self, trial, process, status):
    """Tells whether a mutant that no test notices changes an output."""
    path = self.folder / f"{id(trial)}.npz"
    if status:
      self._done(trial, SURVIVED, f"its outputs end with status {status}")
      return
    names = outputs.changed(self.folder / "own.npz", path)
    path.unlink()
    self._done(trial, SURVIVED if names else UNCHANGED, ", ".join(names[:3]))

  def _done(self, trial, verdict, why):
    trial.verdict, trial.why = verdict, why
    if verdict == SURVIVED:
      print(f"  {trial.place}: {trial.mutant.words}  ({why})", flush=True)
    elif sys.stderr.isatty():
      print(f"  {trial.place} {verdict}", end="\r", file=sys.stderr, flush=True)


def _record(found: list[Trial], total: int, seed: int, seconds: int) -> dict[str, Any]:
  counts = {
    v: sum(t.verdict == v for t in found) for v in (KILLED, SURVIVED, UNCHANGED)
  }
  judged = counts[KILLED] + counts[SURVIVED]
  commit = subprocess.run(
    ["git", "rev-parse", "HEAD"], cwd=trials.ROOT, capture_output=True, text=True
  )
  rows = [
    {"place": t.place, "change": t.mutant.words, "verdict": t.verdict, "why": t.why}
    for t in found
    if t.verdict != KILLED
  ]
  return {
    "commit": commit.stdout.strip(),
    "all": total,
    "seed": seed,
    "seconds": seconds,
    "counts": counts,
    "score": counts[KILLED] / max(judged, 1),
    "not killed": rows,
  }


def _keep_reasons(record: dict[str, Any], before: dict[str, Any]) -> None:
  """Keeps the reasons that people gave for survivors of equal words."""
  reasons = {
    row["change"]: row["reason"]
    for row in before.get("not killed", ())
    if "reason" in row
  }
  for row in record["not killed"]:
    if row["change"] in reasons:
      row["reason"] = reasons[row["change"]]
