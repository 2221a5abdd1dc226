"""Every system's definition shares nothing with the functions that it is compared with.

Found in the syntax trees: all that a `reference` names, and all that is named by what
it names in the system's own modules, is either its own or of `core.definition`, and
nothing of it is reached from the tested function (by any other branch than
`if impl == "reference"`). Attributes of values, such as methods, are not followed.
"""

import ast
import functools
import importlib
import importlib.util
from pathlib import Path

from absl.testing import absltest, parameterized

from attnjax import contract

# What else a definition may name, with the reason.
SHARED = {
  "attnjax.core.recurrence.prefix.State": "a result that both return",
  "attnjax.variants.local.neighborhood.attention.broadcast": "checks the options",
  "attnjax.variants.local.neighborhood.tiled.Axis": "holds the options of an axis",
  "attnjax.variants.sparse.rectified_sparse.pooled.Plan": "a result that both return",
}
_PARTS = "attnjax.core.definition"


def _pairs():
  for slug in contract.systems():
    module = contract.load(slug)
    for verb in sorted({case.function for case in module.CASES}):
      own = f"reference_{verb}"
      found = own if hasattr(module, own) else "reference"
      yield f"{slug}_{verb}", module.__name__, verb, found


class ReferencesTest(parameterized.TestCase):
  @parameterized.named_parameters(*_pairs())
  def test_definition_is_independent(self, system, tested, defined):
    one, other = reached(system, defined), reached(system, tested)
    self.assertEqual(sorted((one & other) - set(SHARED)), [])
    helped = {name for name in other if _within(name, _PARTS)}
    self.assertEqual(sorted(helped), [], "only definitions use these")
    foreign = {name for name in one if not _within(name, system)} - set(SHARED)
    foreign = {name for name in foreign if not _within(name, _PARTS)}
    foreign = {name for name in foreign if not name.endswith(".reference")}
    self.assertEqual(sorted(foreign), [])

  def test_parts_of_definitions_are_their_own(self):
    text = Path(importlib.import_module(_PARTS).__file__).read_text(encoding="utf-8")
    self.assertNotIn("attnjax", text.split('"""', 2)[2])

  def test_exceptions_are_needed(self):
    named = [reached(system, defined) for _, system, _, defined in _pairs()]
    self.assertEqual(set(SHARED) - set().union(*named), set())

  def test_helpers_and_branches_are_followed(self):
    system = "attnjax.variants.recurrent.aaren"
    names = reached(system, "attend")
    self.assertIn(f"{system}.attention._scores", names)
    self.assertIn("attnjax.backends.prefix_softmax", names)
    self.assertNotIn(f"{system}.attention.reference", names)
    self.assertIn(f"{system}.attention._prefixes", reached(system, "reference"))


@functools.cache
def reached(system: str, name: str) -> frozenset[str]:
  """Returns the dotted names that a system's function reaches, without itself."""
  start = _origin(system, name)
  found, todo = set(), [start]
  while todo:
    module, name = todo.pop()
    if not _within(module, system):
      continue
    for node in _table(module).get(name, ()):
      new = {_origin(*pair) for pair in _named(module, node)} - found - {start}
      found |= new
      todo += new
  return frozenset(f"{module}.{name}" for module, name in found)


def _within(name, package):
  return name == package or name.startswith(f"{package}.")


def _origin(module, name):
  """Follows imports of imports inside the systems; returns (module, name)."""
  while _within(module, "attnjax.variants"):
    for node in _table(module).get(name, ()):
      if isinstance(node, tuple):
        module, name = node
        break
    else:
      break
  return module, name


@functools.cache
def _table(module):
  """Maps a module's top-level names to their syntax trees, or (module, name)."""
  spec = importlib.util.find_spec(module)
  table = {}
  for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      table.setdefault(node.name, []).append(node)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
          table.setdefault(part.id, []).append(node)
    elif isinstance(node, ast.ImportFrom) and _within(node.module, "attnjax"):
      for alias in node.names:
        pair = node.module, alias.name
        table.setdefault(alias.asname or alias.name, []).append(pair)
  return table


@functools.cache
def _is_module(name):
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:
    return False


def _named(module, node):
  """Yields (module, name) of what a syntax tree names, of attnjax."""
  table, attributes = _table(module), set()
  hidden = _local(node)
  for part in _walk(node):
    if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
      for found in () if part.value.id in hidden else table.get(part.value.id, ()):
        if isinstance(found, tuple) and _is_module(".".join(found)):
          attributes.add(part.value)
          yield ".".join(found), part.attr
    elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
      if part in attributes or part.id in hidden:
        continue
      for found in table.get(part.id, ()):
        yield found if isinstance(found, tuple) else (module, part.id)


def _walk(node):
  """Walks a tree, but for annotations and the branch of the definition."""
  todo = [node]
  while todo:
    node = todo.pop(0)
    yield node
    if isinstance(node, ast.If) and "impl == 'reference'" == ast.unparse(node.test):
      todo += node.orelse
    elif isinstance(node, ast.FunctionDef):
      todo += [*node.decorator_list, *node.body]
    elif isinstance(node, ast.AnnAssign):
      todo += [] if node.value is None else [node.value]
    else:
      todo += ast.iter_child_nodes(node)


def _local(node):
  """Returns the names of a function's arguments and variables."""
  if not isinstance(node, ast.FunctionDef):
    return set()
  names = {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
  for part in ast.walk(node):
    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
      names.add(part.id)
  return names


if __name__ == "__main__":
  absltest.main()
