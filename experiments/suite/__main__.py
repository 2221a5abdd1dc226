"""Measures the suite's rows; what is measured is kept, and an interrupted run goes on.

  python -m experiments.suite                          all mechanisms on all tasks
  python -m experiments.suite --mechanisms aaren --tasks mqar_4 parity
  python -m experiments.suite --list                   names, and what is measured

A row trains six models; one on the smallest task took 40 processor seconds.
"""

import argparse
import sys

from attnjax import contract
from experiments import errors
from experiments.claims import measuring
from experiments.suite import rows, training
from experiments.suite.problems import PROBLEMS


def main(argv: list[str] | None = None) -> int:
  """Measures, or lists, and returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m experiments.suite",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  known = training.mechanisms()
  parser.add_argument("--mechanisms", nargs="*", default=known, metavar="SLUG")
  parser.add_argument("--tasks", nargs="*", default=list(PROBLEMS), metavar="NAME")
  parser.add_argument("--list", action="store_true", help="measure nothing")
  flags = parser.parse_args(argv)
  for given, names, kind in (
    (flags.mechanisms, known, "mechanism of the suite"),
    (flags.tasks, list(PROBLEMS), "task of the suite"),
  ):
    for name in given:
      if name not in names:
        raise errors.UserError(contract.unknown(kind, name, names))
  if flags.list:
    for slug in flags.mechanisms:
      done = [name for name in flags.tasks if _measured(slug, name)]
      print(f"{slug}: {len(done)} of {len(flags.tasks)} measured: {' '.join(done)}")
    return 0
  rows.measure(flags.mechanisms, flags.tasks)
  return 0


def _measured(slug: str, name: str) -> bool:
  own = rows.registration(PROBLEMS[name])
  path = rows.ROOT / "runs" / "suite" / f"{slug}.jsonl"
  return name in measuring.Kept(path, own).known


if __name__ == "__main__":
  sys.exit(errors.guard(main))
