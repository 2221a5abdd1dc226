"""Fills pages that are written by hand: parts between marks, outputs of programs."""

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from experiments.errors import UserError

_FENCED = re.compile(
  r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.M | re.S
)


def filled(path: Path, text: str, parts: Mapping[str, Callable[[], str]]) -> str:
  """Returns a page's text with its parts made anew.

  A part stands between `<!-- name -->` and `<!-- end of name -->`.

  Args:
    path: of the page, for messages.
    text: of the page.
    parts: maps the name of a part to a function that makes it.

  Raises:
    UserError: if a mark has no end, or a part is unknown.
  """
  for name in re.findall(r"<!-- (?!end of )([\w ]+) -->$", text, re.M):
    if name not in parts:
      known = ", ".join(sorted(parts))
      raise UserError(f"{path}: unknown part {name!r}; there are: {known}")
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
      raise UserError(f"{path}: {begin.strip()} has no {end}")
    text = f"{before}{begin}{parts[name]()}\n{end}{after}"
  return text


def programs(text: str) -> list[str]:
  """Returns the Python programs of a page, in their order."""
  return [match[1] for match in _FENCED.finditer(text)]


def with_outputs(text: str) -> str:
  """Returns a page's text in which the text behind each program is what it prints.

  The programs of a page share their names. One without a block of text behind it runs,
  and what it prints is not shown. A page without such blocks stays as it is.
  """
  if not any(match[2] is not None for match in _FENCED.finditer(text)):
    return text
  names: dict[str, object] = {}

  def run(match: re.Match) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      exec(compile(match[1], "docs", "exec"), names)
    program = f"```python\n{match[1]}```"
    if match[2] is None:
      return program
    lines = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
    return f"{program}\n\n```text\n{lines}\n```"

  return _FENCED.sub(run, text)
