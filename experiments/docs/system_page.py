"""Makes the page of a system, docs/systems/<slug>.md."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from experiments.docs import (
  claim_tables,
  docstrings,
  growth,
  markdown,
  mutant_tables,
  signatures,
  snippets,
)
from experiments.docs.systems import System

MADE = "<!-- Made by `python -m experiments.docs`; edit the module, not this page. -->"
_KNOWN = ("FORMS", "IMPLEMENTATIONS", "LAYER", "PARAMETERS", "REFUSED", "SIZES")
_KNOWN += ("REDUCER", "WHOLE")
_WORDS = {
  "reference": "the definition, naive and readable",
  "xla": "plain JAX on any device, any order of derivative",
  "pallas": "fused kernels for TPUs",
  "triton": "fused kernels for NVIDIA GPUs",
}


def path(root: Path, slug: str) -> Path:
  """Returns where the page of a system is."""
  return root / "docs" / "systems" / f"{slug}.md"


def page(system: System) -> str:
  """Returns the page of a system."""
  parts = [
    MADE,
    f"# {system.slug}",
    f"**{markdown.prose(system.title)}**",
    markdown.blocks(system.sources),
    _facts(system),
    markdown.section("Definition", markdown.blocks(system.body), _axes(system)),
    _use(system),
    markdown.section("Functions", *_functions(system)),
    _layer(system),
    _model(system),
    _class(system, "Reducer") if hasattr(system.module, "Reducer") else "",
    _others(system),
    markdown.section("Cost", _cost(system), *growth.parts(system)),
    markdown.section("Implementations", _implementations(system)),
    claim_tables.section(system),
    _parity(system),
    mutant_tables.section(system),
    _not_here(system),
  ]
  return markdown.sections(*parts) + "\n"


def _facts(system: System) -> str:
  module = system.module
  rows = [
    ("family", f"`{system.family}`"),
    ("forms", ", ".join(f"`{form}`" for form in module.FORMS)),
    ("implementations", ", ".join(f"`{impl}`" for impl in module.IMPLEMENTATIONS)),
    ("source", f"[{system.place}](../../{system.place})"),
    ("tests", ", ".join(f"[{Path(t).name}](../../{t})" for t in system.tests)),
  ]
  return markdown.table(("", ""), rows)


def _axes(system: System) -> str:
  return markdown.blocks(system.part("Axes:"))


def _use(system: System) -> str:
  form = system.layer_forms[0] if system.layer_forms else ""
  text = snippets.snippet(system.slug, system.module, form)
  return markdown.section("Use", markdown.code(text, "python"))


def _functions(system: System) -> list[str]:
  found = []
  for name, function in system.functions.items():
    found.append(_function(f"attnjax.{system.slug}.{name}", name, function))
  return found


def _function(place: str, name: str, function: Callable) -> str:
  read = docstrings.read(inspect.getdoc(function))
  rows = [row for row in _rows(function) if row[2] != "-"]
  errors = [f"`{error}`: {markdown.prose(why)}" for error, why in read.raises.items()]
  return markdown.section(
    f"`{name}`",
    markdown.code(signatures.call(place, function), "python"),
    markdown.prose(read.title),
    markdown.blocks(read.blocks),
    markdown.table(("argument", "default", "meaning"), rows),
    f"Returns: {markdown.prose(read.returns)}" if read.returns else "",
    "Raises " + "; ".join(errors) if errors else "",
    level=3,
  )


def _rows(
  function: Callable, shared: Mapping[str, str] = {}
) -> list[tuple[str, str, str]]:
  """Returns name, default and meaning of every parameter."""
  return [
    (
      f"`{option.name}`",
      f"`{option.default}`" if option.default else "",
      markdown.prose(option.meaning) or "-",
    )
    for option in signatures.options(function, shared)
  ]


def _layer(system: System) -> str:
  if not system.layer_forms:
    return ""
  refused = [
    f"In form `{form}`, made as above, it refuses {_refused(system.module, form)}."
    for form in system.layer_forms
    if _refused(system.module, form)
  ]
  return _class(system, "Layer", *refused)


def _class(system: System, name: str, *more: str) -> str:
  made = getattr(system.module, name)
  read = docstrings.read(inspect.getdoc(made))
  return markdown.section(
    name,
    markdown.code(signatures.call(f"attnjax.{system.slug}.{name}", made), "python"),
    markdown.prose(read.title),
    markdown.blocks(read.blocks),
    markdown.table(
      ("option", "default", "meaning"), _rows(made, system.meanings(name))
    ),
    *more,
  )


def _refused(module: Any, form: str) -> str:
  """Says which context a layer refuses, and why; only shapes are computed."""

  def make():
    return module.Layer(**module.LAYER, form=form, rngs=nnx.Rngs(0))

  refuses = getattr(jax.eval_shape(make), "refuses", None) or {}
  return "; ".join(f"`{n}` ({markdown.prose(why)})" for n, why in refuses.items())


def _model(system: System) -> str:
  if not hasattr(system.module, "Model"):
    return ""
  sizes = getattr(system.module, "SIZES", {})
  counts = getattr(system.module, "PARAMETERS", {})
  rows = []
  for name, size in sizes.items():
    shown = f"`{size}`" if not isinstance(size, dict) else ", ".join(_items(size))
    number = counts.get(name) if isinstance(counts, dict) else None
    rows.append((f"`{name}`", *([_count(number)] if counts else []), shown))
  head = ("size", *(["parameters"] if counts else []), "options")
  return _class(system, "Model", markdown.table(head, rows))


def _items(size: dict[str, Any]) -> list[str]:
  return [f"`{name}={value!r}`" for name, value in size.items()]


def _count(number: Any) -> str:
  return f"{number:,.0f}" if isinstance(number, int | float) else str(number or "-")


def _others(system: System) -> str:
  """Returns a table of the other public classes, and of tuples of choices."""
  rows = [
    (f"`{name}`", markdown.prose(docstrings.read(inspect.getdoc(found)).title))
    for name, found in system.classes.items()
  ]
  for name in getattr(system.module, "__all__", ()):
    value = getattr(system.module, name)
    names = list(value) if isinstance(value, dict) else value
    simple = isinstance(names, tuple | list) and all(isinstance(x, str) for x in names)
    if name.isupper() and simple and name not in _KNOWN:
      rows.append((f"`{name}`", ", ".join(f'`"{x}"`' for x in names)))
  return markdown.section("Also here", markdown.table(("name", "what it is"), rows))


def _cost(system: System) -> str:
  texts = [block.text.removeprefix("Cost: ") for block in system.part("Cost")]
  return "\n\n".join(markdown.prose(text[:1].upper() + text[1:]) for text in texts)


def _implementations(system: System) -> str:
  module, names = system.module, [case.name for case in system.module.CASES]
  refused = getattr(module, "REFUSED", {})
  rows = []
  for impl in module.IMPLEMENTATIONS:
    cases = [f"`{name}`" for name in names if name in refused.get(impl, ())]
    rows.append((f"`{impl}`", _WORDS.get(impl, ""), ", ".join(cases) or "none"))
  said = f"They agree, with all gradients, on {len(names)} cases:"
  shown = ", ".join(f"`{name}`" for name in names)
  head = ("`impl`", "what it is", "cases that it refuses")
  return markdown.sections(markdown.table(head, rows), f"{said} {shown}.")


def _parity(system: System) -> str:
  rows = [
    (
      f"[{Path(golden.path).name}](../../{golden.path})",
      markdown.prose(golden.code),
      f"`{golden.commit[:12]}`" if golden.commit else "-",
      markdown.prose(golden.ran),
      str(golden.outputs),
      str(golden.gradients),
    )
    for golden in system.golden
  ]
  head = (
    "file",
    "code that ran",
    "commit",
    "class or function",
    "outputs",
    "gradients",
  )
  held = (
    "[tests/golden_test.py](../../tests/golden_test.py) compares every one of them."
  )
  if rows:
    return markdown.section("Parity", markdown.table(head, rows), held)
  tests = ", ".join(f"[{test}](../../{test})" for test in system.tests)
  none = f"There is no file of the authors' code; {tests} holds it to the definition."
  return markdown.section("Parity", none)


def _not_here(system: System) -> str:
  found = system.part("Not here:")
  texts = [block.text.removeprefix("Not here:").strip() for block in found]
  said = "The module's docstring names nothing of the paper that is missing."
  return markdown.section(
    "Not here", *(map(markdown.prose, texts) if texts else [said])
  )
