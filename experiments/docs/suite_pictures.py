"""Draws the suite's results as SVG: a heat map, accuracy against cost, curves."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.docs import suite_tables
from experiments.docs.suite_tables import Record
from experiments.pages import readable
from experiments.suite import problems, rows, tokens, training

COLORS = ("#2f7fd6", "#d9622b", "#16937a", "#c4529c", "#8a7a12", "#7c6be0", "#d34545")
COLORS += ("#57803a", "#1b96b8", "#a8632a")
_CELL, _LINE, _SIDE, _HEAD = 42, 24, 150, 130  # of the heat map
_WIDE, _HIGH, _GAP, _LEFT, _TOP = 250, 210, 60, 50, 30  # of a panel
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1c2126; }
.axis { stroke: #5b6670; fill: none; } .grid { stroke: #5b6670; opacity: 0.2; }
.cell { fill: #1d5fb0; shape-rendering: crispEdges; } .light { fill: #ffffff; }
.frame { fill: none; stroke: #8a949d; stroke-opacity: 0.4; } .none { stroke: #5b6670; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e8eb; } .axis, .grid, .none { stroke: #9aa6b0; }
  .cell { fill: #4d92e0; } .light { fill: #0d1216; }
}
"""


def files(root: Path) -> dict[str, str]:
  """Returns the pictures by their names in docs; none if nothing is measured."""
  record = rows.read(root)
  if not record:
    return {}
  return {
    "suite_tokens.svg": heat(record, tuple(problems.TOKENS)),
    "suite_images.svg": heat(record, tuple(problems.IMAGES)),
    "suite_costs.svg": costs(record),
    "suite_longer.svg": longer(record),
  }


def heat(record: Record, names: Sequence[str]) -> str:
  """Returns a map of scores: a line a mechanism, a column a task."""
  slugs = suite_tables.mechanisms(record, names)
  body = []
  for column, name in enumerate(names):
    x, y = _SIDE + (column + 0.6) * _CELL, _HEAD - 8
    body.append(f'<text transform="translate({x:.0f} {y}) rotate(-50)">{name}</text>')
  for line, slug in enumerate(slugs):
    top = _HEAD + line * _LINE
    body.append(_text(_SIDE - 8, top + 16, _word(slug), "end"))
    for column, name in enumerate(names):
      body += _square(record, name, slug, _SIDE + column * _CELL, top)
  wide = _SIDE + len(names) * _CELL + 70
  title = "Scores: 0 the most frequent answer, 1 all answers right"
  return _svg(wide, _HEAD + len(slugs) * _LINE + 8, title, body)


def _square(record: Record, name: str, slug: str, x: int, y: int) -> Iterator[str]:
  """Yields one cell of the map: its shade is the score, the number the accuracy."""
  value = suite_tables.score(record, name, slug)
  size = f'x="{x}" y="{y}" width="{_CELL - 2}" height="{_LINE - 2}"'
  yield f'<rect class="frame" {size}/>'
  if value is None:
    return
  shade = min(max(value, 0.0), 1.0)
  yield f'<rect class="cell" {size} fill-opacity="{shade:.2f}"/>'
  accuracy = float(np.mean(suite_tables.tests(record, name, slug)))
  kind = "light" if shade > 0.55 else ""
  yield _text(x + _CELL / 2 - 1, y + 15, f"{accuracy:.2f}", "middle", kind)


def costs(record: Record) -> str:
  """Returns mean score against state, parameters and seconds, a point a mechanism."""
  slugs = suite_tables.mechanisms(record, tuple(problems.TOKENS))
  known = {s: suite_tables.mean_score(record, s, tuple(problems.TOKENS)) for s in slugs}
  shown = [slug for slug in slugs if known[slug] is not None]
  found = {slug: suite_tables.cost_of(record, slug) for slug in shown}
  panels = {
    "state after 64 tokens": {s: c["state"].get("64", 0) for s, c in found.items()},
    "parameters": {s: c["parameters"] for s, c in found.items()},
    "seconds to train a model": {s: c["seconds"] for s, c in found.items()},
  }
  body = []
  for number, (title, across) in enumerate(panels.items()):
    points = {s: (x, known[s]) for s, x in across.items() if x > 0}
    body += _scatter(title, points, shown, _LEFT + number * (_WIDE + _GAP))
  body += _legend(shown, _TOP + _HIGH + 50)
  wide = _LEFT + 3 * (_WIDE + _GAP)
  high = _TOP + _HIGH + 60 + 18 * -(-len(shown) // 3)
  return _svg(wide, high, "Mean score of all tasks of tokens against costs", body)


def _scatter(title, points, slugs, left: int) -> Iterator[str]:
  """Yields a panel of points; across is logarithmic."""
  yield _text(left, _TOP - 12, f"score against {title}")
  yield from _frame(left, *_range([y for _, y in points.values()]))
  if not points:
    return
  logs = [math.log10(x) for x, _ in points.values()]
  low, high = min(logs) - 0.06, max(logs) + 0.06
  bottom, top = _range([y for _, y in points.values()])
  for end, anchor in ((low, "start"), (high, "end")):
    x = left + (end - low) / (high - low) * _WIDE
    yield _text(x, _TOP + _HIGH + 18, readable.count(10**end), anchor)
  for slug, (x, y) in points.items():
    across = left + (math.log10(x) - low) / (high - low) * _WIDE
    up = _TOP + _HIGH - (y - bottom) / (top - bottom) * _HIGH
    yield _dot(across, up, slug, slugs)


def longer(record: Record) -> str:
  """Returns curves of accuracy at four times the trained length against the step."""
  names = [name for name, known in problems.TOKENS.items() if known.longer]
  slugs, body = suite_tables.mechanisms(record, names), []
  for number, name in enumerate(names):
    left = _LEFT + number * (_WIDE + _GAP)
    length = problems.TOKENS[name].longer["length"]
    body.append(_text(left, _TOP - 12, f"{name}, {length} tokens"))
    lines = {
      slug: np.mean([r["longer"] for r in record["rows"][name][slug]["seeds"]], 0)
      for slug in slugs
      if slug in record["rows"].get(name, {})
    }
    body += _curves(lines, slugs, left, tokens.steps(problems.TOKENS[name]))
  body += _legend(slugs, _TOP + _HIGH + 50)
  wide = _LEFT + 3 * (_WIDE + _GAP)
  high = _TOP + _HIGH + 60 + 18 * -(-len(slugs) // 3)
  return _svg(wide, high, "Accuracy at four times the trained length", body)


def _curves(lines, slugs, left: int, steps: int) -> Iterator[str]:
  """Yields a panel of curves over the training."""
  bottom, top = _range([float(y) for line in lines.values() for y in line])
  yield from _frame(left, bottom, top)
  for step, anchor in ((0, "start"), (steps, "end")):
    x = left + step / steps * _WIDE
    yield _text(x, _TOP + _HIGH + 18, f"{step} steps", anchor)
  for slug, line in lines.items():
    points = [
      f"{left + (i + 1) / len(line) * _WIDE:.1f},"
      f"{_TOP + _HIGH - (y - bottom) / (top - bottom) * _HIGH:.1f}"
      for i, y in enumerate(line)
    ]
    color = _color(slug, slugs)
    yield (
      f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}"'
      ' stroke-width="2"/>'
    )


def _frame(left: int, bottom: float, top: float) -> Iterator[str]:
  """Yields a panel's axes, with lines of the grid at round values."""
  step = 0.1 if top - bottom > 0.25 else 0.05
  for i in range(math.ceil(bottom / step - 1e-9), math.floor(top / step + 1e-9) + 1):
    y = _TOP + _HIGH - (i * step - bottom) / (top - bottom) * _HIGH
    yield f'<path class="grid" d="M{left} {y:.1f}h{_WIDE}"/>'
    yield _text(left - 6, y + 4, f"{i * step:.2f}", "end")
  yield f'<path class="axis" d="M{left} {_TOP}v{_HIGH}h{_WIDE}"/>'


def _range(values: Sequence[float]) -> tuple[float, float]:
  """Returns the ends of an axis, with a margin."""
  low, high = (min(values), max(values)) if values else (0.0, 1.0)
  return low - 0.03, max(high, low + 0.05) + 0.03


def _legend(slugs: Sequence[str], top: int) -> Iterator[str]:
  """Yields the legend, in three columns below the panels."""
  for number, slug in enumerate(slugs):
    line, column = divmod(number, 3)
    x, y = _LEFT + column * (_WIDE + _GAP), top + 18 * line
    yield _dot(x + 5, y - 4, slug, slugs)
    yield _text(x + 16, y, _word(slug))


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
  more = f' class="{kind}"' if kind else ""
  more += "" if anchor == "start" else f' text-anchor="{anchor}"'
  return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{text}</text>'


def _dot(x: float, y: float, slug: str, slugs: Sequence[str]) -> str:
  fill = _color(slug, slugs)
  return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}"/>'


def _color(slug: str, slugs: Sequence[str]) -> str:
  return "#8a949d" if slug == training.NONE else COLORS[slugs.index(slug) % len(COLORS)]


def _word(slug: str) -> str:
  return "without a mixer" if slug == training.NONE else slug


def _svg(wide: float, high: float, title: str, body: Sequence[str]) -> str:
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high:.0f}"'
    f' width="{wide:.0f}" height="{high:.0f}" role="img">\n<title>{title}</title>\n'
    f"<style>{_STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
  )
