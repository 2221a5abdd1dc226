"""The rules of the tree: directions of import, sizes, citations, the README's table."""

import ast
import functools
import importlib
import pkgutil
import re
from pathlib import Path

from absl.testing import absltest, parameterized

from attnjax import contract
from experiments.claims import records
from experiments.claims.__main__ import stale
from experiments.docs import families
from tests import golden

_ROOT = Path(__file__).parent.parent
_ROOMS = ("attnjax", "pallas_kernels", "experiments", "configs")
_FILES = sorted(p for room in _ROOMS for p in (_ROOT / room).rglob("*.py"))
_FUNCTION, _KERNEL, _MODULE = 50, 120, 250

# Longer ones, by name, with the reason.
LONG_FUNCTIONS: dict[str, str] = {
  "attnjax.attention.dot_product_attention": "its arguments, each with its rule",
  "attnjax.core.programs.program": "its functions share the numbers of the operands",
  "attnjax.variants.linear.nprf.attention.attend": "its arguments",
  "attnjax.variants.recurrent.aaren.attention.attend": "its arguments",
  "attnjax.variants.softmax.gated_attention.attention.attend": "its arguments",
  "attnjax.variants.sparse.dynamic_mask.attention.attend": "its arguments",
  "attnjax.variants.sparse.rectified_sparse.attention.attend": "its arguments",
  "attnjax.variants.sparse.rectified_sparse.definition.reference": "its arguments",
  "attnjax.variants.sparse.routing_transformer.attention.attend": "its arguments",
  "attnjax.variants.sparse.routing_transformer.definition.reference": "its arguments",
  "attnjax.variants.sparse.routing_transformer.decode.step": "its arguments",
  "attnjax.variants.sparse.superlinear.attention.attend": "its arguments",
}
LONG_MODULES: dict[str, str] = {}

# Who may not import whom: prefix of the importer -> prefixes it must not touch.
_FORBIDDEN = {
  "attnjax": ("experiments", "configs", "tests"),
  "attnjax.core": ("attnjax.nn", "attnjax.variants", "attnjax.models", "flax"),
  "attnjax.nn": ("attnjax.variants", "attnjax.models"),
  "attnjax.models": ("attnjax.variants",),
  "pallas_kernels": ("attnjax.nn", "attnjax.variants", "attnjax.models", "flax"),
  "experiments": ("tests",),
}
# Only inside the function that needs them.
_LAZY = ("jax_triton", "triton", "tokamax", "tensorflow")
# What is itself imported by functions only, and may import Triton at its top.
_IMPORTED_LATE = re.compile(
  r"pallas_kernels\.\w+\.(triton_gpu\w*|triton_math|jaxpr_to_triton)(\.|$)"
)


def _name(path):
  return ".".join(path.relative_to(_ROOT).with_suffix("").parts)


def _imports(tree):
  """(module name, whether at the top level) of every import."""
  top = set(tree.body)
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((alias.name, node in top) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module, node in top
      yield from ((f"{node.module}.{a.name}", node in top) for a in node.names)


def _within(name, prefix):
  return name == prefix or name.startswith(prefix + ".")


@functools.cache
def _trees():
  return {p: ast.parse(p.read_text(encoding="utf-8")) for p in _FILES}


class LayoutTest(parameterized.TestCase):
  def test_imports_go_one_way(self):
    for path, tree in _trees().items():
      for imported, top in _imports(tree):
        for owner, forbidden in _FORBIDDEN.items():
          if _within(_name(path), owner):
            bad = [f for f in forbidden if _within(imported, f)]
            self.assertEmpty(bad, f"{path} imports {imported}")
        lazy = any(_within(imported, x) for x in _LAZY)
        if not _IMPORTED_LATE.match(_name(path)):
          lazy = lazy or _IMPORTED_LATE.match(imported)
          self.assertFalse(lazy and top, f"{path} imports {imported} at its top")

  def test_sizes(self):
    for path, tree in _trees().items():
      lines = path.read_text(encoding="utf-8").count("\n")
      if _name(path) not in LONG_MODULES:
        self.assertLessEqual(lines, _MODULE, path)
      for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
          name, length = f"{_name(path)}.{node.name}", node.end_lineno - node.lineno + 1
          if name not in LONG_FUNCTIONS:
            kernel = path.stem.endswith("_kernel")
            self.assertLessEqual(length, _KERNEL if kernel else _FUNCTION, name)
          else:
            self.assertGreater(length, _FUNCTION, f"{name} is no exception")

  def test_exceptions_are_still_needed(self):
    names = {_name(path) for path in _FILES}
    self.assertEqual(set(LONG_MODULES) - names, set())

  def test_no_room_without_a_name(self):
    names = {path.name for path in _FILES}
    self.assertEmpty(names & {"utils.py", "base.py", "helpers.py", "misc.py"})

  @parameterized.named_parameters((slug, slug) for slug in contract.systems())
  def test_a_system_says_what_it_is(self, slug):
    module = contract.load(slug)
    self.assertRegex(module.__doc__, r"arXiv:\d{4}\.\d{4,5}")
    for word in ("Cost", "Axes", "code"):
      self.assertIn(word.lower(), module.__doc__.lower())
    layer = ("Layer", "LAYER", "GROWTH")
    layers = [f for f in module.FORMS if hasattr(contract.form(f), "Layer")]
    for name in ("IMPLEMENTATIONS", "CASES", *(layer if layers else ())):
      self.assertTrue(hasattr(module, name), name)
    for case in module.CASES:
      self.assertTrue(callable(case.implemented(module)), case.name)
      self.assertTrue(callable(case.defined(module)), case.name)
    self.assertEqual(module.IMPLEMENTATIONS[0], "reference")
    self.assertContainsSubset(module.FORMS, contract.form_names())

  @parameterized.named_parameters((slug, slug) for slug in contract.systems())
  def test_a_system_has_its_proof(self, slug):
    claims = importlib.import_module(f"experiments.claims.systems.{slug}")
    self.assertTrue(hasattr(claims, "CLAIMS") or callable(claims.claims))
    again = f"measure it: python -m experiments.claims {slug}"
    self.assertNotEmpty(records.read(_ROOT, slug).get("claims"), again)
    self.assertEmpty(stale(_ROOT, slug), again)
    mapped = {m.name for m in pkgutil.iter_modules(golden.__path__)}
    if slug not in mapped:  # nothing to compare with, or jax.nn
      text = " ".join(contract.load(slug).__doc__.split())
      self.assertRegex(text, r"jax\.nn|[Nn]o (official|public) code")

  def test_the_readme_has_the_table_of_families(self):
    text = (_ROOT / "README.md").read_text(encoding="utf-8")
    self.assertIn(families.table(_ROOT), text)

  def test_nothing_of_another_machine(self):
    home = re.compile(r"/(?:home|root|Users|work)/")
    for path in [*_FILES, _ROOT / "README.md", _ROOT / "Makefile"]:
      self.assertNotRegex(path.read_text(encoding="utf-8"), home, path)


if __name__ == "__main__":
  absltest.main()
