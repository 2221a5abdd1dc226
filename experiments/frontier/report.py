"""The page and the plain text of frontiers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pages import page, plots, readable

Record = Mapping[str, Any]
AXES = {
  "bytes": "bytes read for a decoded token",
  "prompt_flops": "FLOPs of a prompt",
}


def text(record: Record) -> str:
  """Formats the points, and the largest safe sparsities, as plain text."""
  lines = []
  for run in record["runs"]:
    lines.append(f"{run['workdir']} at step {run['step']}, {_said(run)}")
    head = ("policy", *(name for name, _ in _COLUMNS))
    table = [head, *([p["label"], *_cells(p)] for p in run["points"])]
    widths = [max(map(len, column)) for column in zip(*table)]
    for first, *rest in table:
      aligned = (cell.rjust(width) for cell, width in zip(rest, widths[1:]))
      lines.append("  ".join([first.ljust(widths[0]), *aligned]).rstrip())
    lines += [f"safe: {name}: {_safe(found)}" for name, found in run["safe"].items()]
    lines += [f"left out: {name}: {why}" for name, why in run["left_out"].items()]
  return "\n".join(lines)


def html(record: Record) -> str:
  """Returns the page: fronts, what is safe, all points, kinetics' costs, maps."""
  runs, settings = record["runs"], record["settings"]
  left = [
    [run["workdir"], name, why] for run in runs for name, why in run["left_out"].items()
  ]
  return page.page(
    "Frontier — attnjax",
    "<header><h1>Accuracy against cost under cache policies</h1></header>\n<main>",
    *[
      page.paragraph(f"{run['workdir']} at step {run['step']}, {_said(run)}")
      for run in runs
    ],
    page.section(
      "Fronts", page.paragraph(_FRONTS), page.grid("charts", _charts(record))
    ),
    page.section(
      "Largest safe sparsity",
      page.paragraph(_SAFE.format(**settings)),
      page.table("By policy", _SAFE_HEAD, _safe_rows(runs)),
    ),
    page.section("All points", *[_points(run, record["fronts"]) for run in runs]),
    page.section(
      "Kinetics' costs",
      page.paragraph(_KINETICS),
      page.table("10^12 eFLOPs of a row's decoded tokens", _COST_HEAD, _costs(runs)),
    ),
    page.section("Lengths and depths", *[_maps(run, settings) for run in runs]),
    page.section(
      "Left out",
      page.table("Policies", ["run", "policy", "reason"], left) if left else "",
    ),
    "</main>",
  )


def _said(run: Record) -> str:
  """Returns what was decoded, in words."""
  steps = run["length"] - run["prompt"]
  return (
    f"{run['data']}, split {run['split']}: {run['rows']} rows of {run['length']}"
    f" tokens, a prompt of {run['prompt']}, {steps} decoded"
  )


_FRONTS = (
  "Each point is a policy at a budget; rows are decoded with their answers given. The"
  " dashed line joins the points of all runs on a task that no other beats."
)
_SAFE = (
  "The sparsest budget whose mean loss against full attention is at most {margin:g}"
  " with {level:.0%} confidence: a one-sided paired bootstrap over rows, from the"
  " least sparse budget on until one fails. Sparsity is the share of keys in all"
  " layers, dense ones included, that decoded tokens did not read; of a policy that"
  " chooses in the prompt, the share of the prompt's pairs."
)
_KINETICS = (
  "2 P G + 4 N H keys + 2 N H (keys to choose) operations and 562.5 for each byte read"
  " of keys and values of 2-byte numbers (arXiv:2506.05333): from the keys that the"
  " policy counts, and by the paper's closed formula, which has no dense layers, no"
  " first tokens, and half a query less."
)
_SAFE_HEAD = ["run", "policy", "safe budget", "sparsity", "mean loss", "bound"]
_COST_HEAD = ["run", "policy", "counted", "closed formula", "share of full"]


def _name(run: Record) -> str:
  return "accuracy" if run["metric"] == "right" else "bits per label"


def _short(run: Record, runs: Sequence[Record]) -> str:
  """Returns what tells a run from others in a legend, which has no room for paths."""
  names = {Path(one["workdir"]).name for one in runs}
  if len(runs) == 1:
    return ""
  whole = len(names) < len(runs)
  return f"{run['workdir'] if whole else Path(run['workdir']).name}: "


def _charts(record: Record) -> Iterable[str]:
  """Draws a chart for each task and each kind of cost."""
  for front in record["fronts"]:
    runs = [run for run in record["runs"] if task(run) == front["task"]]
    series: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
      for point in run["points"]:
        cost = point[front["cost"]]
        if cost is not None:
          name = f"{_short(run, runs)}{point['name']}"
          series.setdefault(name, []).append((cost, point["mean"]))
    if not series:
      continue
    chart = plots.scatter(
      series,
      [(p["cost"], p["mean"]) for p in front["points"]],
      across=AXES[front["cost"]],
      up=_name(runs[0]),
    )
    yield page.figure(chart, front["task"])


def task(run: Record) -> str:
  """Returns the task of a run: runs of one task share fronts."""
  return f"{run['data']}, {run['length']} tokens"


_COLUMNS = (
  ("score", lambda p: readable.number(p["mean"])),
  ("all right", lambda p: readable.number(p["exact"])),
  ("sparsity", lambda p: _share(p["sparsity"])),
  ("of the prompt", lambda p: _share(p["prompt_sparsity"])),
  ("keys a layer", lambda p: readable.number(p["keys"])),
  ("keys to choose", lambda p: readable.number(p["keys_to_choose"])),
  ("bytes a token", lambda p: readable.size(p["bytes"])),
  ("of them keys", lambda p: readable.size(p["bytes_of_keys"])),
  ("FLOPs of the prompt", lambda p: _count(p["prompt_flops"])),
)


def _count(value: float | None) -> str:
  return "–" if value is None else readable.count(value)


def _share(value: float | None) -> str:
  return "–" if value is None else f"{value:.3f}"


def _cells(point: Record) -> list[str]:
  return [form(point) for _, form in _COLUMNS]


def _points(run: Record, fronts: Sequence[Record]) -> str:
  """Returns the table of a run's points; ★ marks those on the front of bytes."""
  on = {
    (p["workdir"], p["label"])
    for front in fronts
    for p in front["points"]
    if front["cost"] == "bytes"
  }
  rows = [[p["label"], *_cells(p)] for p in run["points"]]
  best = {
    (i, 1) for i, p in enumerate(run["points"]) if (run["workdir"], p["label"]) in on
  }
  head = ["policy", _name(run), *(name for name, _ in _COLUMNS[1:])]
  caption = f"{run['workdir']}; ★ on the front of bytes"
  return page.table(caption, head, rows, frozenset(best))


def _safe(found: Record | None) -> str:
  if found is None:
    return "none of the budgets"
  return (
    f"{found['label']}, sparsity {found['sparsity']:.3f}, mean loss"
    f" {found['loss']:.4f}, at most {found['bound']:.4f}"
  )


def _safe_rows(runs: Sequence[Record]) -> Iterable[list[str]]:
  for run in runs:
    for name, found in run["safe"].items():
      if found is None:
        yield [run["workdir"], name, "none", "–", "–", "–"]
        continue
      numbers = (f"{found[n]:.4f}" for n in ("sparsity", "loss", "bound"))
      yield [run["workdir"], name, found["label"], *numbers]


def _costs(runs: Sequence[Record]) -> Iterable[list[str]]:
  for run in runs:
    full = run["points"][0]["eflops"]
    for point in run["points"]:
      own = point["closed_eflops"]
      shown = "–" if own is None else readable.number(own)
      share = f"{point['eflops'] / full:.3f}"
      counted = readable.number(point["eflops"])
      yield [run["workdir"], point["label"], counted, shown, share]


def _maps(run: Record, settings: Record) -> str:
  """Returns a run's maps of accuracy, or a table where there are no depths."""
  if not run["maps"]:
    return ""
  said = (
    f"{run['workdir']}: {settings['map_rows']} rows a cell; policies read"
    f" {settings['map_budget']:g} of the keys."
  )
  lengths = [str(length) for length in run["maps"][0]["lengths"]]
  if run["maps"][0]["depths"]:
    figures = []
    for one in run["maps"]:
      depths = [f"{depth:g}" for depth in one["depths"]]
      title = f"{one['policy']}: length down, depth across, accuracy"
      picture = plots.heat(np.array(one["right"]), lengths, depths, title)
      figures.append(page.figure(picture, title))
    return page.paragraph(said) + page.grid("charts", figures)
  rows = [
    [one["policy"], *(readable.number(float(x)) for x in np.ravel(one[run["metric"]]))]
    for one in run["maps"]
  ]
  return page.paragraph(said) + page.table(
    f"{run['workdir']}: {_name(run)} by length", ["policy", *lengths], rows
  )
