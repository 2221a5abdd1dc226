"""Every kernel compiled for machines that are not here, in several processes.

A job is a function of a package of kernels with its arguments; its rows say what was
compiled, what it needs, and in `problems` what is wrong with it.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence

from experiments.bench import targets

# (package, a partial of a module's function, which can be sent to a process).
Job = tuple[str, functools.partial]


def rows(jobs: Sequence[Job], workers: int | None = None) -> tuple[list[dict], bool]:
  """Returns (the rows of all jobs in their order, whether none has a problem).

  Args:
    jobs: (package, a partial of a module's function that returns a list of rows).
    workers: number of processes; as many as processors if not given.
  """
  found: list[dict] = []
  begun = time.monotonic()
  pool = concurrent.futures.ProcessPoolExecutor(
    max_workers=workers or os.cpu_count() or 1,
    mp_context=multiprocessing.get_context("spawn"),
    initializer=targets.enable,
  )
  with pool:
    waiting = [pool.submit(timed, job) for _, job in jobs]
    for number, ((package, _), future) in enumerate(zip(jobs, waiting), 1):
      made, seconds = future.result()
      for row in made:
        found.append({"package": package} | row)
        print(f"{number:4}/{len(jobs)} {package:14} {described(row)}", flush=True)
      passed = time.monotonic() - begun
      print(f"          {seconds:.0f} s, {passed / 60:.1f} min in all", flush=True)
  faults = [row for row in found if row["problems"]]
  print(f"{len(found)} kernels compiled, {len(faults)} with problems")
  for row in faults:
    print(f"  {row['package']:14} {described(row)}")
  return found, not faults


def timed(job: Callable[[], list[dict]]) -> tuple[list[dict], float]:
  """Returns (a job's rows, its seconds); an exception is a row with that problem."""
  begun = time.monotonic()
  try:
    made = job()
  except Exception as error:  # one machine's refusal leaves the others to be seen
    given = " ".join(map(str, getattr(job, "args", ())))
    made = [{"machine": given, "problems": f"{type(error).__name__}: {error}"[:500]}]
  return made, time.monotonic() - begun


def described(row: dict) -> str:
  """Describes a row on one line: what it is, what it needs, what is wrong."""
  names = ("machine", "chip", "kernel", "part", "case", "dtype", "H", "V", "E", "tile")
  first = " ".join(str(row[n]) for n in names if row.get(n) not in (None, ""))
  needs = ("registers", "spilled", "shared", "bundles", "MiB")
  second = ", ".join(f"{n} {row[n]}" for n in needs if n in row)
  return f"{first}: {second}" + f"; {row['problems']}" * bool(row["problems"])
