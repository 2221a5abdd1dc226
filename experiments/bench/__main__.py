"""Speed, each number beside its peers' in the same run.

  python -m experiments.bench cpu         time, by the clock, beside jax.nn and PyTorch
  python -m experiments.bench tpu         compiled schedules, beside splash attention
  python -m experiments.bench gpu         machine code, beside fla's and tokamax's
  python -m experiments.bench lowering    every kernel compiled for every machine
  python -m experiments.bench tune        tiles for a shape, by the TPU's schedule
  python -m experiments.bench length      time, FLOPs and memory against T, a picture;
      rows in results/length, a file a mechanism
  python -m experiments.bench decode      bytes, time and memory of decoding under each
      cache policy, beside the full cache; rows in results/decode, a file a policy
  python -m experiments.bench tokens      time of networks with fewer tokens, by keep
      rate, beside all tokens; rows in results/tokens, a file a system
  python -m experiments.bench pixels      FLOPs and memory of whole networks against the
      side of their images; rows in results/pixels, a file a system
  python -m experiments.bench device --export FOLDER   the GPU kernels, to be proved and
      timed by FOLDER/check.py on a machine without Triton
  python -m experiments.bench device --collect OUT ... what it found, as results

All but `cpu` and the kinds with rows in results/<kind> compile for machines that are
absent. Needs `pip install -e .[bench]` (`make bench`). The rows also go to JSON files,
with --only beside those of the other kernels or parts that are there.
"""

import argparse
import functools
import importlib
import json
import pkgutil
import sys
from pathlib import Path

from experiments import errors
from experiments.bench import kernels, lowering, records, targets

_KINDS = ("cpu", "tpu", "gpu", "lowering", "tune")
_KINDS += (*records.NAMES, "device")


def main(argv: list[str] | None = None) -> int:
  """Prints a table; returns 1 if a bound does not hold, else 0."""
  flags = _parser().parse_args(argv)
  targets.enable()
  if flags.kind == "device":
    return _device(flags)
  rows, holds = _rows(flags)
  if flags.kind in records.NAMES and flags.json is None:
    paths = records.written(flags.kind, rows)
    print("rows in " + ", ".join(map(str, paths)))
    return 0 if holds else 1
  path = flags.json or Path("results") / f"bench_{flags.kind}.json"
  return _written(path, records.merged(path, rows) if flags.only else rows, holds)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m experiments.bench",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("kind", choices=_KINDS)
  where = "where the rows go; results/bench_<kind>.json if not given"
  add("--json", type=Path, help=where)
  only = "cpu: the part of that name (attention, window, ...); device: a regular "
  only += "expression of the cases; tpu, gpu, lowering: the kernels of that name "
  add("--only", default="", help=f"{only}({', '.join(_kernels())})")
  add("--T", type=int, default=4096, help="tune: queries and keys")
  add("--H", type=int, default=128, help="tune: size of a head")
  add("--topology", default="v5e", help="tune: v5e or v6e")
  slugs = "length, tokens, pixels: systems; all if not given"
  add("--slugs", nargs="*", default=(), help=slugs)
  lengths = "length, decode: numbers of tokens; pixels: sides"
  add("--lengths", nargs="*", type=int, default=(), help=lengths)
  policies = "decode: as of experiments.sample; all if not given"
  add("--policies", nargs="*", default=(), help=policies)
  share = "decode: budgets, as a share of T"
  add("--fraction", type=float, default=0.05, help=share)
  untimed = "length, pixels: compile, and count; run nothing"
  add("--untimed", action="store_true", help=untimed)
  add("--export", type=Path, help="device: where the kernels go")
  collect = "device: where check.py wrote"
  add("--collect", type=Path, nargs="+", help=collect)
  return parser


def _device(flags) -> int:
  """Exports the kernels, or collects the results of a run with them."""
  from experiments.bench.device import collecting, exporting

  if (flags.export is None) == (flags.collect is None):
    raise errors.UserError("device takes one of --export FOLDER and --collect OUT")
  if flags.export is not None:
    return 0 if exporting.rows(flags.export, flags.only)[1] else 1
  chip, rows, holds = collecting.rows(*flags.collect)
  return _written(
    flags.json or Path("results") / f"bench_device_{chip}.json", rows, holds
  )


def _written(path: Path, rows: list[dict], holds: bool) -> int:
  """Writes the rows; returns 0 if all bounds hold, else 1."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
  print(f"rows in {path}")
  return 0 if holds else 1


def _rows(flags) -> tuple[list[dict], bool]:
  """Returns (the rows of a kind, whether all bounds hold); prints rows as they come."""
  match flags.kind:
    case "cpu":
      from experiments.bench import cpu

      return cpu.rows(flags.only)
    case "tpu" | "gpu" | "lowering":
      return _compiled(flags.kind, flags.only)
    case "length":
      from experiments.bench import length

      lengths = flags.lengths or length.LENGTHS
      try:
        picture = Path("results") / "length.png"
        return length.rows(flags.slugs, lengths, picture, not flags.untimed)
      except ValueError as error:
        raise errors.UserError(str(error)) from error
    case "decode":
      from experiments.bench import decode

      lengths = flags.lengths or decode.LENGTHS
      try:
        keep = len if flags.json else functools.partial(records.written, "decode")
        return decode.rows(flags.policies, lengths, flags.fraction, keep)
      except ValueError as error:
        raise errors.UserError(str(error)) from error
    case "tokens":
      from experiments.bench import tokens

      try:
        return tokens.rows(flags.slugs), True
      except ValueError as error:
        raise errors.UserError(str(error)) from error
    case "pixels":
      from experiments.bench import pixels

      timed = 0 if flags.untimed else pixels.TIMED
      try:
        return pixels.rows(flags.slugs, flags.lengths or pixels.SIDES, timed), True
      except ValueError as error:
        raise errors.UserError(str(error)) from error
  from experiments.bench import tune

  return tune.rows(flags.T, flags.H, flags.topology)


def _kernels() -> list[str]:
  return sorted(module.name for module in pkgutil.iter_modules(kernels.__path__))


def _compiled(kind: str, only: str) -> tuple[list[dict], bool]:
  """Returns (rows of all packages of kernels or of one, whether all bounds hold)."""
  from attnjax import contract  # after machines.enable: it imports jax

  if only and only not in _kernels():
    raise errors.UserError(contract.unknown("package of kernels", only, _kernels()))
  rows: list[dict] = []
  jobs: list[lowering.Job] = []
  holds = True
  for name in [only] if only else _kernels():
    print(f"{name}: {kind}", flush=True)
    module = importlib.import_module(f"experiments.bench.kernels.{name}")
    if kind == "lowering":
      jobs += module.jobs()
      continue
    found, right = getattr(module, kind)()
    rows += [{"package": name} | row for row in found]
    holds &= right
  if kind == "lowering":
    return lowering.rows(jobs)
  return rows, holds


if __name__ == "__main__":
  sys.exit(errors.guard(main))
