"""Shows how a system's cost grows with the tokens, where that has been measured."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.docs import markdown
from experiments.docs.systems import System

# Panels of the picture: number -> title. The measured file has these for each row.
_PANELS = {"flops": "FLOPs", "bytes": "temporary bytes", "seconds": "seconds"}
_PASSES = {"forward": "forward", "both": "forward and backward"}
_COLORS = ("#2f7fd6", "#d9622b", "#16937a", "#c4529c")
_PREFIXES = {-2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}
_WIDE, _HIGH, _GAP, _LEFT, _TOP = 180, 130, 68, 52, 30
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1c2126; }
.axis { stroke: #5b6670; fill: none; } .grid { stroke: #5b6670; opacity: 0.2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e8eb; } .axis, .grid { stroke: #9aa6b0; }
}
"""


def path(root: Path, slug: str) -> Path:
  """Returns where the measured numbers of a system are."""
  return root / "results" / "length" / f"{slug}.json"


def read(root: Path, slug: str) -> dict[str, Any]:
  """Returns the measured numbers of a system, {} if there are none."""
  file = path(root, slug)
  return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def parts(system: System) -> tuple[str, str]:
  """Returns what the page says of tokens, and of whole networks."""
  return _of_tokens(system), _of_networks(system)


def _of_tokens(system: System) -> str:
  """Returns what the page says beside the docstring: exponents and the picture."""
  slug, found = system.slug, read(system.root, system.slug)
  said = []
  if hasattr(system.module, "GROWTH"):
    power = f"{system.module.GROWTH:g}"
    said.append(
      f"The module declares `GROWTH = {power}`: the matrix products of a Layer grow as"
      f" T^{power} in the number T of tokens, and a benchmark holds them to it."
    )
  if not found:
    said.append(
      f"Not measured yet: `python -m experiments.bench length --slugs {slug}` does it."
    )
    return "\n\n".join(said)
  names = _numbers(found["rows"])
  head = ("form", "pass", "T up to", *(f"{_PANELS[n]}: power of T" for n in names))
  title = f"{', '.join(_PANELS[n] for n in names)} of {slug} against T"
  measured = f"Measured on {found['machine']} with jax {found['versions']['jax']}"
  measured += f" at commit `{found['commit'][:12]}`" if found["commit"] else ""
  return markdown.sections(
    *said,
    f"![{title}]({slug}.svg)",
    markdown.table(head, [_row(row, names) for row in found["rows"]]),
    f"{measured}: [the numbers](../../results/length/{slug}.json). FLOPs are those of"
    " matrix products and convolutions, bytes those of XLA's executable on the CPU"
    + (", seconds by the clock." if "seconds" in names else "."),
  )


def _of_networks(system: System) -> str:
  """Returns the costs of the whole network by the side of its images, "" if unknown."""
  file = system.root / "results" / "pixels" / f"{system.slug}.json"
  if not file.is_file():
    return ""
  found = json.loads(file.read_text(encoding="utf-8"))
  head = ("pass", "side", "GFLOPs", "temporary MB", "seconds")
  lines = [
    (_PASSES[row["pass"]], str(side), f"{flops / 1e9:.3g}", f"{size / 1e6:.4g}", clock)
    for row in found["rows"]
    for side, flops, size, clock in zip(
      row["sides"], row["flops"], row["bytes"], _clock(row)
    )
  ]
  return markdown.sections(
    f"The whole network, `SIZES[{found['rows'][0]['size']!r}]`, for one square image"
    f" of that many pixels a side, in float32 on {found['machine']}"
    f" ([the numbers](../../results/pixels/{system.slug}.json)):",
    markdown.table(head, lines),
  )


def _clock(row: dict[str, Any]) -> list[str]:
  """Returns seconds as text; the largest images are not timed."""
  missing = len(row["sides"]) - len(row["seconds"])
  return [f"{value:.3g}" for value in row["seconds"]] + ["-"] * missing


def _numbers(rows: Sequence[dict[str, Any]]) -> list[str]:
  """Returns the names of measured numbers; untimed programs have no seconds."""
  return [name for name in _PANELS if any(row[name] for row in rows)]


def _row(row: dict[str, Any], names: Sequence[str]) -> tuple[str, ...]:
  powers = (row["exponents"][name] for name in names)
  shown = ("-" if power is None else f"{power:.2f}" for power in powers)
  return row["form"], _PASSES[row["pass"]], f"{max(row['lengths']):,}", *shown


def picture(slug: str, rows: Sequence[dict[str, Any]]) -> str:
  """Returns an SVG: a panel for each number, both axes logarithmic.

  Args:
    slug: the system.
    rows: measured numbers, each of a form and a pass.
  """
  lines = [row for row in rows if row["lengths"]]
  names = _numbers(lines)
  wide = _LEFT + len(names) * (_WIDE + _GAP)
  high = _TOP + _HIGH + 46 + 18 * len(lines)
  body = []
  for number, name in enumerate(names):
    left = _LEFT + number * (_WIDE + _GAP)
    body += _panel(lines, name, left)
  body += _legend(lines)
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}"'
    f' width="{wide}" height="{high}" role="img">\n'
    f"<title>Cost of {slug} against the number of tokens</title>\n"
    f"<style>{_STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
  )


def _panel(rows: Sequence[dict[str, Any]], name: str, left: int) -> Iterator[str]:
  """Yields the elements of one number's panel: axes, grid, a line a row."""
  points = [
    [(math.log10(t), math.log10(v)) for t, v in zip(row["lengths"], row[name]) if v > 0]
    for row in rows
  ]
  every = [point for line in points for point in line]
  yield f'<text x="{left}" y="{_TOP - 12}">{_PANELS[name]}</text>'
  if not every:
    return
  across, up = _Scale([x for x, _ in every]), _Scale([y for _, y in every])
  bottom = _TOP + _HIGH
  for value in up.ticks():
    y = bottom - up(math.log10(value)) * _HIGH
    yield f'<path class="grid" d="M{left} {y:.1f}h{_WIDE}"/>'
    yield (
      f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>'
    )
  for tokens in sorted({t for row in rows for t in row["lengths"]})[::2]:
    x = left + across(math.log10(tokens)) * _WIDE
    yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tokens}</text>'
  yield f'<path class="axis" d="M{left} {_TOP}v{_HIGH}h{_WIDE}"/>'
  for line, row, color in zip(points, rows, _cycle(len(rows))):
    places = [
      f"{left + across(x) * _WIDE:.1f},{bottom - up(y) * _HIGH:.1f}" for x, y in line
    ]
    dash = "" if row["pass"] == "forward" else ' stroke-dasharray="5 3"'
    yield (
      f'<polyline points="{" ".join(places)}" fill="none" stroke="{color}"'
      f' stroke-width="2"{dash}/>'
    )


def _legend(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
  """Yields the legend, which stands below the panels."""
  y = _TOP + _HIGH + 40
  yield f'<text x="{_LEFT}" y="{y}">across: T tokens</text>'
  for row, color in zip(rows, _cycle(len(rows))):
    y += 18
    dash = "" if row["pass"] == "forward" else ' stroke-dasharray="5 3"'
    label = f"{row['form']}, {_PASSES[row['pass']]}"
    yield f'<path d="M{_LEFT} {y - 4}h24" stroke="{color}" stroke-width="2"{dash}/>'
    yield f'<text x="{_LEFT + 30}" y="{y}">{label}</text>'


def _short(value: float) -> str:
  """Returns a number with its SI prefix."""
  power = math.floor(math.log10(value) / 3 + 1e-9)
  return f"{value / 10 ** (3 * power):g}{_PREFIXES.get(power, f'e{3 * power}')}"


def _cycle(number: int) -> list[str]:
  """Returns a colour for each row; the two passes of a form share one."""
  return [_COLORS[(i // len(_PASSES)) % len(_COLORS)] for i in range(number)]


class _Scale:
  """Maps logarithms onto 0 ... 1, with a margin."""

  def __init__(self, values: Sequence[float]):
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    self.low, self.high = low - margin, high + margin

  def __call__(self, value: float) -> float:
    return (value - self.low) / (self.high - self.low)

  def ticks(self) -> list[float]:
    """Returns powers of ten within the scale; with 2 and 5 of each if those are few."""
    for steps in ((1,), (1, 2, 5)):
      powers = range(math.floor(self.low), math.ceil(self.high) + 1)
      values = [step * 10.0**power for power in powers for step in steps]
      found = [v for v in values if self.low <= math.log10(v) <= self.high]
      if len(found) > 1:
        break
    return found[:: max(1, math.ceil(len(found) / 4))]
