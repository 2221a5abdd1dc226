"""Proves and times exported kernels on an NVIDIA machine, without Triton there.

  python3 check.py --out OUT [--folder FOLDER] [--seconds 450] [--only REGEX]

Reads what `python -m experiments.bench device --export` wrote; needs numpy, jax with
its CUDA plugin, flatbuffers and a `ptxas`, and for PyTorch's numbers torch. Each step's
result is a line of OUT/results.jsonl as soon as it is there, tables come last.

A case is right if each output's largest error against the definition in float64 is at
most twice that of plain JAX in the same type on the same GPU, and each gradient's three
times (the factors of FlashAttention's tests), plus 1e-5, relative to the largest
element (1 if that is less), and if a second run is equal to the bit.
With --dry no kernel runs and no GPU need be there: every export is read without the
library and Triton, and lowered for a GPU again, and what proves it must fit (dry.py).
Groups of steps run in child processes: a step that hangs or breaks the GPU's context
ends its process, and a new one goes on with the next step.
"""

import argparse
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

try:
  from experiments.bench.device import bounds, carried, clock, dry, edges, peers
except ImportError:  # as it lies beside the exports, without the project
  import bounds  # pyrefly: ignore[missing-import]
  import carried  # pyrefly: ignore[missing-import]
  import clock  # pyrefly: ignore[missing-import]
  import dry  # pyrefly: ignore[missing-import]
  import edges  # pyrefly: ignore[missing-import]
  import peers  # pyrefly: ignore[missing-import]


def right(folder: Path, case: dict, platform: str) -> dict:
  """Returns a case's errors, those of plain JAX, and whether two runs are equal."""
  import jax

  arrays = jax.tree.map(jax.numpy.asarray, carried.given(folder, case))
  kind = "kernel" if platform == "gpu" else "dry"
  kernel = jax.jit(carried.loaded(folder, case, kind))
  first, second = (jax.tree.map(np.asarray, kernel(arrays)) for _ in range(2))
  want = np.load(folder / case["files"]["reference"])
  if "plain" in case["files"]:
    common = jax.jit(carried.loaded(folder, case, "plain"))(arrays)
    usual = {n: carried.error(common[n], want[n]) for n in want}
  else:
    usual = case["plain"]  # as measured where the case was exported
  errors = {n: (carried.error(first[n], want[n]), usual[n]) for n in want}
  equal = all(first[n].tobytes() == second[n].tobytes() for n in first)
  ok, worst = bounds.right(case["name"], errors, equal)
  return {"ok": ok, "equal": equal, "worst": worst, "errors": errors}


def jax_program(folder: Path, case: dict, who: str, platform: str):
  """Compiles the kernels' program or a peer's; returns what times a call of it."""
  run = (
    carried.loaded(folder, case, "kernel") if who == "kernel" else peers.jax(case, who)
  )
  return clock.ready(case, run, calls_of(case, platform))


def calls_of(case: dict, platform: str) -> int:
  """Returns how many calls take about 30 ms, so that the launch does not count."""
  return int(np.clip(1e13 / case["flops"], 3, 20)) if platform == "gpu" else 2


def timed(case: dict, who: str, program, platform: str) -> dict:
  """Returns milliseconds of a call, the kernels' or a peer's; the best of five."""
  calls = calls_of(case, platform)
  if isinstance(program, Exception):
    raise program
  seconds = program() if program else peers.torch_seconds(case, who, calls)
  rates = {"TFLOP/s": case["flops"] / seconds / 1e12}
  rates |= {"GB/s": case["bytes"] / seconds / 1e9}
  return {"ms": 1e3 * seconds, "calls": calls} | rates


def child(flags) -> None:
  """Runs the steps that stdin lists as JSON; each result is a line of the file."""
  cases = {case["name"]: case for case in _manifest(flags.folder)["cases"]}
  steps = json.loads(sys.stdin.read())
  while steps:
    now, steps = steps[: clock.TOGETHER], steps[clock.TOGETHER :]
    programs = clock.prepare(
      {
        (who, name): functools.partial(
          jax_program, flags.folder, cases[name], who, flags.platform
        )
        for who, name, _ in now
        if who in peers.JAX
      }
    )
    for who, name, limit in now:
      _taken(flags, cases[name], who, limit, programs.get((who, name)))


def _taken(flags, case: dict, who: str, limit: int, program) -> None:
  """Takes a step and writes its result."""
  signal.alarm(limit)  # ends this process, wherever it is
  start = time.time()
  try:
    found = step(flags, case, who, limit, program)
  except Exception as problem:
    found = {"failed": f"{type(problem).__name__}: {problem}"[:400]}
  signal.alarm(0)
  _write(flags, {"case": case["name"], "who": who} | found, start)
  if "CUDA_ERROR" in found.get("failed", "") or "illegal" in found.get("failed", ""):
    sys.exit(3)  # the context may be broken


def step(flags, case: dict, who: str, seconds: int, program) -> dict:
  """Runs a step and returns its result."""
  match who:
    case "dry":
      return dry.read(flags.folder, case)
    case "right":
      return right(flags.folder, case, flags.platform)
    case "alone":
      return edges.alone(
        carried.loaded(flags.folder, case, "kernel"), carried.inputs(case)
      )
    case "limit":
      return edges.limit(carried.loaded(flags.folder, case, "kernel"))
    case "memcheck" | "racecheck":
      return edges.sanitized(__file__, flags.folder, case["name"], who, seconds - 5)
  return timed(case, who, program, flags.platform)


def drive(flags, steps: list, deadline: float) -> None:
  """Runs steps in child processes, a new one where one ends before its time."""
  own = ["--folder", flags.folder, "--out", flags.out, "--platform", flags.platform]
  while steps and time.time() < deadline:
    started = time.time()
    with (flags.out / "log.txt").open("a") as log:
      process = subprocess.Popen(
        [sys.executable, __file__, "--child", *map(str, own)],
        stdin=subprocess.PIPE,
        stderr=log,
        env=os.environ | _quick(steps),
      )
      try:
        process.communicate(json.dumps(steps).encode(), deadline - started)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        break
    done = {(row["who"], row["case"]) for row in _rows(flags.out)}
    left = [step for step in steps if tuple(step[:2]) not in done]
    if left and process.returncode != 3:
      who, name, limit = left.pop(0)
      ended = f"over {limit} s" if process.returncode == -signal.SIGALRM else "crashed"
      what = {"failed": f"{ended} (status {process.returncode})"}
      _write(flags, {"case": name, "who": who} | what, started)
    steps = left
  for who, name, _ in steps:
    if (who, name) not in {(row["who"], row["case"]) for row in _rows(flags.out)}:
      _write(flags, {"case": name, "who": who, "failed": "no time left"}, time.time())


def _quick(steps: list) -> dict:
  """Returns variables that compile proofs fast: any algorithm of a product will do."""
  if steps[0][0] in peers.JAX:
    return {}
  flags = (os.environ.get("XLA_FLAGS", ""), "--xla_gpu_autotune_level=0")
  return {"XLA_FLAGS": " ".join(filter(None, flags))}


def main() -> None:
  """Runs all steps, proofs first and several at a time, and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=Path, required=True, help="where results go")
  parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "exported")
  parser.add_argument("--seconds", type=int, default=450, help="for everything")
  parser.add_argument("--only", default="", help="cases whose names match this")
  parser.add_argument("--who", default="", help="steps of those who match this")
  parser.add_argument("--platform", choices=["gpu", "cpu"], default="gpu")
  parser.add_argument("--dry", action="store_true", help="only load and lower them all")
  parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.dry:
    flags.platform = "cpu"
  if flags.platform == "cpu":
    os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
  os.environ["PATH"] += os.pathsep + "/usr/local/cuda/bin"
  if flags.child:
    return child(flags)
  start = time.time()
  flags.out.mkdir(parents=True, exist_ok=True)
  (flags.out / "results.jsonl").unlink(missing_ok=True)
  _write(flags, {"who": "machine", "case": ""} | peers.machine(), start)
  cases = _manifest(flags.folder)["cases"]
  cases = [c for c in cases if re.search(flags.only, c["name"])]
  groups = peers.groups(cases, flags.platform, flags.who)
  for group in peers.dry(cases) if flags.dry else groups:
    running = [(g, start + flags.seconds) for g in group]
    peers.together(lambda steps, end: drive(flags, steps, end), running)
  print(peers.tables(cases, _rows(flags.out)))
  print(f"{time.time() - start:.0f} s")


def _manifest(folder: Path) -> dict:
  return json.loads((folder / "manifest.json").read_text())


def _rows(out: Path) -> list[dict]:
  path = out / "results.jsonl"
  return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def _write(flags, row: dict, start: float) -> None:
  row |= {"seconds": round(time.time() - start, 2)}
  with (flags.out / "results.jsonl").open("a") as file:
    file.write(json.dumps(row) + "\n")
  print(json.dumps(row)[:300], flush=True)


if __name__ == "__main__":
  main()
