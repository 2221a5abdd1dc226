"""Runs the sweep: see `tests.sweep`. The status is 1 if a problem fails."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import argparse
import sys
import traceback

import jax

from tests.sweep.kernels import KERNELS, failure


def main() -> int:
  """Prints every problem that fails, with what it has."""
  parser = argparse.ArgumentParser(prog="python -m tests.sweep")
  parser.add_argument("--kernel", nargs="*", choices=list(KERNELS), default=[])
  parser.add_argument("--seed", type=int, help="one problem alone")
  parser.add_argument("--first", type=int, default=0, help="the first seed")
  parser.add_argument("--count", type=int, default=1000)
  flags = parser.parse_args()
  seeds = range(flags.first, flags.first + flags.count)
  if flags.seed is not None:
    seeds = [flags.seed]
  failed = 0
  for kernel in flags.kernel or KERNELS:
    bad = []
    for number, seed in enumerate(seeds):
      try:
        with simulate.accelerators(detect_races=False):
          words = failure(kernel, seed)
      except Exception:
        words = traceback.format_exc()
      if words or flags.seed is not None:
        print(f"{kernel} --seed {seed}: {KERNELS[kernel][1](seed)}", flush=True)
        print(words or "is right", flush=True)
      bad += [seed] if words else []
      if number % 50 == 49:
        jax.clear_caches()  # programs of problems that do not come again
    print(f"{kernel}: {len(bad)} of {len(seeds)} fail: {bad}", flush=True)
    failed += len(bad)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
