"""Writes Markdown in which the literal text of docstrings stays literal."""

import re
from collections.abc import Iterable, Sequence

from experiments.docs.docstrings import Block

_SPECIAL = re.compile(
  r"(?P<star>\*(?=\S)|(?<=\S)\*)"  # emphasis
  r"|(?P<line>(?<!\w)_|_(?!\w))"
  r"|(?P<tag><(?=[A-Za-z/!?]))"
  r"|(?P<strike>~)"
  r"|(?P<link>\](?=\())"
)
_LINKS = (
  (re.compile(r"arXiv:(\d{4}\.\d{4,5})"), r"[arXiv:\1](https://arxiv.org/abs/\1)"),
  (
    re.compile(r"(?<![\w/.])(github\.com/[\w.-]+/[\w.-]*\w)"),
    r"[\1](https://\1)",
  ),
)


def prose(text: str) -> str:
  """Returns a paragraph of a docstring; costs are set as code, sources are links.

  Lines that begin with "- " stay items of a list.
  """
  if text.startswith("- "):
    return "\n".join(f"- {prose(line.removeprefix('- '))}" for line in text.split("\n"))
  found = []
  for number, part in enumerate(_with_costs(text).split("`")):
    found.append(f"`{part}`" if number % 2 else _linked(_escaped(part)))
  return "".join(found)


def blocks(found: Iterable[Block]) -> str:
  """Returns paragraphs and equations."""
  return "\n\n".join(code(b.text) if b.code else prose(b.text) for b in found)


def code(text: str, language: str = "text") -> str:
  """Returns lines that stand as they are."""
  return f"```{language}\n{text}\n```"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a table of cells that are Markdown already; "" without rows."""
  lines = [_row(row) for row in rows]
  if not lines:
    return ""
  return "\n".join([_row(head), "|" + "---|" * len(head), *lines])


def sections(*parts: str) -> str:
  """Returns the parts that are not empty, with blank lines between."""
  return "\n\n".join(part for part in parts if part)


def section(title: str, *parts: str, level: int = 2) -> str:
  """Returns a heading and its parts; "" if all are empty."""
  body = sections(*parts)
  return f"{'#' * level} {title}\n\n{body}" if body else ""


def number(value: float) -> str:
  """Returns a number in four digits; whole numbers as they are."""
  if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
    return f"{int(value):,}"
  return f"{value:.4g}"


def _row(cells: Sequence[str]) -> str:
  text = " | ".join(re.sub(r"(?<!\\)\|", r"\\|", c.replace("\n", " ")) for c in cells)
  return f"| {text} |"


def _escaped(text: str) -> str:
  text = _SPECIAL.sub(lambda match: "\\" + match[0], text)
  return re.sub(r"^(#|>|\d+\.|[-+] )", r"\\\1", text)


def _linked(text: str) -> str:
  for pattern, link in _LINKS:
    text = pattern.sub(link, text)
  return text


def _with_costs(text: str) -> str:
  """Sets every O(...), with all its brackets, as code."""
  found, at = [], 0
  for match in re.finditer(r"(?<![\w`])O\(", text):
    if match.start() < at or text.count("`", 0, match.start()) % 2:
      continue
    end = _closed(text, match.end())
    found += [text[at : match.start()], f"`{text[match.start() : end]}`"]
    at = end
  return "".join([*found, text[at:]])


def _closed(text: str, start: int) -> int:
  """Returns where the bracket that was opened before `start` is closed."""
  depth = 1
  for end in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[end], 0)
    if not depth:
      return end + 1
  return len(text)
