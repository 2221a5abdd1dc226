"""Speed, each number beside its peers' in the same run.

  python -m experiments.bench cpu         time, by the clock, beside jax.nn and PyTorch
  python -m experiments.bench tpu         the compiled schedule, beside splash attention
  python -m experiments.bench gpu         the machine code, beside fla's kernel
  python -m experiments.bench lowering    every kernel compiled for every machine
  python -m experiments.bench tune        tiles for a shape, by the TPU's schedule

All but `cpu` compile for machines that need not be there. Needs `pip install -e
.[bench]` (`make bench`). The rows also go to a JSON file.
"""

import argparse
import json
import sys
from pathlib import Path

from experiments import errors
from experiments.bench import machines

_KINDS = ("cpu", "tpu", "gpu", "lowering", "tune")


def main(argv: list[str] | None = None) -> int:
  """Prints a table; status 1 if a bound does not hold."""
  parser = argparse.ArgumentParser(
    prog="python -m experiments.bench",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("kind", choices=_KINDS)
  parser.add_argument(
    "--json",
    type=Path,
    help="where the rows go; results/bench_<kind>.json if not given",
  )
  parser.add_argument(
    "--only", default="", help="cpu: the part of that name (attention, window, ...)"
  )
  parser.add_argument("--T", type=int, default=4096, help="tune: queries and keys")
  parser.add_argument("--H", type=int, default=128, help="tune: size of a head")
  parser.add_argument("--topology", default="v5e", help="tune: v5e or v6e")
  flags = parser.parse_args(argv)
  machines.enable()
  rows, holds = _rows(flags)
  path = flags.json or Path("results") / f"bench_{flags.kind}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
  print(f"rows in {path}")
  return 0 if holds else 1


def _rows(flags) -> tuple[list[dict], bool]:
  """The rows of a kind, printed as they come."""
  match flags.kind:
    case "cpu":
      from experiments.bench import cpu

      return cpu.rows(flags.only)
    case "tpu":
      from experiments.bench import tpu

      return tpu.rows()
    case "gpu":
      from experiments.bench import gpu

      return gpu.rows()
    case "lowering":
      from experiments.bench import lowering

      return lowering.rows()
  from experiments.bench import tune

  return tune.rows(flags.T, flags.H, flags.topology)


if __name__ == "__main__":
  sys.exit(errors.guard(main))
