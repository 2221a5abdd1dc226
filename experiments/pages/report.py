"""The page of one run: report.html, self-contained."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pages import charts, page, readable, records
from experiments.training import metrics

FILE = "report.html"
# Sections of a config with the options of the mechanism.
_OWN = ("mechanism", "attention", "options")
_HEADS, _BLOCKS, _IMAGES = 4, 6, 48


def write(
  workdir: str | os.PathLike,
  *,
  summary: Mapping[str, Any],
  sample: str = "",
  predictions: Sequence[Mapping[str, Any]] = (),
  rows: Sequence[Mapping[str, Any]] = (),
  tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]] | None = None,
  maps: Mapping[str, np.ndarray] | None = None,
) -> Path:
  """Writes report.html from the run's config.json, metrics.jsonl and the arguments.

  Args:
    workdir: the run's folder.
    summary: what summary.json holds; numbers that it lacks are left out.
    sample: text that the model wrote.
    predictions: each has an "image" (H, W[, C]), a "true" and a "predicted" class or
      answer, and a "question" if one was asked.
    rows: each has "pictures", name -> (H, W[, 3]), which stand side by side, and a
      "caption".
    tables: caption -> (head, rows) of tables with what the model found.
    maps: name of a layer, e.g. "block 0" -> its attention weights (N, T, S).

  Returns:
    The page's path.
  """
  lines, settings = metrics.read(workdir), records.settings(workdir)
  parts = [summary.get(name) for name in ("mechanism", "host", "data")]
  title = " · ".join(str(part) for part in parts if part) or Path(workdir).name
  text = page.page(
    f"{title} — attnjax",
    f"<header><h1>{page.escape(title)}</h1>",
    page.paragraph(_where(workdir, summary)),
    page.pairs("cards", _headline(lines, summary)) + "</header>",
    "<main>",
    page.section("Curves", page.grid("charts", _curves(lines))),
    page.section("Results", _results(lines, summary)),
    page.section("What the model wrote", _sample(sample)),
    page.section("Predictions", *_predictions(predictions)),
    page.section("Inputs, outputs and targets", *_rows(rows)),
    page.section("Retrieved", *_tables(tables or {})),
    page.section("Attention", *_maps(maps or {})),
    page.section("Settings", *_settings(settings, summary)),
    page.section("Versions", page.pairs("settings", _versions(summary))),
    "</main>",
  )
  path = Path(workdir) / FILE
  page.save(path, text)
  return path


def _where(workdir, summary: Mapping[str, Any]) -> str:
  words = [f"Run {Path(workdir).resolve().name}"]
  if "steps" in summary:
    words.append(f"{readable.number(summary['steps'])} steps")
  if "train_seconds" in summary:
    words.append(f"trained for {readable.duration(summary['train_seconds'])}")
  if "device" in summary:
    words.append(f"on {summary['device']}")
  return ", ".join(words)


def _headline(lines, summary: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
  split = records.judged(lines)
  for measure in records.measures(lines):
    last, best = records.last_and_best(lines, measure)
    if last is not None:
      name = f"{split} {readable.name(measure)}"
      yield name, readable.number(last)
      if best != last:
        yield f"best {name}", readable.number(best)
  for key, name, form in (
    ("parameters", "parameters", readable.count),
    ("step_seconds", "time a step (median)", readable.duration),
    ("flops_per_step", "FLOPs a step", readable.count),
    ("bytes_temporary", "temporary memory", readable.size),
    ("bytes_arguments", "argument memory", readable.size),
  ):
    if isinstance(summary.get(key), int | float):
      yield name, form(summary[key])
  if (speed := records.speed(lines)) is not None:
    yield readable.name(speed[0]), readable.count(speed[1])


def _curves(lines) -> Iterable[str]:
  for measure in records.measures(lines):
    if chart := charts.curves({"run": lines}, measure):
      yield page.figure(chart, "")


def _results(lines, summary: Mapping[str, Any]) -> str:
  """Returns a table with a row for each of the final and best numbers."""

  def shown(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in numbers.items() if k == "step" or records.is_measure(k)}

  rows = {f"final {line['split']}": shown(line) for line in lines}
  for when in ("final", "best"):
    for name, value in (summary.get(when) or {}).items():
      nested = isinstance(value, Mapping)
      row = rows.setdefault(f"{when} {name}" if nested else when, {})
      row.update(shown(value if nested else {name: value}))
  rows = {label: row for label, row in rows.items() if row}
  names = list(dict.fromkeys(name for row in rows.values() for name in row))
  names.sort(key=lambda name: name != "step")
  cells = [
    [label, *(readable.number(row[n]) if n in row else "–" for n in names)]
    for label, row in rows.items()
  ]
  head = ["", *map(readable.name, names)]
  return page.table("Loss and metrics by split", head, cells) if cells else ""


def _sample(sample: str) -> str:
  return f"<pre>{page.escape(sample)}</pre>" if sample else ""


def _predictions(predictions: Sequence[Mapping[str, Any]]) -> Iterable[str]:
  if not predictions:
    return
  right = sum(p["true"] == p["predicted"] for p in predictions)
  yield page.paragraph(f"{right} of these {len(predictions)} are right.")
  figures = []
  for p in predictions[:_IMAGES]:
    wrong = p["true"] != p["predicted"]
    text = (
      f"true {p['true']}, predicted {p['predicted']}" if wrong else f"{p['true']} ✓"
    )
    asked = p.get("question", "")
    alt = asked or f"an image of class {p['true']}, predicted {p['predicted']}"
    text = f"{asked} {text}" if asked else text
    image = charts.picture(p["image"], alt)
    figures.append(page.figure(image, text, "wrong" if wrong else ""))
  if len(predictions) > _IMAGES:
    yield page.paragraph(f"Shown are the first {_IMAGES}.")
  yield page.grid("pictures", figures)


def _rows(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
  if not rows:
    return
  words = "Examples of the validation split, with the model's numbers."
  if any("→" in row["caption"] for row in rows):
    words += " Before an arrow stand those of the input."
  yield page.paragraph(words)
  groups = []
  for number, row in enumerate(rows):
    pictures = [
      page.figure(charts.picture(picture, f"{name} of example {number}"), name)
      for name, picture in row["pictures"].items()
    ]
    groups.append(page.figure(page.grid("beside", pictures), row["caption"]))
  yield page.grid("rows", groups)


def _tables(tables: Mapping[str, Any]) -> Iterable[str]:
  for caption, (head, rows) in tables.items():
    yield page.table(caption, head, rows)


def _maps(maps: Mapping[str, np.ndarray]) -> Iterable[str]:
  if not maps:
    return
  yield page.paragraph(
    "How much each token (down) takes from each token (across), one picture a head."
    " The brighter, the more, on a square-root scale from 0 to the largest weight of"
    " the head; where weights may be negative, red is below 0 and blue above."
  )
  shown = _spread(list(maps), _BLOCKS)
  if len(shown) < len(maps):
    yield page.paragraph(f"Shown are {len(shown)} of {len(maps)} layers.")
  for name in shown:
    heads = np.asarray(maps[name])
    if heads.ndim != 3:
      raise ValueError(f"the map {name!r} has the shape {heads.shape}, not (N, T, S)")
    some = _spread(list(range(len(heads))), _HEADS)
    if len(some) < len(heads):
      yield f"<h3>{page.escape(name)}: {len(some)} of {len(heads)} heads</h3>"
    titles = [f"{name}, head {n}" for n in some]
    yield page.grid(
      "maps",
      [
        page.figure(charts.attention(heads[n], f"attention weights of {title}"), title)
        for n, title in zip(some, titles)
      ],
    )


def _spread(items: list, most: int) -> list:
  """Picks at most `most` of the items, evenly from the first to the last."""
  if len(items) <= most:
    return items
  return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _settings(settings: Mapping[str, Any], summary: Mapping[str, Any]):
  own = {k: v for k, v in settings.items() if k.split(".")[0] in _OWN}
  rest = {k: v for k, v in settings.items() if k not in own}
  for title, group in (
    (f"Mechanism {summary.get('mechanism', '')}".strip(), own),
    ("The rest", rest),
  ):
    if group:
      yield f"<h3>{page.escape(title)}</h3>"
      yield page.pairs("settings", [(k, str(v)) for k, v in group.items()])


def _versions(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
  return [(name, str(v)) for name, v in (summary.get("versions") or {}).items()]
