r"""Decodes saved runs under every cache policy at every budget: accuracy against cost.

  python -m experiments.frontier --workdir runs/needle
  python -m experiments.frontier --workdir runs/small --workdir runs/large \
      --policies delta "kinetics:dense_layers=" --budgets 0.05 0.25 1 --rows 256

A row is decoded with its answers given: the prompt in one step, up to the first answer
(half of a text), the rest token by token under the policy. The page has the Pareto
fronts of accuracy against bytes read for a decoded token and FLOPs of a prompt, the
largest safe sparsity of each policy, kinetics' costs, and maps over lengths, beyond the
trained one, too, and over depths of needles. What is measured is kept in the run's
frontier.jsonl, and not measured again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import errors
from experiments.data import progress
from experiments.frontier import bootstrap, costs, fronts, maps, points, report, scores
from experiments.frontier.measuring import Run
from experiments.open_run import open_run, with_data
from experiments.pages import page

BUDGETS = (0.05, 0.1, 0.25, 0.5, 1.0)


def main(argv: list[str] | None = None) -> int:
  """Prints the points, writes the page and the JSON, and returns the exit status."""
  flags = _parser().parse_args(argv)
  _check(flags)
  candidates, left = points.chosen(flags.policies, flags.exact)
  opened = [_opened(flags, workdir, candidates) for workdir in flags.workdir]
  runs = [_measured(flags, run, fit, left | no) for run, fit, no in opened]
  names = ("budgets", "margin", "batch", "map_budget", "map_rows")
  settings = {name: getattr(flags, name) for name in names}
  record = {"settings": settings | {"level": bootstrap.LEVEL}, "runs": runs}
  record["fronts"] = _fronts(runs)
  print(report.text(record))
  page.save(Path(flags.json), json.dumps(record, indent=1) + "\n")
  page.save(Path(flags.output), report.html(record))
  print(f"page: {flags.output}, numbers: {flags.json}")
  return 0


def _opened(flags, workdir: str, candidates) -> tuple[Run, list[Any], dict[str, str]]:
  """Returns (run, policies that fit it, why others do not), before all measuring."""
  saved = with_data(open_run(workdir, flags.checkpoint), flags.option)
  run = Run(saved, workdir, flags.split, again=flags.again)
  scores.prompt_of(run.rows(flags.rows), flags.prompt)
  if flags.maps:
    maps.lengths_of(run, flags.lengths)
  fit, refused = run.check(candidates)
  return run, fit, refused


def _measured(flags, run: Run, fit, left) -> dict[str, Any]:
  """Returns the record of a run."""
  rows, workdir = run.rows(flags.rows), run.workdir
  count, length = rows["tokens"].shape
  prompt = scores.prompt_of(rows, flags.prompt)
  spread = points.spread(fit, flags.budgets, length)
  found, losses = [], []
  full: list[float] = []
  for point in progress.track(spread, f"{workdir}: policies"):
    own = run.scores(point, count, prompt)
    full = full or own[run.metric]  # the first point is full attention
    losses.append(scores.losses(full, own[run.metric], run.better))
    entry = {"label": point.label, "name": point.name, "fraction": point.fraction}
    entry |= {"prompted": hasattr(point.policy, "prefill")}
    entry |= {"policy": repr(point.policy), "mean": float(np.mean(own[run.metric]))}
    entry |= {name: float(np.mean(own[name])) for name in ("exact", "bits")}
    entry |= costs.of(run.sizes, point.policy, prompt, length, flags.batch)
    closed = costs.closed(run.sizes, point.policy, prompt, length)
    found.append(entry | {"closed_eflops": closed})
  lengths = maps.lengths_of(run, flags.lengths) if flags.maps else []
  sizes = {"fraction": flags.map_budget, "lengths": lengths, "depths": flags.depths}
  record = {"workdir": workdir, "step": run.saved.step, "split": flags.split}
  record |= {"data": run.saved.assembly.task.name, "metric": run.metric, "rows": count}
  record |= {"length": length, "prompt": prompt, "points": found}
  record |= {"safe": _safe(found, losses, flags.margin)}
  record |= {"left_out": left | _uncounted(found)}
  made = maps.measured(run, fit, count=flags.map_rows, **sizes) if lengths else []
  return record | {"maps": made}


def _safe(
  found: Sequence[dict[str, Any]], losses: Sequence[list[float]], margin: float
) -> dict[str, Any]:
  """Returns the sparsest safe point of each policy, None where none is safe."""
  safe: dict[str, Any] = {}
  for name in dict.fromkeys(point["name"] for point in found[1:]):
    own = [i for i, point in enumerate(found) if point["name"] == name]
    kind = "prompt_sparsity" if found[own[0]]["prompted"] else "sparsity"
    if any(found[i][kind] is None for i in own):
      continue  # `_uncounted` names it
    tested = [(found[i][kind], losses[i]) for i in own]
    best = bootstrap.largest_safe(tested, margin=margin)
    if best is None:
      safe[name] = None
      continue
    point, lost = found[own[best]], losses[own[best]]
    safe[name] = {n: point[n] for n in ("label", "fraction", "bytes", "prompt_flops")}
    safe[name] |= {"of": kind, "sparsity": point[kind]}
    safe[name] |= {"loss": float(np.mean(lost)), "bound": bootstrap.upper(lost)}
  return safe


def _uncounted(found: Sequence[dict[str, Any]]) -> dict[str, str]:
  """Returns why policies have no FLOPs of a prompt and no safe sparsity, by name."""
  reason = "chooses in the prompt and has no `prompt_reads`: its FLOPs are not known"
  return {p["name"]: reason for p in found if p["prompt_flops"] is None}


def _fronts(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the fronts of all runs on a task, one for each kind of cost."""
  found = []
  for task in dict.fromkeys(report.task(run) for run in runs):
    own = [run for run in runs if report.task(run) == task]
    every = [(run, point) for run in own for point in run["points"]]
    for cost in report.AXES:
      values = [np.nan if p[cost] is None else p[cost] for _, p in every]
      marks = [p["mean"] * (1 if r["metric"] == "right" else -1) for r, p in every]
      line = [
        {"workdir": every[i][0]["workdir"], "label": every[i][1]["label"]}
        | {"cost": values[i], "mean": every[i][1]["mean"]}
        for i in fronts.pareto(values, marks)
      ]
      found.append({"task": task, "cost": cost, "points": line})
  return found


def _check(flags) -> None:
  """Raises UserError for a flag out of its range."""
  for name, least in (("rows", 2), ("batch", 1), ("map_rows", 2), ("prompt", 0)):
    value = getattr(flags, name)
    if value < least:
      flag = name.replace("_", "-")
      raise errors.UserError(f"--{flag} = {value}; it must be at least {least}")
  for fraction in (*flags.budgets, flags.map_budget):
    if not 0 < fraction <= 1:
      raise errors.UserError(f"budget {fraction:g}; it must be above 0 and at most 1")
  if not flags.margin >= 0:
    raise errors.UserError(f"--margin = {flags.margin}; it must be 0 or more")
  for depth in flags.depths:
    if not 0 <= depth <= 1:
      raise errors.UserError(f"--depths: {depth:g}; a depth is from 0 to 1")
  for length in flags.lengths:
    if length < 1:
      raise errors.UserError(f"--lengths: {length}; a row has 1 token or more")
  if len(set(flags.workdir)) < len(flags.workdir):
    raise errors.UserError(f"--workdir: {flags.workdir} names a run twice")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m experiments.frontier",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  many: dict[str, Any] = {"nargs": "*", "default": []}
  add("--workdir", action="append", required=True, help="a run; may be repeated")
  add("--checkpoint", default="latest", help="latest, best, or a step; default latest")
  add("--split", default="test", choices=["train", "validation", "test"])
  add("--rows", type=int, default=64, help="how many examples; default 64")
  budgets: dict[str, Any] = {"type": float, "nargs": "+", "metavar": "SHARE"}
  said = " ".join(f"{b:g}" for b in BUDGETS)
  add(
    "--budgets", default=list(BUDGETS), help=f"of the keys; default {said}", **budgets
  )
  add("--policies", help="at each budget, as delta:page=8; default all", **many)
  add("--exact", help="policies as they are, as delta:pages=4", **many)
  told = "another option of the data set, such as length=1024; may be repeated"
  add("--option", action="append", default=[], metavar="NAME=VALUE", help=told)
  add("--prompt", type=int, default=0, help="tokens; default up to the first answer")
  add("--batch", type=int, default=64, help="rows that share a read of the parameters")
  add("--margin", type=float, default=0.01, help="tolerated loss; default 0.01")
  add("--maps", action=argparse.BooleanOptionalAction, default=True)
  told = "of the maps; default the trained length and its double"
  add("--lengths", type=int, help=told, **many)
  depths: dict[str, Any] = {"type": float, "nargs": "+", "default": list(maps.DEPTHS)}
  add("--depths", help="of needles; default 0 to 1 in quarters", **depths)
  add("--map-budget", type=float, default=0.25, help="of the maps; default 0.25")
  add("--map-rows", type=int, default=16, help="rows of a cell; default 16")
  add("--again", action="store_true", help="measure anew what is kept")
  add("--output", default="frontier.html", help="the page; default frontier.html")
  add("--json", default="frontier.json", help="the numbers; default frontier.json")
  return parser


if __name__ == "__main__":
  sys.exit(errors.guard(main))
