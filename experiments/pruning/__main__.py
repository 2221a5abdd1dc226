"""Prunes the heads, layers or weights of a saved run, and reports what is left.

  python -m experiments.pruning --workdir runs/shrp
  python -m experiments.pruning --workdir runs/lm --by gate --keep 2
  python -m experiments.pruning --workdir runs/lm --keep-layers 1
  python -m experiments.pruning --workdir runs/local --sparsity 0.6 --pool model

Layers of specialized_heads are pruned by the usage of their heads, which is counted on
training data; others, which have projections `qkv` and `out`, by the importance of
their heads. With a sparsity single weights become 0, by module_pruning, and the table
counts those that are left. The page and the JSON have heads, parameters of every module
and FLOPs of one row before and after, and the loss and the metric on a split.
"""

import argparse
import functools
import json
import operator
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.analysis import module_pruning
from attnjax.variants.heads import specialized_heads as heads
from experiments import errors
from experiments.data import pipeline
from experiments.open_run import Saved, open_run
from experiments.pages import page
from experiments.pruning import report, sizes
from experiments.training import evaluation

_BY = ("usage", "gate", "magnitude")


def main(argv: list[str] | None = None) -> int:
  """Prints the table, writes the page and the JSON, and returns the exit status."""
  flags = _parser().parse_args(argv)
  for name in ("batches", "keep_layers"):
    if getattr(flags, name) < (name == "batches"):
      raise errors.UserError(f"--{name.replace('_', '-')} = {getattr(flags, name)}")
  saved = open_run(flags.workdir, flags.checkpoint)
  try:
    record = measured(saved, flags)
  except (ValueError, AttributeError, NotImplementedError) as error:
    raise errors.UserError(f"{flags.workdir}: {errors.one_line(error)}") from error
  print(report.text(record))
  text = json.dumps(record, indent=1) + "\n"
  page.save(Path(flags.json), text)
  page.save(Path(flags.output), report.html(record))
  print(f"page: {flags.output}, numbers: {flags.json}")
  return 0


def measured(saved: Saved, flags: Any) -> dict[str, Any]:
  """Returns the record of a run before and after pruning.

  Raises:
    ValueError: if the model cannot be pruned so.
  """
  model, batches = saved.model, list(_batches(saved, "train", flags.batches))
  row = {n: x[:1] for n, x in batches[0].items()}
  (inputs, _) = saved.assembly.objective.inputs(row)
  kept, weights = model, {}
  if flags.sparsity:
    how = f"all but {flags.sparsity} of the weights, by {flags.score} in a {flags.pool}"
    given = {"pool": flags.pool, "score": flags.score}
    masks = module_pruning.dimap_masks(model, flags.sparsity, **given)
    kept = module_pruning.apply_masks(model, masks)
    weights = module_pruning.report(model, masks)
  elif flags.keep_layers:
    how = f"the {flags.keep_layers} layers that change their input most"
    scores = _mean([heads.contributions(model, *_inputs(saved, b)) for b in batches])
    kept = heads.prune_layers(model, scores, flags.keep_layers)
  else:
    by = flags.by or _suited(model)
    how = f"{flags.keep} of each layer's heads, by {by}"
    kept = heads.prune(model, _scores(saved, batches, by), flags.keep)
  found: dict[str, Any] = {"workdir": flags.workdir, "step": saved.step, "kept": how}
  shape = np.shape(inputs[0])
  found["tokens"] = int(shape[1]) if len(shape) == 2 else 0  # 0: an image
  found["weights"] = weights
  for name, one in (("before", model), ("after", kept)):
    found[name] = _sizes(one, inputs)
    found[name]["quality"] = _quality(saved, one, flags.split)
  return found


def _sizes(model, inputs) -> dict[str, Any]:
  """Returns the sizes of the blocks and of the model; a network has no blocks here."""
  stages = hasattr(model, "stages")
  found = [sizes.whole(model, *inputs)] if stages else sizes.of(model, *inputs)
  each = [x.record() for x in found]
  return {"blocks": each[:-1], "model": each[-1]}


def _suited(model) -> str:
  routed = all(isinstance(b.mixer, heads.Layer) for b in sizes.blocks(model))
  return "usage" if routed else "gate"


def _scores(saved: Saved, batches, by: str) -> list[Any]:
  """Returns the usage of heads, or their importance, on some batches."""
  model = saved.model
  if by == "usage":
    count = jax.jit(lambda model, *x: heads.usage(model, *x))
    each = [count(model, *_inputs(saved, batch)) for batch in batches]
    return [functools.reduce(operator.add, layer) for layer in zip(*each)]
  if by == "magnitude":
    return heads.importance(model, _no_loss, kind=by)
  goal = saved.assembly.objective

  def loss(model, example):
    batch = jax.tree.map(lambda x: x[None], example)
    outputs, *_ = goal.predict(model, saved.state["stats"], batch)
    return goal.totals(outputs, batch)["loss"]

  one = jax.jit(functools.partial(heads.importance, loss=loss))
  each = [one(model, batch=jax.tree.map(jnp.asarray, batch)) for batch in batches]
  return [_mean(layer) for layer in zip(*each)]


def _no_loss(model, example):
  raise AssertionError("a magnitude asks for no loss")


def _mean(arrays) -> Any:
  return functools.reduce(operator.add, arrays) / len(arrays)


def _batches(saved: Saved, split: str, limit: int):
  source, config = saved.assembly.task.source(split), saved.assembly.config
  return pipeline.evaluation(source, batch=config.data.batch, limit=limit)


def _inputs(saved: Saved, batch) -> tuple[Any, ...]:
  return tuple(map(jnp.asarray, saved.assembly.objective.inputs(batch)[0]))


def _quality(saved: Saved, model: Any, split: str) -> dict[str, float]:
  """Returns the mean loss and the metric of a model on a split."""
  with jax.set_mesh(saved.assembly.mesh):
    run = jax.jit(saved.assembly.evaluate())
  state = saved.state | {"model": model}
  return evaluation.evaluate(saved.assembly, run, state, split)


def _keep(text: str) -> int | float:
  return int(text) if text.lstrip("-").isdigit() else float(text)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m experiments.pruning",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--workdir", required=True, help="the folder of the run")
  add("--checkpoint", default="latest", help="latest, best, or a step; default latest")
  add(
    "--keep",
    type=_keep,
    default=1,
    help="heads that a layer keeps: a number, or a share such as 0.2 that a head needs;"
    " default 1",
  )
  add("--by", choices=_BY, help="default: usage where heads are routed, else gate")
  add(
    "--keep-layers",
    type=int,
    default=0,
    help="keep so many layers whole, and prune no heads; default 0: no layer goes",
  )
  add(
    "--sparsity",
    type=float,
    default=0.0,
    help="the share of weights that go, in place of heads; default 0: none",
  )
  add("--pool", choices=module_pruning.POOLS, default="module", help="default module")
  add("--score", choices=module_pruning.SCORES, default="dimap", help="default dimap")
  add("--batches", type=int, default=8, help="batches to count on; default 8")
  add("--split", default="validation", help="where loss and metric are measured")
  add("--output", default="pruning.html", help="the page; default pruning.html")
  add("--json", default="pruning.json", help="the numbers; default pruning.json")
  return parser


if __name__ == "__main__":
  sys.exit(errors.guard(main))
