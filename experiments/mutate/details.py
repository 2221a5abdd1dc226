"""The details of a module that can be broken, on its syntax tree.

A detail is a constant, a sign, an operator, a comparison, an order of arguments, a term
of a sum, a factor, a keyword, or a function around a value. What only speaks to people
or refuses wrong arguments is left alone: docstrings, messages, annotations, and tests
in front of `raise`.
"""

import ast
import copy
import dataclasses
from collections.abc import Iterator

# Functions that a value passes through: the mutant leaves them out.
_THROUGH = (
  *("tanh", "silu", "sigmoid", "relu", "gelu", "softplus", "softmax", "log_softmax"),
  *("exp", "log", "square", "sqrt", "rsqrt", "abs", "cumsum", "flip", "swapaxes"),
)
# Keywords without a meaning for the numbers, and those that every call needs.
_KEPT = (
  *("dtype", "param_dtype", "rngs", "impl", "name", "precision", "out_shardings"),
  *("preferred_element_type", "metadata"),
)
_OPERATORS: dict[type, type] = {
  ast.Add: ast.Sub,
  ast.Sub: ast.Add,
  ast.Mult: ast.Div,
  ast.Div: ast.Mult,
  ast.FloorDiv: ast.Mult,
  ast.Mod: ast.FloorDiv,
  ast.Pow: ast.Mult,
  ast.BitAnd: ast.BitOr,
  ast.BitOr: ast.BitAnd,
}
_COMPARISONS: dict[type, type] = {
  ast.Lt: ast.LtE,
  ast.LtE: ast.Lt,
  ast.Gt: ast.GtE,
  ast.GtE: ast.Gt,
  ast.Eq: ast.NotEq,
  ast.NotEq: ast.Eq,
}
# Assigned names of a module that tell tests what to do.
_ABOUT = ("CASES", "FORMS", "GROWTH", "IMPLEMENTATIONS", "LAYER", "PARAMETERS")
_ABOUT = (*_ABOUT, "ANALYSE", "AXES", "HOSTS", "REFUSED", "__all__")


@dataclasses.dataclass(frozen=True)
class Mutant:
  """A module with one broken detail.

  Attributes:
    line: the number of its line.
    before: the source of the detail.
    after: what stands in its place.
    tree: the module's syntax tree with it.
  """

  line: int
  before: str
  after: str
  tree: ast.Module

  @property
  def words(self) -> str:
    """Returns the change in one line."""
    return f"{self.before}  ->  {self.after}"


def mutants(source: str) -> list[Mutant]:
  """Returns every module that differs from the source in one detail."""
  tree = ast.parse(source)
  found = []
  for place, node in enumerate(_nodes(tree)):
    for number, after in enumerate(_alternatives(node)):
      whole = copy.deepcopy(tree)
      own = list(_nodes(whole))[place]
      _Replace(own, list(_alternatives(own))[number]).visit(whole)
      ast.fix_missing_locations(whole)
      before = " ".join(ast.unparse(node).split())
      words = " ".join(ast.unparse(after).split())
      found.append(Mutant(node.lineno, before, words, whole))
  return found


class _Replace(ast.NodeTransformer):
  """Puts one node in the place of another."""

  def __init__(self, old: ast.AST, new: ast.AST):
    self.old, self.new = old, new

  def visit(self, node):
    """Returns the new node for the old one, and visits what is in others."""
    if node is self.old:
      return ast.copy_location(self.new, node)
    return self.generic_visit(node)


def _nodes(node: ast.AST) -> Iterator[ast.expr | ast.AugAssign]:
  """Yields the nodes of a tree that count, in a fixed order."""
  for name, value in ast.iter_fields(node):
    if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
      continue
    for child in value if isinstance(value, list) else [value]:
      if isinstance(child, ast.AST) and not _left_alone(child):
        if isinstance(child, ast.expr | ast.AugAssign):
          yield child
        yield from _nodes(child)


def _left_alone(node: ast.AST) -> bool:
  match node:
    case ast.Raise() | ast.JoinedStr() | ast.Assert() | ast.Import() | ast.ImportFrom():
      return True
    case ast.Expr(value=ast.Constant()):
      return True
    case ast.If(body=[ast.Raise()], orelse=[]):
      return True
    case (
      ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name))
    ):
      return name in _ABOUT
    case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
      return name.startswith(("check", "require")) or name in ("field", "TypeVar")
  return False


def _alternatives(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
  """Yields what can stand in the place of a node."""
  match node:
    case ast.Constant(value=bool() as value):
      yield ast.Constant(not value)
    case ast.Constant(value=int() as value):
      yield ast.Constant(value + 1)
    case ast.Constant(value=float() as value):
      yield ast.Constant(2 * value if value else 1.0)
    case ast.BinOp(left=left, op=op, right=right):
      yield from _binary(left, op, right)
    case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
      if not isinstance(operand, ast.Constant):
        yield operand
    case ast.Compare(left=left, ops=[op], comparators=[right]):
      if type(op) in _COMPARISONS:
        yield ast.Compare(left, [_COMPARISONS[type(op)]()], [right])
    case ast.BoolOp(op=op, values=values):
      yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
    case ast.IfExp(test=test, body=body, orelse=orelse):
      yield ast.IfExp(test, orelse, body)
    case ast.Call():
      yield from _called(node)
    case ast.AugAssign(target=target, op=op, value=value):
      if type(op) in _OPERATORS:
        yield ast.AugAssign(target, _OPERATORS[type(op)](), value)
      yield ast.Pass()


def _binary(left, op, right) -> Iterator[ast.expr]:
  if isinstance(op, ast.MatMult):
    yield ast.BinOp(right, op, left)
  words = isinstance(left, ast.Constant) and isinstance(left.value, str)
  if type(op) in _OPERATORS and not words and not isinstance(left, ast.JoinedStr):
    yield ast.BinOp(left, _OPERATORS[type(op)](), right)
  if isinstance(op, ast.Add | ast.Sub | ast.Mult | ast.Div):
    yield left
  if isinstance(op, ast.Add | ast.Mult):
    yield right


def _called(node: ast.Call) -> Iterator[ast.expr]:
  name = getattr(node.func, "attr", getattr(node.func, "id", ""))
  plain = not any(isinstance(a, ast.Starred) for a in node.args[:2])
  if name in _THROUGH and node.args and plain:
    yield node.args[0]
  if len(node.args) >= 2 and plain and ast.dump(node.args[0]) != ast.dump(node.args[1]):
    yield ast.Call(
      node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords
    )
  for i, keyword in enumerate(node.keywords):
    if keyword.arg and keyword.arg not in _KEPT:
      rest = node.keywords[:i] + node.keywords[i + 1 :]
      yield ast.Call(node.func, node.args, rest)
