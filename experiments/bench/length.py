"""Growth of every mechanism's time, FLOPs and memory with the number of tokens.

A Layer of width 64, one sequence, float32, on the default device: the causal form where
there is one; and, for images, two layers in a row, so that those that alternate show
both kinds, on the square that is nearest in tokens. Hyper-parameters are the Layer's
defaults, or what its module's `scaled` says for so many tokens; functions are those
that a module names in `CURVES`. Seconds are by the clock, the fastest of several calls;
FLOPs those of matrix products and convolutions (scans and FFTs are not among them),
loops as often as they turn; bytes the temporary memory of XLA's executable. An exponent
p says that a number grows as T^p: the slope in log-log over the upper half of the
lengths. FLOPs must not grow faster than the module's `GROWTH` says, but for SLACK.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from attnjax import contract
from experiments.bench import length_problems
from experiments.training import cost

LENGTHS = (256, 512, 1024, 2048, 4096)
NUMBERS = {"seconds": "time [s]", "flops": "FLOPs", "bytes": "temporary bytes"}
PASSES = {"forward": "forward", "both": "forward and backward"}
# After a call that takes more seconds, a mechanism is not run at longer sequences.
PATIENCE = 3.0
# Mechanisms (nearly) linear in the length, and the largest exponent of their time.
LINEAR = ("aaren", "dynamical_systems", "lightning2", "nprf")
BOUND = 1.15
# Tolerance of a measured FLOP exponent.
SLACK = 0.1


def rows(
  slugs: Sequence[str] = (),
  lengths: Sequence[int] = LENGTHS,
  picture: Path = Path("results/length.png"),
  timed: bool = True,
) -> tuple[list[dict], bool]:
  """Returns (a row for each mechanism, form and pass, whether all bounds hold).

  Args:
    slugs: the mechanisms; all if empty.
    lengths: numbers of tokens, ascending.
    picture: the path of the picture.
    timed: whether programs also run; else they are compiled, and have no seconds.

  Raises:
    ValueError: for an unknown slug.
  """
  lengths = sorted(lengths)
  found: list[dict] = []
  for slug in slugs or contract.systems():
    for form in length_problems.forms(slug):
      found += _mechanism(slug, form, lengths, timed)
  print(table(found), flush=True)
  draw(found, picture)
  print(f"picture in {picture}", flush=True)
  return found, all(row["holds"] for row in found)


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
  """Returns the slope of log value over log length, fitted to the upper half.

  It is None with fewer than two points, or if a value is not positive.
  """
  if not values:
    return None
  half = slice(-max(2, math.ceil(len(lengths) / 2)), None)
  x, y = np.asarray(lengths[half], float), np.asarray(values[half], float)
  if x.size < 2 or (y <= 0).any():
    return None
  return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def table(found: Sequence[dict]) -> str:
  """Formats the exponents, a line for each row, beside the expected one of FLOPs."""
  lines = [f"{'exponents of T':29s} {'pass':8s} {'T up to':>8s}"]
  lines[0] += "".join(f" {name:>8s}" for name in (*NUMBERS, "expected"))
  for row in found:
    last = row["lengths"][-1] if row["lengths"] else 0
    cells = [row["exponents"][name] for name in NUMBERS] + [row["expected"]]
    text = "".join(f" {'-' if p is None else f'{p:.2f}':>8s}" for p in cells)
    verdict = "holds" if row["holds"] else "DOES NOT HOLD"
    bound = f"  {row['bound']}  {verdict}" if "bound" in row else ""
    lines.append(f"{_label(row):29s} {row['pass']:8s} {last:8d}{text}{bound}")
  return "\n".join(lines)


def draw(found: Sequence[dict], path: Path) -> None:
  """Writes the picture: a panel for each number and pass, both axes logarithmic."""
  shown = [number for number in NUMBERS if any(row[number] for row in found)]
  if not shown:
    return
  figure = Figure(figsize=(15, 8), layout="constrained")
  panels = figure.subplots(len(PASSES), len(shown), sharex=True, squeeze=False)
  names = list(dict.fromkeys(_label(row) for row in found))
  colors = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, max(len(names), 1)))
  for line, kind in zip(panels, PASSES):
    for panel, number in zip(line, shown):
      for row in (row for row in found if row["pass"] == kind and row[number]):
        color = colors[names.index(_label(row))]
        drawn = [v if v > 0 else math.nan for v in row[number]]
        panel.plot(row["lengths"], drawn, "o-", color=color, label=_label(row))
      panel.set(xscale="log", yscale="log", xlabel="T", ylabel=NUMBERS[number])
      panel.set_title(PASSES[kind])
      panel.grid(alpha=0.3)
  handles, labels = panels[0][0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside right center")
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=120)


def _label(row) -> str:
  return f"{row['name']} {row['form']}"


def _mechanism(slug: str, form: str, lengths: Sequence[int], timed) -> list[dict]:
  """Measures the rows of one mechanism; prints each length when it is measured."""
  found = []
  for kind in PASSES:
    row: dict[str, Any] = {"name": slug, "form": form, "pass": kind, "lengths": []}
    row |= {name: [] for name in NUMBERS}
    for length, numbers in _points(kind, slug, form, lengths, timed):
      shown = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
      print(f"{_label(row):29s} {kind:8s} T {length:6d}  {shown}", flush=True)
      row["lengths"].append(length)
      for name, value in numbers.items():
        row[name].append(value)
    row["exponents"] = {name: exponent(row["lengths"], row[name]) for name in NUMBERS}
    found.append(row | _verdict(slug, form, row["exponents"]))
  return found


def _verdict(slug: str, form: str, grows: dict[str, float | None]) -> dict:
  """Returns the expected exponent, the bounds, and whether the fitted ones hold."""
  expected = length_problems.growth(slug, form)
  bounds = {} if expected is None else {"flops": expected + SLACK}
  if slug in LINEAR:
    bounds["seconds"] = BOUND
  fitted = {name: grows[name] for name in bounds}
  found = {name: p for name, p in fitted.items() if p is not None}
  row: dict[str, Any] = {"expected": expected}
  row |= {"holds": all(p <= bounds[n] for n, p in found.items())}
  if found:
    words = {"flops": "FLOPs"}
    row["bound"] = ", ".join(
      f"{words.get(name, name)} <= T^{bounds[name]:g}" for name in found
    )
  return row


def _points(kind, slug, form, lengths, timed) -> Iterator[tuple[int, dict[str, float]]]:
  """Yields (length, its numbers), until a call takes more than PATIENCE."""
  for length in lengths:
    run, arguments, tokens = length_problems.problem(slug, form, length)
    if kind == "both":
      run = length_problems.gradient(run, arguments)
    try:
      jaxpr = jax.make_jaxpr(run)(*arguments).jaxpr
    except (NotImplementedError, ValueError) as refusal:
      print(f"{'':29s} T {length:6d}  refused: {refusal}", flush=True)
      continue
    compiled: Any = jax.jit(run).lower(*arguments).compile()
    numbers = {
      "flops": cost.flops(jaxpr, jax.tree.leaves(arguments)),
      "bytes": cost.memory(compiled)["bytes_temporary"],
    }
    call = functools.partial(compiled, *arguments)
    seconds = fastest(lambda run=call: jax.block_until_ready(run())) if timed else 0
    yield tokens, ({"seconds": seconds} if timed else {}) | numbers
    if seconds > PATIENCE:
      print(f"{'':29s} no longer sequences: {seconds:.3g} s a call", flush=True)
      return


def fastest(run: Callable[[], object], budget: float = 1.0, most: int = 20) -> float:
  """Returns the seconds of the fastest of up to `most` calls within the budget."""
  best, stop = math.inf, time.perf_counter() + budget
  for call in range(most + 1):
    start = time.perf_counter()
    run()
    end = time.perf_counter()
    # The first call finds no memory allocated: it counts only where it is the only one.
    if call or end > stop:
      best = min(best, end - start)
    if end > stop:
      break
  return best
