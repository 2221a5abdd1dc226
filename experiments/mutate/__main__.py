"""Breaks details of systems one at a time and runs their tests.

  python -m experiments.mutate halo hilo --count 40

Each mutant is killed by a test, survives, or changes no output: see the report in
results/mutants/<slug>.json. The status is 1 if less than 90 % of the mutants that
change an output are killed.
"""

import argparse
import subprocess
import sys

from attnjax import contract
from experiments import errors
from experiments.mutate import report


def main(argv: list[str] | None = None) -> int:
  """Prints each survivor and the counts of each system; returns the status."""
  known = contract.systems()
  parser = argparse.ArgumentParser(
    prog="python -m experiments.mutate",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("slug", nargs="+", help="systems")
  parser.add_argument(
    "--count",
    type=int,
    default=40,
    help="mutants a system, drawn from all; 0 for all of them (default: %(default)s)",
  )
  parser.add_argument("--seed", type=int, default=0, help="of the draw")
  parser.add_argument("--processes", type=int, default=2)
  flags = parser.parse_args(argv)
  for slug in flags.slug:
    if slug not in known:
      raise errors.UserError(contract.unknown("system", slug, known))
  if len(flags.slug) == 1:
    given = flags.slug[0], flags.count, flags.seed, flags.processes
    return 0 if report.of_a_system(*given) else 1
  # A process breaks one system: it has imported all others.
  options = [f"--{n}={getattr(flags, n)}" for n in ("count", "seed", "processes")]
  command = [sys.executable, "-m", "experiments.mutate", *options]
  return max(subprocess.run([*command, slug]).returncode for slug in flags.slug)


if __name__ == "__main__":
  sys.exit(errors.guard(main))
