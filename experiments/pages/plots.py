"""Scatter plots and heat maps with numbers, as self-contained `<svg>` elements."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.pages import charts

_CELL = 0.45, 0.3  # inches


def scatter(
  series: Mapping[str, Sequence[tuple[float, float]]],
  front: Sequence[tuple[float, float]] = (),
  *,
  across: str,
  up: str,
) -> str:
  """Draws series of points on a logarithmic axis of costs, and a front as a line.

  Args:
    series: name -> (cost, score) of its points; one series is one colour.
    front: points of the front, by ascending cost.
    across: the label of the costs.
    up: the label of the scores.
  """
  with matplotlib.rc_context(charts.SETTINGS):
    figure = Figure(figsize=(5.2, 3.4 + 0.12 * len(series)), layout="constrained")
    axes = figure.add_subplot()
    if front:
      line = {"drawstyle": "steps-post", "linestyle": "--", "linewidth": 1.2}
      axes.plot(*zip(*front), color=charts.INK, alpha=0.6, label="Pareto front", **line)
    for number, (name, points) in enumerate(series.items()):
      color = charts.COLORS[number % len(charts.COLORS)]
      marks = {"marker": "*os^DvP"[number % 7], "markersize": 9 - 3 * (number > 0)}
      axes.plot(*zip(*sorted(points)), color=color, label=name, **marks)
    axes.set(xlabel=across, ylabel=up, xscale="log")
    axes.grid(color=charts.INK, alpha=0.12, linewidth=0.8)
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    return charts.svg(figure, f"{up} against {across}: {', '.join(series)}")


def heat(
  cells: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str
) -> str:
  """Draws numbers from 0 to 1 as a map with the number in each cell.

  Args:
    cells: (R, C).
    rows: names of the rows.
    columns: names of the columns.
    title: what the map shows.
  """
  cells = np.asarray(cells, float)
  if cells.shape != (len(rows), len(columns)):
    raise ValueError(f"cells {cells.shape} of {len(rows)} rows, {len(columns)} columns")
  with matplotlib.rc_context(charts.SETTINGS):
    wide, high = (0.9 + _CELL[0] * len(columns)), (0.7 + _CELL[1] * len(rows))
    figure = Figure(figsize=(max(wide, 2.2), high), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(cells, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(cells):
      color = "#ffffff" if value > 0.55 else "#1c2126"
      text = {"ha": "center", "va": "center", "fontsize": 8}
      axes.text(column, row, f"{value:.2f}", color=color, **text)
    return charts.svg(figure, title)
