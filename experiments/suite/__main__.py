"""Measures the suite's rows; what is measured is kept, and an interrupted run goes on.

  python -m experiments.suite                          all mechanisms on all tasks
  python -m experiments.suite --mechanisms aaren --tasks mqar_4 parity
  python -m experiments.suite --list                   names, and what is measured

A row trains five models, which takes half a minute of one processor core for the
cheapest mechanism, and some minutes on a long context. The tasks of a run share
compiled programs, whose compiling XLA_FLAGS=--xla_backend_optimization_level=1 halves.
"""

import argparse
import sys

from attnjax import contract
from experiments import errors
from experiments.suite import images, rows, tokens
from experiments.suite.problems import PROBLEMS


def main(argv: list[str] | None = None) -> int:
  """Measures, or lists, and returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m experiments.suite",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  known = list(dict.fromkeys([*tokens.mechanisms(), *images.mechanisms()]))
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
    return _listed(flags.mechanisms, flags.tasks)
  rows.measure(flags.mechanisms, flags.tasks)
  return 0


def _listed(slugs: list[str], names: list[str]) -> int:
  """Prints the tasks of each mechanism that are measured."""
  for slug in slugs:
    own = [name for _, name in rows.pairs([slug], names)]
    done = [name for name in own if name in rows.kept(rows.ROOT, slug, name).known]
    print(f"{slug}: {len(done)} of {len(own)} measured: {' '.join(done)}")
  return 0


if __name__ == "__main__":
  sys.exit(errors.guard(main))
