"""Adds files to the library's packages while a test runs."""

import contextlib
import itertools
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import attnjax
from attnjax import contract, variants
from attnjax.contract.subject import Subject
from tests import contract_test

_number = itertools.count()


@contextlib.contextmanager
def added(files: Mapping[str, str], packages: Mapping[str, ModuleType]):
  """Puts files beside the library's own while the context lasts; gives their folder.

  Args:
    files: maps paths to texts.
    packages: maps a folder of the paths to the package that it extends.
  """
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    for name, text in files.items():
      path = Path(folder, name)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    for own, package in packages.items():
      package.__path__.append(f"{folder}/{own}")
      stack.callback(package.__path__.remove, f"{folder}/{own}")
    for register in (contract.systems, contract.form_names):
      register.cache_clear()
      stack.callback(register.cache_clear)
    yield Path(folder)


@contextlib.contextmanager
def system(text: str, name: str):
  """Adds a system of its own family while the context lasts; gives its slug.

  Python imports each name once, so that each text has a number of its own.
  """
  slug = f"{name}{next(_number)}"
  folder = f"variants/{slug}_family"
  files = {f"{folder}/__init__.py": "", f"{folder}/{slug}.py": text}
  with added(files, {"variants": variants}):
    yield slug


def keeps_its_contract(test, slug: str) -> None:
  """Runs every case of a system in every implementation, and its forms' checks."""
  module = contract.load(slug)
  test.assertIs(getattr(attnjax, slug), module)
  for case in module.CASES:
    for impl in module.IMPLEMENTATIONS[1:]:
      contract_test.agrees(module, case, impl)
  for form in module.FORMS:
    subject = Subject(module, form)
    for check in contract.form(form).CHECKS:
      with test.subTest(form, check=check.__name__):
        check(subject)


def python(page: Path) -> Iterable[tuple[str, str]]:
  """Yields (path, text) of the programs of a page that begin with their path."""
  text = page.read_text(encoding="utf-8")
  for part in text.split("```python\n# ")[1:]:
    path, _, program = part.partition("```")[0].partition("\n")
    yield path, program
