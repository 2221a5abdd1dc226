"""Makes the README's table of the catalogue, which has a row a family."""

import collections
import importlib
from pathlib import Path

from attnjax import contract
from experiments.claims import records
from experiments.docs import docstrings, markdown


def families() -> dict[str, list[str]]:
  """Returns the slugs of the systems of each family, by the families' packages."""
  found: dict[str, list[str]] = collections.defaultdict(list)
  for slug, module in contract.systems().items():
    found[module.rpartition(".")[0]].append(slug)
  return dict(sorted(found.items()))


def table(root: Path) -> str:
  """Returns one row a family: what it is, its systems, what came of their claims."""
  head = ("family", "what it is", "systems", "claims")
  return markdown.table(head, (_row(root, *item) for item in families().items()))


def title(package: str) -> str:
  """Returns what a family is: the first line of its package's docstring."""
  found = docstrings.read(importlib.import_module(package).__doc__)
  return found.title.rstrip(".")


def _row(root: Path, package: str, slugs: list[str]) -> tuple[str, ...]:
  counts: collections.Counter[str] = collections.Counter()
  for slug in slugs:
    counts.update(records.verdicts(records.read(root, slug)))
  links = ", ".join(f"[`{slug}`](docs/systems/{slug}.md)" for slug in slugs)
  said = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
  return package.rpartition(".")[2], markdown.prose(title(package)), links, said
