"""Reads docstrings: title, paragraphs and equations, arguments by their names."""

import dataclasses
import re
import textwrap
from collections.abc import Iterable, Iterator

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
_DEFINED = re.compile(r"([a-z_]+(?:, [a-z_]+)*)( +)(\w.*)$")
_ITEM = re.compile(r" (?=- )")
_NAMED = re.compile(r"  (\*{0,2}\w+(?:, \w+)*): ?(.*)$")


@dataclasses.dataclass(frozen=True)
class Block:
  """A part of a docstring: it is a paragraph, or lines set as they are written.

  Attributes:
    text: without the indentation; a paragraph, and an item of a list, is one line.
    code: whether the lines stand as they are: equations, tables, programs.
  """

  text: str
  code: bool = False


@dataclasses.dataclass(frozen=True)
class Docstring:
  """The parts that a docstring has.

  Attributes:
    title: the first paragraph, which is a sentence or two.
    blocks: the other paragraphs and equations, up to the first section.
    arguments: maps the names of "Args:" or "Attributes:" to their meanings.
    raises: maps the errors of "Raises:" to their conditions.
    returns: the text of "Returns:", "" if there is none.
  """

  title: str = ""
  blocks: tuple[Block, ...] = ()
  arguments: dict[str, str] = dataclasses.field(default_factory=dict)
  raises: dict[str, str] = dataclasses.field(default_factory=dict)
  returns: str = ""


def read(text: str | None) -> Docstring:
  """Returns a docstring in Google's style, read."""
  lines = _cleaned(text or "")
  sections: dict[str, list[str]] = {"": []}
  name = ""
  for line in lines:
    found = _SECTION.match(line)
    if found:
      name = found[1]
      sections[name] = []
    else:
      sections[name].append(line)
  found = tuple(blocks(sections[""]))
  arguments = sections.get("Args") or sections.get("Attributes") or []
  return Docstring(
    title=found[0].text if found else "",
    blocks=found[1:],
    arguments=_named(arguments),
    raises=_named(sections.get("Raises", [])),
    returns=" ".join(" ".join(sections.get("Returns", [])).split()),
  )


def blocks(lines: list[str]) -> Iterator[Block]:
  """Yields paragraphs, lists and indented runs of lines, in their order."""
  held: list[str] = []
  kind = ""
  for line in [*lines, "", "end"]:
    now = _kind(line, kind)
    if kind and now != kind:
      yield _block(held, kind)
      held = []
    held += [line] if now else []
    kind = now


def defined(found: Iterable[Block]) -> dict[str, str]:
  """Returns names with their meanings of lists `name  meaning`, set as they stand."""
  named: dict[str, str] = {}
  for block in found:
    lines = block.text.splitlines() if block.code else []
    matches = [_DEFINED.match(line) for line in lines]
    # The longest name has one space behind it, if the meanings begin in one column.
    columns = {match.start(3) for match in matches if match and len(match[2]) > 1}
    names: list[str] = []
    for line, match in zip(lines, matches):
      if match and (len(match[2]) > 1 or match.start(3) in columns):
        names = match[1].split(", ")
        named |= {name: match[3] for name in names}
      elif line.startswith("  "):
        named |= {name: f"{named[name]} {line.strip()}" for name in names}
      else:
        names = []
  return named


def _kind(line: str, before: str) -> str:
  """Tells the kind of a line: "text", "list", "code", or "" between blocks."""
  if not line.strip():
    return before if before == "code" else ""
  if line.startswith("- ") or (before == "list" and line.startswith("  ")):
    return "list"
  return "code" if line.startswith("  ") else "text"


def _block(lines: list[str], kind: str) -> Block:
  if kind == "code":
    return Block(textwrap.dedent("\n".join(lines)).strip("\n"), code=True)
  text = " ".join(" ".join(lines).split())
  return Block("\n".join(_ITEM.split(text)) if kind == "list" else text)


def _cleaned(text: str) -> list[str]:
  """Returns the lines; those after the first lose their common indentation."""
  first, _, rest = text.strip().partition("\n")
  return [first, *textwrap.dedent(rest).splitlines()]


def _named(lines: list[str]) -> dict[str, str]:
  """Maps names to texts; deeper indentation continues a text."""
  found: dict[str, str] = {}
  names: list[str] = []
  for line in lines:
    match = _NAMED.match(line)
    if match:
      names = match[1].split(", ")
      found |= {name.lstrip("*"): match[2].strip() for name in names}
    elif line.strip():
      found |= {n.lstrip("*"): f"{found[n.lstrip('*')]} {line.strip()}" for n in names}
  return found
