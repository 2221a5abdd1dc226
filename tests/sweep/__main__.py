"""Runs the sweep: see `tests.sweep`. The status is 1 if a problem fails."""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys

from tests import compile_fast
from tests.sweep.kernels import KERNELS, failures

# Problems that a process takes at once.
_PART = 25


def _swept(pool, kernel: str, seeds: range) -> int:
  """Prints every problem on which a kernel fails; returns their number."""
  parts = [list(seeds[i : i + _PART]) for i in range(0, len(seeds), _PART)]
  bad: list[int] = []
  done = 0
  for part, found in zip(parts, pool.map(failures, [kernel] * len(parts), parts)):
    for seed, words in found.items():
      print(f"{kernel} --seed {seed}: {words}", flush=True)
    bad, done = bad + list(found), done + len(part)
    if sys.stderr.isatty():
      print(f"{kernel}: {done} of {len(seeds)}", end="\r", file=sys.stderr, flush=True)
  print(f"{kernel}: {len(bad)} of {len(seeds)} fail: {bad}", flush=True)
  return len(bad)


def main() -> int:
  """Sweeps the kernels; returns the status of the process."""
  parser = argparse.ArgumentParser(prog="python -m tests.sweep")
  parser.add_argument("--kernel", nargs="*", choices=list(KERNELS), default=[])
  parser.add_argument("--seed", type=int, help="one problem alone")
  parser.add_argument("--first", type=int, default=0, help="the first seed")
  parser.add_argument("--count", type=int, default=1000)
  parser.add_argument("--processes", type=int, default=os.cpu_count())
  flags = parser.parse_args()
  kernels = flags.kernel or list(KERNELS)
  if flags.seed is not None:
    found = {k: failures(k, [flags.seed], right=True)[flags.seed] for k in kernels}
    for kernel, words in found.items():
      print(f"{kernel} --seed {flags.seed}: {words}")
    return int(not all(words.endswith("\nis right") for words in found.values()))
  seeds = range(flags.first, flags.first + flags.count)
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(flags.processes, spawn) as pool:
    failed = sum(_swept(pool, kernel, seeds) for kernel in kernels)
  return 1 if failed else 0


if __name__ == "__main__":
  compile_fast.use()
  sys.exit(main())
