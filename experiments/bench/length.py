"""How time, products and memory of every sequence mechanism grow with the length.

A Layer of width 64 with its defaults, one sequence, float32, on the default device: the
causal form where there is one. Seconds are by the clock, the fastest of several calls;
FLOPs those of matrix products and convolutions (scans and FFTs are not among them);
bytes the temporary memory of XLA's executable. An exponent p says that a number grows
as T^p: the slope in log-log over the upper half of the lengths.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

from attnjax import contract
from experiments.training import cost

WIDTH = 64
LENGTHS = (256, 512, 1024, 2048, 4096)
NUMBERS = {"seconds": "time [s]", "flops": "FLOPs", "bytes": "temporary bytes"}
PASSES = {"forward": "forward", "both": "forward and backward"}
# A mechanism is not run at longer sequences after one that takes more seconds a call.
PATIENCE = 3.0
# What is linear in the length, or nearly so, and the most that its time may grow.
LINEAR = ("aaren", "dynamical_systems", "lightning2", "nprf")
BOUND = 1.15


def rows(
  slugs: Sequence[str] = (),
  lengths: Sequence[int] = LENGTHS,
  picture: Path = Path("results/length.png"),
) -> tuple[list[dict], bool]:
  """(a row for each mechanism and pass, whether all bounds hold).

  Args:
    slugs: the mechanisms; all that take sequences if empty.
    lengths: numbers of tokens, ascending.
    picture: where the numbers are drawn.

  Raises:
    ValueError: for an unknown slug, or one that takes images only.
  """
  lengths = sorted(lengths)
  found: list[dict] = []
  for slug in slugs or mechanisms():
    found += _mechanism(slug, lengths)
  print(table(found), flush=True)
  draw(found, picture)
  print(f"picture in {picture}", flush=True)
  return found, all(row["holds"] for row in found)


def mechanisms() -> list[str]:
  """The slugs of all systems whose Layer takes sequences."""
  return [slug for slug in contract.systems() if _form(slug) is not None]


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
  """The slope of log value over log length in the upper half; None without two points.

  Numbers that are not positive have none either.
  """
  half = slice(-max(2, math.ceil(len(lengths) / 2)), None)
  x, y = np.asarray(lengths[half], float), np.asarray(values[half], float)
  if x.size < 2 or (y <= 0).any():
    return None
  return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def table(found: Sequence[dict]) -> str:
  """The exponents, a line for each row."""
  lines = [f"{'exponents of T':24s} {'pass':8s} {'T up to':>8s}"]
  lines[0] += "".join(f" {name:>8s}" for name in NUMBERS)
  for row in found:
    last = row["lengths"][-1] if row["lengths"] else 0
    cells = (row["exponents"][name] for name in NUMBERS)
    text = "".join(f" {'-' if p is None else f'{p:.2f}':>8s}" for p in cells)
    bound = f"  {row['bound']}" if "bound" in row else ""
    bound += "" if row["holds"] else "  DOES NOT HOLD"
    lines.append(f"{row['name']:24s} {row['pass']:8s} {last:8d}{text}{bound}")
  return "\n".join(lines)


def draw(found: Sequence[dict], path: Path) -> None:
  """Writes the picture: a panel for each number and pass, both axes logarithmic."""
  figure = Figure(figsize=(15, 8), layout="constrained")
  panels = figure.subplots(len(PASSES), len(NUMBERS), sharex=True, squeeze=False)
  names = list(dict.fromkeys(row["name"] for row in found))
  colors = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, max(len(names), 1)))
  for line, kind in zip(panels, PASSES):
    for panel, number in zip(line, NUMBERS):
      for row in (row for row in found if row["pass"] == kind):
        color = colors[names.index(row["name"])]
        drawn = [v if v > 0 else math.nan for v in row[number]]
        panel.plot(row["lengths"], drawn, "o-", color=color, label=row["name"])
      panel.set(xscale="log", yscale="log", xlabel="T", ylabel=NUMBERS[number])
      panel.set_title(PASSES[kind])
      panel.grid(alpha=0.3)
  handles, labels = panels[0][0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside right center")
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=120)


def _form(slug: str) -> str | None:
  forms = contract.load(slug).FORMS
  return next((form for form in ("causal", "sequence") if form in forms), None)


def _mechanism(slug: str, lengths: Sequence[int]) -> list[dict]:
  """The rows of one mechanism; prints each length when it is measured."""
  form = _form(slug)
  if form is None:
    raise ValueError(f"{slug!r} takes images only; there are: {mechanisms()}")
  build = contract.constructor(slug, {}, (form,))
  layer = build(WIDTH, layers=1, rngs=nnx.Rngs(0))
  passes: dict[str, Callable] = {"forward": _forward, "both": jax.grad(_loss, (0, 1))}
  found = []
  for kind, function in passes.items():
    row: dict[str, Any] = {"name": slug, "form": form, "pass": kind, "lengths": []}
    row |= {name: [] for name in NUMBERS}
    for length, numbers in _points(function, layer, lengths):
      shown = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
      print(f"{slug:24s} {kind:8s} T {length:6d}  {shown}", flush=True)
      row["lengths"].append(length)
      for name, value in numbers.items():
        row[name].append(value)
    row["exponents"] = {name: exponent(row["lengths"], row[name]) for name in NUMBERS}
    found.append(row | _verdict(slug, row["exponents"]["seconds"]))
  return found


def _verdict(slug: str, grows: float | None) -> dict:
  if slug not in LINEAR or grows is None:
    return {"holds": True}
  return {"bound": f"seconds <= T^{BOUND:g}", "holds": grows <= BOUND}


def _forward(layer, x):
  return layer(x)


def _loss(layer, x):
  return jnp.sum(jnp.sin(layer(x)))


def _points(function, layer, lengths) -> Iterator[tuple[int, dict[str, float]]]:
  """(length, its numbers), as far as patience reaches."""
  for length in lengths:
    x = jax.random.normal(jax.random.key(0), (1, length, WIDTH))
    try:
      jaxpr = jax.make_jaxpr(function)(layer, x).jaxpr
    except (NotImplementedError, ValueError) as refusal:
      print(f"{'':24s} T {length:6d}  refused: {refusal}", flush=True)
      continue
    compiled: Any = jax.jit(function).lower(layer, x).compile()
    seconds = _seconds(lambda run=compiled, x=x: jax.block_until_ready(run(layer, x)))
    yield (
      length,
      {
        "seconds": seconds,
        "flops": cost.flops(jaxpr),
        "bytes": cost.memory(compiled)["bytes_temporary"],
      },
    )
    if seconds > PATIENCE:
      print(f"{'':24s} no longer sequences: {seconds:.3g} s a call", flush=True)
      return


def _seconds(run: Callable[[], object], budget: float = 1.0, most: int = 20) -> float:
  """Seconds of the fastest of up to `most` calls within the budget, after a first."""
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
