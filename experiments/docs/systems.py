"""Reads a system: its module, and the files that belong to it."""

import ast
import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from attnjax import contract
from experiments.claims import records
from experiments.docs import docstrings, signatures
from experiments.docs.docstrings import Block, Docstring

_SHOWN = ("Layer", "Model", "Reducer")  # each in a part of its own
_ARXIV = re.compile(r"arXiv:((\d\d)\d\d\.\d{4,5})")


@dataclasses.dataclass(frozen=True)
class Golden:
  """A file with results of the authors' code.

  Attributes:
    path: from the root of the repository.
    code: the repository or package that ran.
    commit: of it, "" if none is noted.
    ran: its class or function.
    outputs: how many arrays of results the file holds.
    gradients: how many arrays of gradients.
  """

  path: str
  code: str
  commit: str
  ran: str
  outputs: int
  gradients: int


@dataclasses.dataclass(frozen=True)
class System:
  """A system of the catalogue with its files.

  Attributes:
    root: the folder of the repository.
    slug: its name.
    module: its module.
  """

  root: Path
  slug: str
  module: ModuleType

  @property
  def family(self) -> str:
    """Returns the system's folder in `attnjax.variants`."""
    return contract.systems()[self.slug].split(".")[-2]

  @property
  def place(self) -> str:
    """Returns the system's file or folder, from the root of the repository."""
    path = contract.systems()[self.slug].replace(".", "/")
    return path if (self.root / path).is_dir() else f"{path}.py"

  @functools.cached_property
  def docstring(self) -> Docstring:
    """Returns the docstring of the module."""
    return docstrings.read(self.module.__doc__)

  @property
  def title(self) -> str:
    """Returns the first line of the docstring, without its full stop."""
    return self.docstring.title.rstrip(".")

  @property
  def paper(self) -> tuple[str, int] | None:
    """Returns the first arXiv number that the docstring names, and its year."""
    found = _ARXIV.search(" ".join(block.text for block in self.docstring.blocks))
    return (found[1], 2000 + int(found[2])) if found else None

  def part(self, *starts: str) -> list[Block]:
    """Returns the paragraphs that begin with one of those words."""
    return [
      b for b in self.docstring.blocks if not b.code and b.text.startswith(starts)
    ]

  @property
  def sources(self) -> list[Block]:
    """Returns the paragraphs in front of the equations that cite."""
    found = []
    for block in self.docstring.blocks:
      if block.code or not re.search(r"arXiv:|[Cc]ode:|\d{4}\.", block.text):
        break
      found.append(block)
    return found

  @property
  def body(self) -> list[Block]:
    """Returns the equations, and the paragraphs that neither cite nor end the text."""
    ends = self.part("Cost", "Axes:", "Not here:")
    return [b for b in self.docstring.blocks[len(self.sources) :] if b not in ends]

  @property
  def layer_forms(self) -> list[str]:
    """Returns the forms in which the system has a Layer."""
    known = [f for f in self.module.FORMS if f in contract.form_names()]
    return [f for f in known if hasattr(contract.form(f), "Layer")]

  def meanings(self, name: str) -> dict[str, str]:
    """Returns the meanings of options that Layer or Model do not document.

    Forms tell what is alike in all systems that have them; a Model passes on options
    of its Layer.
    """
    found = dict(signatures.OF_LAYERS)
    for form in self.module.FORMS:
      if form in contract.form_names():
        read = docstrings.read(contract.form(form).__doc__)
        found |= docstrings.defined(read.blocks)
    if name == "Model" and hasattr(self.module, "Layer"):
      own = signatures.options(self.module.Layer, self.meanings("Layer"))
      found = {option.name: option.meaning for option in own} | found
    return found

  @property
  def functions(self) -> dict[str, Callable]:
    """Returns the public functions: first the cases', last the definitions."""
    found = {n: v for n, v in _public(self.module) if not inspect.isclass(v)}
    first = list(dict.fromkeys(case.function for case in self.module.CASES))
    names = [*first, *sorted(set(found) - set(first), key=_definitions_last)]
    return {name: found[name] for name in names if name in found and name != "Model"}

  @property
  def classes(self) -> dict[str, type]:
    """Returns the public classes beside Layer, Model and Reducer."""
    found = {n: v for n, v in _public(self.module) if inspect.isclass(v)}
    return {n: found[n] for n in sorted(found) if n not in _SHOWN}

  @functools.cached_property
  def record(self) -> dict[str, Any]:
    """Returns the record of the system's measured claims."""
    return records.read(self.root, self.slug)

  @property
  def claimed(self) -> Docstring:
    """Returns the docstring of the system's claim file, which is not imported."""
    path = self.root / "experiments" / "claims" / "systems" / f"{self.slug}.py"
    return docstrings.read(_module_docstring(path))

  @property
  def golden(self) -> list[Golden]:
    """Returns the files with results of the authors' code, sorted by name."""
    folder = self.root / "tests" / "golden"
    names = [p.stem for p in sorted(folder.glob(f"{self.slug}*.npz"))]
    own = [n for n in names if _owner(n) == self.slug]
    return [_golden(folder / f"{name}.npz") for name in own]

  @property
  def tests(self) -> list[str]:
    """Returns the system's own test files, from the root of the repository."""
    found = (self.root / "tests").rglob(f"{self.slug}*_test.py")
    own = [p for p in found if _owner(p.stem.removesuffix("_test")) == self.slug]
    return sorted(path.relative_to(self.root).as_posix() for path in own)


def read(root: Path, slug: str) -> System:
  """Returns a system; ValueError with the nearest names if there is none."""
  return System(root, slug, contract.load(slug))


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
  """Yields names and values of what can be called."""
  names = getattr(module, "__all__", None)
  for name, value in vars(module).items():
    own = (
      name in names if names else getattr(value, "__module__", "") == module.__name__
    )
    if own and callable(value) and not name.startswith("_"):
      yield name, value


def _definitions_last(name: str) -> tuple[bool, str]:
  return name.startswith("reference"), name


def _owner(name: str) -> str:
  """Returns the system whose slug is the longest beginning of a file's name."""
  fitting = [s for s in contract.systems() if f"{name}_".startswith(f"{s}_")]
  return max(fitting, key=len, default="")


def _golden(path: Path) -> Golden:
  with np.load(path) as file:
    meta, names = json.loads(str(file["meta"])), file.files
  first = {key: meta[key] for key in ("package", "repository", "repo") if key in meta}
  ran = next((meta[key] for key in ("cls", "fn", "module") if key in meta), "")
  return Golden(
    path=f"tests/golden/{path.name}",
    code=str(next(iter(first.values()), "")),
    commit=str(meta.get("commit", "")),
    ran=str(ran),
    outputs=sum(name.startswith("out.") for name in names),
    gradients=sum(name.startswith("grad.") for name in names),
  )


def _module_docstring(path: Path) -> str:
  if not path.is_file():
    return ""
  return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
