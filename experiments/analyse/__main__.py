r"""Analyses a saved run by systems of the form "analysis", and writes JSON and a page.

  python -m experiments.analyse --workdir runs/lm --with secondary_sinks
  python -m experiments.analyse --workdir runs/lm --with secondary_sinks \
      --option least=4 --option distance=16 --heads 0.1,1.3

The model is traced on --rows examples of a split; what a report holds is said by the
analysis' own page, docs/systems/<name>.md. --heads draws the weights of these heads,
layer.head, for the first row.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax import contract, inspect
from experiments import configuration, errors
from experiments.analyse import options, report
from experiments.data import pipeline
from experiments.open_run import Saved, open_run
from experiments.pages import page


def main(argv: list[str] | None = None) -> int:
  """Prints the numbers, writes the page and the JSON, and returns the exit status."""
  flags = _parser().parse_args(argv)
  if flags.rows < 1:
    raise errors.UserError(f"--rows = {flags.rows}; it must be 1 or more")
  modules = options.analyses(flags.analyses)
  given = options.parsed(modules, flags.option)
  saved = open_run(flags.workdir, flags.checkpoint)
  options.check_host(modules, saved.assembly.config.host)
  wanted = options.heads(flags.heads)
  trace, arrays = _traced(saved, flags.split, flags.rows)
  record: dict[str, Any] = {"workdir": flags.workdir, "step": saved.step}
  record |= {"split": flags.split, "rows": len(jax.tree.leaves(arrays)[0])}
  found = {}
  for slug, module in modules.items():
    try:
      found[slug] = module.analyse(trace, **given[slug])
    except (ValueError, NotImplementedError) as error:
      raise errors.UserError(f"{slug}: {errors.one_line(error)}") from error
  pictures = _weights(saved.model, trace, wanted)
  record["options"] = given
  record["axes"] = {s: {n: m.AXES[n] for n in found[s]} for s, m in modules.items()}
  record["analyses"] = {slug: contract.plain(one) for slug, one in found.items()}
  print(report.text(record))
  page.save(Path(flags.json), json.dumps(record, indent=1) + "\n")
  page.save(Path(flags.output), report.html(record, modules, found, pictures))
  print(f"page: {flags.output}, numbers: {flags.json}")
  return 0


def _traced(saved: Saved, split: str, rows: int) -> tuple[Any, Any]:
  """Returns (the trace of the first rows of a split, the batch), as NumPy arrays."""
  source = saved.assembly.task.source(split)
  batch = next(iter(pipeline.evaluation(source, batch=min(rows, len(source)), limit=1)))
  host = configuration.host_module(saved.assembly.config.host)
  arguments, context = host.inputs(batch)
  stats = saved.state["stats"]
  context |= {"stats": stats} if jax.tree.leaves(stats) else {}

  @jax.jit
  def run(model, arguments, context):
    return model.trace(*arguments, **context)

  arguments, context = jax.tree.map(jnp.asarray, (arguments, context))
  return jax.device_get(run(saved.model, arguments, context)), batch


def _weights(model: Any, trace: Any, wanted) -> dict[str, np.ndarray]:
  """Returns the weights (T, S) of the heads that are asked for, of the first row."""
  found, layers = {}, list(inspect.layers_of(model)) if wanted else []
  for layer, head in wanted:
    if not 0 <= layer < len(layers) or trace.heads[layer] is None:
      raise errors.UserError(
        f"--heads {layer}.{head}: the layers are 0 to {len(layers) - 1}"
      )
    heads = jax.tree.map(jnp.asarray, trace.heads[layer])
    weights = contract.shares(layers[layer], heads)[0]
    if not 0 <= head < len(weights):
      raise errors.UserError(
        f"--heads {layer}.{head}: the heads of layer {layer} are 0 to"
        f" {len(weights) - 1}"
      )
    found[f"layer {layer}, head {head}"] = np.asarray(weights[head])
  return found


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m experiments.analyse",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--workdir", required=True, help="the folder of the run")
  names = ", ".join(options.names())
  add("--with", required=True, dest="analyses", help=f"of {names}; commas between")
  add("--checkpoint", default="latest", help="latest, best, or a step; default latest")
  add("--split", default="validation", help="the examples; default validation")
  add("--rows", type=int, default=64, help="how many examples; default 64")
  add(
    "--option",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="an option of the analyses that have it; may be repeated",
  )
  add("--heads", default="", help="heads to draw, such as 0.1,3.0: layer.head")
  add("--output", default="analysis.html", help="the page; default analysis.html")
  add("--json", default="analysis.json", help="the numbers; default analysis.json")
  return parser


if __name__ == "__main__":
  sys.exit(errors.guard(main))
