"""Makes the tables of the suite's page from results/suite.json."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.docs import markdown
from experiments.suite import problems, rows, training

GROUPS = {
  "Recall": ("mqar_4", "mqar_6", "mqar_8", "induction", "needle"),
  "MAD's six": problems.MAD,
  "States": ("parity", "modular_counting", "s3_words"),
  "Others": ("listops", "match2", "match3", "sorting"),
}
LEAST = 0.05  # a smaller difference to NONE is not called learning

Record = dict[str, Any]


def mechanisms(record: Record, names: Sequence[str]) -> list[str]:
  """Returns the mechanisms with a row on one of the tasks; NONE is the last."""
  found = {slug for name in names for slug in record["rows"].get(name, {})}
  return sorted(found, key=lambda slug: (slug == training.NONE, slug))


def tests(record: Record, name: str, slug: str) -> list[float]:
  """Returns the test accuracies of a row's seeds; [] if it is not measured."""
  row = record["rows"].get(name, {}).get(slug)
  return [result["test"] for result in row["seeds"]] if row else []


def parts(root: Path) -> dict[str, Callable[[], str]]:
  """Returns the parts of the page by the names of their marks."""
  record = rows.read(root)
  makers = {
    "suite measured": lambda record: measured(record, rows.stale(root)),
    "suite learned": learned,
    "suite tokens": groups,
    "suite longer": longer,
    "suite long": long,
    "suite costs": costs,
    "suite images": images,
  }
  return {
    name: functools.partial(make, record) if record else lambda: _NOTHING
    for name, make in makers.items()
  }


def groups(record: Record) -> str:
  """Returns a table of accuracies for each group of tasks of tokens."""
  return markdown.sections(
    *(
      markdown.section(title, accuracies(record, names), level=3)
      for title, names in GROUPS.items()
    )
  )


def images(record: Record) -> str:
  """Returns the table of accuracies on images."""
  return accuracies(record, tuple(problems.IMAGES)) or _NOTHING


def accuracies(record: Record, names: Sequence[str]) -> str:
  """Returns mean accuracy and range over the seeds; "" if nothing is measured."""
  head = ("mechanism", *(f"`{name}`" for name in names))
  found = [
    (_title(slug), *(_spread(tests(record, name, slug)) for name in names))
    for slug in mechanisms(record, names)
  ]
  if not found:
    return ""
  chances = (record["chance"].get(name) for name in names)
  shown = ("-" if value is None else f"{value:.3f}" for value in chances)
  return markdown.table(head, [*found, ("most frequent answer", *shown)])


def learned(record: Record) -> str:
  """Returns, for each task, the mechanisms that do better than NONE."""
  found = []
  for name in problems.PROBLEMS:
    own = record["rows"].get(name, {})
    if training.NONE not in own:
      continue
    better = [slug for slug in mechanisms(record, [name]) if beats(record, name, slug)]
    best = sorted(better, key=lambda s, n=name: -np.mean(tests(record, n, s)))
    said = [f"`{slug}` {np.mean(tests(record, name, slug)):.2f}" for slug in best]
    none = f"{np.mean(tests(record, name, training.NONE)):.2f}"
    found.append((f"`{name}`", none, f"{len(best)} of {len(own) - 1}", ", ".join(said)))
  head = ("task", "without a mixer", "better", "which, the best first")
  return markdown.table(head, found)


def beats(record: Record, name: str, slug: str) -> bool:
  """Tells whether a mechanism's accuracy on a task is above that of NONE.

  By LEAST, and by more than twice the standard error of the difference of means.
  """
  got, none = (np.array(tests(record, name, s)) for s in (slug, training.NONE))
  error = math.sqrt(got.var(ddof=1) / got.size + none.var(ddof=1) / none.size)
  higher = got.mean() - none.mean() > max(2 * error, LEAST)
  return slug != training.NONE and bool(higher)


def costs(record: Record) -> str:
  """Returns parameters, state, seconds and mean score of the mechanisms of tokens."""
  found = []
  for slug in mechanisms(record, tuple(problems.TOKENS)):
    cost = cost_of(record, slug)
    state = (f"{cost['state'][n]:,}" if cost["state"] else "-" for n in ("16", "64"))
    sizes = f"{cost['parameters']:,}", *state, f"{cost['seconds']:.1f}"
    means = (
      mean_score(record, slug, names)
      for names in (tuple(problems.TOKENS), problems.MAD)
    )
    shown = ("-" if mean is None else f"{mean:.3f}" for mean in means)
    found.append((_title(slug), *sizes, *shown))
  head = ("mechanism", "parameters", "state after 16 tokens", "after 64")
  head += ("seconds a model", "score, all tasks", "score, MAD's six")
  return markdown.table(head, found)


def cost_of(record: Record, slug: str) -> dict[str, Any]:
  """Returns a mechanism's parameters, state, and mean seconds to train a model."""
  every = (record["rows"].get(name, {}).get(slug) for name in problems.TOKENS)
  known = [row for row in every if row]
  # The first model of a row may have compiled.
  seconds = [result["seconds"] for row in known for result in row["seeds"][1:]]
  one = {name: known[0][name] for name in ("parameters", "state")}
  return one | {"seconds": float(np.mean(seconds))}


def score(record: Record, name: str, slug: str) -> float | None:
  """Returns a row's mean from 0, the most frequent answer, to 1, all answers right."""
  got = tests(record, name, slug)
  if not got or name not in record["chance"]:
    return None
  least = record["chance"][name]
  return float((np.mean(got) - least) / (1 - least))


def mean_score(record: Record, slug: str, names: Sequence[str]) -> float | None:
  """Returns the mean score over tasks; None unless all of them are measured."""
  found = [score(record, name, slug) for name in names]
  known = [value for value in found if value is not None]
  return float(np.mean(known)) if len(known) == len(found) else None


def long(record: Record) -> str:
  """Returns accuracies on long contexts, at the trained length and at four times it."""
  parts = (accuracies(record, tuple(problems.LONG)), longer(record, problems.LONG))
  return "\n\n".join(parts) if parts[0] else _NOTHING


def longer(
  record: Record, known_problems: Mapping[str, problems.Problem] = problems.TOKENS
) -> str:
  """Returns accuracies at the trained length and at four times as many tokens."""
  found = []
  names = [name for name, known in known_problems.items() if known.longer]
  for slug in mechanisms(record, names):
    cells = []
    for name in names:
      row = record["rows"].get(name, {}).get(slug, {"seeds": []})
      at_end = [result["longer"][-1] for result in row["seeds"]]
      cells += [_spread(tests(record, name, slug)), _spread(at_end)]
    found.append((_title(slug), *cells))
  head = ["mechanism"]
  for name in names:
    known = known_problems[name]
    head += [f"`{name}`, {known.options['length']} tokens"]
    head += [f"{known.longer['length']} tokens"]
  return markdown.table(head, found)


def measured(record: Record, old: Sequence[str] = ()) -> str:
  """Returns how much is measured, where, and which rows another protocol measured."""
  own = [row for found in record["rows"].values() for row in found.values()]
  hours = sum(row["seconds"] for row in own) / 3600
  there = sum(len(rows.half(name).mechanisms()) for name in problems.PROBLEMS)
  models = len(training.RATES) + len(training.SEEDS) - 1
  text = (
    f"{len(own)} of {there} rows are measured, of {models} models each, in {hours:.1f}"
    f" hours of one processor core ({record['machine']}, jax"
    f" {record['versions']['jax']}), the last at commit `{record['commit'][:12]}`."
  )
  return text + (f" Measured by another protocol: {', '.join(old)}." if old else "")


_NOTHING = "Nothing is measured yet: `python -m experiments.suite` does it."


def _title(slug: str) -> str:
  if slug == training.NONE:
    return "without a mixer"
  return f"[`{slug}`](systems/{slug}.md)"


def _spread(values: Sequence[float]) -> str:
  """Returns a mean, and the range if it is not a point."""
  if not values:
    return "-"
  least, most = (f"{value:.2f}" for value in (min(values), max(values)))
  return f"{np.mean(values):.3f} ({least} to {most})"
