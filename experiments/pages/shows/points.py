"""Validation points with the model's answers beside the true ones, as drawings."""

from collections.abc import Mapping
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.pages import charts, readable

_SHOWN, _INCHES, _DOTS = 12, 1.8, 150


def show(trainer: Any) -> dict[str, Any]:
  """Returns rows of drawings of validation examples."""
  source, state = trainer.task.source("validation"), trainer.state
  goal = trainer.assembly.objective

  @jax.jit
  def run(batch):
    outputs = goal.predict(state["model"], state["stats"], batch)[0]
    return outputs["answer"], goal.totals(outputs, batch)

  rows = []
  for number in range(min(_SHOWN, len(source))):
    example = source[number]
    answer, totals = run({name: leaf[None] for name, leaf in example.items()})
    corners = trainer.task.sizes["corners"]
    rows.append(row(example, np.asarray(answer[0]), goal.summarize(totals), corners))
  return {"rows": rows}


def row(
  example: Mapping[str, np.ndarray],
  answer: np.ndarray,
  numbers: Mapping[str, float],
  corners: int,
) -> dict[str, Any]:
  """Returns the drawings of an example by name, and a caption.

  Args:
    example: with "points", "valid" and "labels".
    answer: labels of the model.
    numbers: loss and metrics of the answer.
    corners: labels of each polygon; 0: all labels are of one.
  """
  points = example["points"][example["valid"]]
  words = [
    f"{readable.name(name)}: {readable.number(value)}"
    for name, value in numbers.items()
    if name != "loss"
  ]
  pictures = {
    "answer": drawing(points, answer, corners, charts.COLORS[1]),
    "target": drawing(points, example["labels"], corners, charts.COLORS[0]),
  }
  return {"pictures": pictures, "caption": ", ".join(words)}


def drawing(
  points: np.ndarray, labels: np.ndarray, corners: int, color: str
) -> np.ndarray:
  """Draws points (n, 2) and the polygons of labels, as pixels (H, W, 3) uint8.

  Numbers (n, 1) are drawn by their places and values, joined in the order of labels.
  The first label has a ring.
  """
  flat = points.shape[1] == 1
  if flat:
    places = (np.arange(len(points)) + 0.5) / len(points)
    points = np.stack([places, points[:, 0]], axis=1)
  named = labels[labels > 0] - 1
  named = named[named < len(points)]
  size = corners or max(len(named), 1)
  figure = Figure(figsize=(_INCHES, _INCHES), dpi=_DOTS)
  canvas = FigureCanvasAgg(figure)
  axes = figure.add_axes((0, 0, 1, 1))
  with matplotlib.rc_context({"lines.linewidth": 1.5}):
    for begin in range(0, len(named) - len(named) % size, size):
      polygon = points[named[begin : begin + size]]
      polygon = polygon if flat else np.concatenate([polygon, polygon[:1]])
      axes.plot(*polygon.T, color=color)
    axes.plot(*points.T, "o", color="#222222", markersize=4)
    if len(named):
      first = points[named[:1]]
      axes.plot(*first.T, "o", color=color, markersize=9, fillstyle="none")
  axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
  axes.set_axis_off()
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()
