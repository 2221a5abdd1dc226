"""Pictures for the pages, as self-contained `<svg>` and `<img>` elements.

Text and axes of a chart take the colour of the page's text, and the lines are seen on
white and on black, so that one chart serves both themes.
"""

import base64
import html
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from experiments.pages import readable, records

# Each has a contrast of 3 or more to white and to the dark page.
COLORS = (
  "#2f7fd6",
  "#d9622b",
  "#16937a",
  "#c4529c",
  "#8a7a12",
  "#7c6be0",
  "#d34545",
  "#57803a",
)
INK = "#010203"  # stands for the colour of the page's text
_POINTS = 400  # more than a chart's pixels can show only makes the page heavy
SETTINGS = {
  "svg.fonttype": "none",
  "svg.hashsalt": "attnjax",  # the same run gives the same page
  "font.size": 10,
  "text.color": INK,
  "axes.edgecolor": INK,
  "axes.labelcolor": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
}


def curves(logs: Mapping[str, Sequence[Mapping[str, Any]]], measure: str) -> str:
  """Draws a metric against the step as an `<svg>`: training thin, validation thick.

  Args:
    logs: name of a run -> the lines of its log. One run is one colour.
    measure: the number of the lines that is drawn.

  Returns:
    The element, or "" if no run has this number.
  """
  with matplotlib.rc_context(SETTINGS):
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, lines) in enumerate(logs.items()):
      _draw_run(axes, lines, measure, COLORS[i % len(COLORS)], _labels(name, logs))
    handles, labels = axes.get_legend_handles_labels()
    if not axes.lines:
      return ""
    axes.set(xlabel="step", ylabel=readable.name(measure))
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.margins(x=0.02)
    if axes.get_xlim()[1] > 0:
      axes.set_xlim(left=0)
    rows = -(-len(handles) // 2)
    figure.set_figheight(3.0 + 0.2 * rows)
    figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False)
    names = ", ".join(logs)
    return svg(figure, f"{readable.name(measure)} against the step: {names}")


def attention(weights: np.ndarray, title: str) -> str:
  """Draws one head's weights (T, S) as an `<img>`, query down and key across.

  The brightness is the square root of the weight's share of the largest one: with many
  keys, most weights are small. If some are negative, red is below 0 and blue above.
  """
  weights = _shrink(np.asarray(weights, np.float32))
  finite = weights[np.isfinite(weights)]
  top = max(float(np.abs(finite).max(initial=0)), 1e-30)
  share = np.sign(weights) * np.sqrt(np.abs(weights) / top)
  if (finite < 0).any():
    return _img(_colored(share / 2 + 0.5, "RdBu"), title)
  return _img(_colored(share, "magma"), title)


def picture(image: np.ndarray, title: str) -> str:
  """Draws an image (H, W), (H, W, 1) or (H, W, 3) as an `<img>`.

  Integers are taken as 0 ... 255; floats are stretched from their least to their
  largest value, since they may have been normalized.
  """
  image = np.asarray(image)
  if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
    raise ValueError(f"an image of shape {image.shape}; it must be (H, W[, 1 or 3])")
  if np.issubdtype(image.dtype, np.integer):
    image = image.astype(np.float32) / 255
  else:
    low, high = image.min(), image.max()
    image = (image - low) / max(high - low, 1e-12)
  if image.ndim == 2:
    image = image[:, :, None]
  pixels = np.broadcast_to(np.clip(image, 0, 1), (*image.shape[:2], 3))
  return _img((pixels * 255).round().astype(np.uint8), title)


def _labels(name: str, logs: Mapping[str, Any]) -> dict[str, str]:
  if len(logs) > 1:
    return {"validation": name, "train": name}
  return {"validation": "validation", "train": "train", "test": "test"}


def _draw_run(axes, lines, measure, color, labels) -> None:
  """Draws one run's curves; a legend of several runs names each of them once."""
  alone = "test" in labels
  thick = records.series(lines, "validation", measure)
  label = labels["train"] if alone or not thick[0] else None
  thin = _thin_out(*records.series(lines, "train", measure))
  if thin[0]:
    faint = {"linewidth": 1, "alpha": 0.65, "color": color, "label": label}
    axes.plot(*thin, marker=_marker(thin), markersize=2, **faint)
  if thick[0]:
    strong = {"linewidth": 2.4, "color": color, "label": labels["validation"]}
    axes.plot(*thick, marker=_marker(thick), markersize=4, **strong)
  test = records.series(lines, "test", measure)
  if test[0]:
    label = labels.get("test")
    axes.plot(*test, "D", color=color, markersize=5, mec=INK, label=label)


def _marker(points) -> str:
  """Returns a marker for a curve of one point, which would be invisible."""
  return "o" if len(points[0]) < 2 else ""


def _thin_out(steps: list[int], values: list[float]) -> tuple[list, list]:
  """Averages neighbours where there are too many points."""
  width = -(-len(steps) // _POINTS)
  if width <= 1:
    return steps, values
  parts = range(0, len(steps), width)
  return [steps[i : i + width][-1] for i in parts], [
    float(np.mean(values[i : i + width])) for i in parts
  ]


def svg(figure: Figure, title: str) -> str:
  """Returns the figure as an element that fits the page's width and theme."""
  buffer = io.StringIO()
  figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
  svg = buffer.getvalue()
  box = re.search(r'viewBox="([^"]*)"', svg)
  if box is None:
    raise ValueError("matplotlib wrote an <svg> without a viewBox")
  body = svg[svg.index(">", box.end()) + 1 :]
  body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
  # A style inside the <svg> would hold for the whole page.
  body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
  body = body.replace("xlink:href", "href").replace(INK, "currentColor")
  body = re.sub(r"font-family:[^;\"]*", "font-family: inherit", body)
  body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
  # Ids are the page's too: those of two charts must differ.
  own = f"c{zlib.crc32((title + body).encode()):08x}-"
  body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}", body)
  title = html.escape(title)
  return (
    f'<svg class="chart" role="img" aria-label="{title}" viewBox="{box[1]}"'
    ' style="stroke-linejoin: round; stroke-linecap: butt">'
    f"<title>{title}</title>{body}"
  )


def _img(pixels: np.ndarray, title: str) -> str:
  buffer = io.BytesIO()
  matplotlib.image.imsave(buffer, pixels, format="png")
  data = base64.b64encode(buffer.getvalue()).decode()
  high, wide = pixels.shape[:2]
  return (
    f'<img class="pixels" alt="{html.escape(title)}" width="{wide}" height="{high}"'
    f' src="data:image/png;base64,{data}">'
  )


def _colored(share: np.ndarray, colormap: str) -> np.ndarray:
  return matplotlib.colormaps[colormap](np.ma.masked_invalid(share), bytes=True)


def _shrink(weights: np.ndarray, most: int = 256) -> np.ndarray:
  """Averages over blocks of weights, so that no side is longer than `most`."""
  for axis in (0, 1):
    length = weights.shape[axis]
    width = -(-length // most)
    starts = np.arange(0, length, max(width, 1))
    sizes = np.diff(np.append(starts, length))
    sums = np.add.reduceat(weights, starts, axis=axis)
    weights = sums / np.expand_dims(sizes, 1 - axis)
  return weights
