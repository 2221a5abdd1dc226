"""Docstrings name a thing by the field's term, and functions' begin with a verb."""

import ast
import re
from pathlib import Path

from absl.testing import absltest, parameterized

_ROOT = Path(__file__).parent.parent
_ROOMS = ("attnjax", "pallas_kernels", "experiments", "configs")
_RIDDLE = re.compile(
  r"(What|The same|Those|That|These|Of|Whether|How|Where|Which|Who) "
)
_VERB = re.compile(r"[A-Z][a-z]+s\b")
# Plurals, which look like verbs.
_NOUNS = frozenset(
  """
  This Its Values Weights Keys Queries Logits Sums Tokens Rows Heads Bytes Seconds
  Images Tiles Blocks Windows Arrays Numbers Zeros Bundles Positions Steps Columns Lists
  Names Links Parameters Axes Results Gradients Masks Scores Samples Sizes Shapes Ids
  Lines Files Cases Products Places Others Less Across Plus Minus Features Indices
  Operands Documents Segments Pairs Parts Halves Counts Statistics Examples Options
  Words Labels Points Grids Boxes Bounds Entries Units Layers Models Errors Classes
  Chunks Pieces States Caches Slopes Dots Loss Times Terms Views Modules
  """.split()
)


def _docstrings(path):
  """(node, its docstring) of all that has one."""
  kinds = ast.FunctionDef | ast.ClassDef | ast.Module
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    text = ast.get_docstring(node) if isinstance(node, kinds) else None
    if text:
      yield node, text


def fault(node, text: str) -> str:
  """Returns what is wrong with a docstring, or an empty text."""
  if _RIDDLE.match(text):
    return "does not name the thing"
  if not isinstance(node, ast.FunctionDef):
    return ""
  verb = _VERB.match(text)
  return "" if verb and verb.group() not in _NOUNS else "does not begin with a verb"


class WordsTest(parameterized.TestCase):
  @parameterized.parameters(*_ROOMS)
  def test_docstrings(self, room):
    found = [
      f"{path.relative_to(_ROOT)}:{getattr(node, 'lineno', 1)} {why}: {text[:60]}"
      for path in sorted((_ROOT / room).rglob("*.py"))
      for node, text in _docstrings(path)
      if (why := fault(node, text))
    ]
    self.assertEmpty(found)

  @parameterized.parameters(
    ("What a chunk is.", "name"),
    ("The output of a layer.", "verb"),
    ("Weights of all heads.", "verb"),
    ("(out, lse) of a row.", "verb"),
    ("Returns the weights.", ""),
  )
  def test_faults(self, text, why):
    (node,) = ast.parse(f'def f():\n  """{text}"""\n').body
    self.assertIn(why, fault(node, text))
    self.assertEqual(bool(fault(node, text)), bool(why))


if __name__ == "__main__":
  absltest.main()
