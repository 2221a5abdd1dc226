"""Evaluates a saved run on a split of its data set.

python -m experiments.evaluate --workdir runs/lm --split test
python -m experiments.evaluate --workdir runs/needle --option length=1024
"""

import argparse
import json
import sys

import jax

from experiments import errors
from experiments.open_run import open_run, with_data
from experiments.training import evaluation


def main(argv: list[str] | None = None) -> int:
  """Prints one line of JSON: workdir, step, split, loss, metric."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True, help="the folder of the run")
  parser.add_argument(
    "--split", default="test", choices=["train", "validation", "test"]
  )
  parser.add_argument(
    "--checkpoint", default="latest", help="latest, best, or a step; default latest"
  )
  parser.add_argument(
    "--batches", type=int, default=0, help="how many batches; default 0: all"
  )
  parser.add_argument(
    "--option",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="another option of the data set, such as length=1024; may be repeated",
  )
  flags = parser.parse_args(argv)
  if flags.batches < 0:
    raise errors.UserError(
      f"--batches = {flags.batches}; it must be 0, which is all, or more"
    )
  saved = with_data(open_run(flags.workdir, flags.checkpoint), flags.option)
  saved.assembly.config.eval_batches = flags.batches
  with jax.set_mesh(saved.assembly.mesh):
    evaluate = jax.jit(saved.assembly.evaluate())
  numbers = evaluation.evaluate(saved.assembly, evaluate, saved.state, flags.split)
  where = {"workdir": flags.workdir, "step": saved.step, "split": flags.split}
  print(json.dumps(where | numbers))
  return 0


if __name__ == "__main__":
  sys.exit(errors.guard(main))
