"""Renders pages as HTML that needs neither a network nor a server."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.errors import UserError

_FOLDER = Path(__file__).parent
_SHADES = re.compile("[░▒▓█]")
# The pages in the bar above every page, in this order; the rest follows by name.
_FIRST = ("masks", "kernels", "add_a_system", "glossary", "conformance")


def page(
  title: str, body: str, *, up: str, bar: str, contents: str = "", style: str = ""
) -> str:
  """Returns a whole page.

  Args:
    title: text.
    body: HTML.
    up: from the page to the folder docs: "" or "../".
    bar: links to the other pages.
    contents: links to the sections of this page.
    style: more of the style than all pages have.
  """
  css = (_FOLDER / "page.css").read_text(encoding="utf-8") + style
  two = " two" if contents else ""
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)} - attnjax</title>\n<style>\n{css}</style>\n</head>\n"
    '<body>\n<a class="skip" href="#main">To the text</a>\n'
    f'<nav class="bar" aria-label="Pages"><strong><a href="{up}index.html">attnjax</a>'
    f"</strong>{bar}</nav>\n"
    f'<div class="page{two}">\n{contents}<main id="main">\n{body}\n</main>\n</div>\n'
    "</body>\n</html>\n"
  )


def bar(names: Sequence[str], *, up: str, current: str) -> str:
  """Returns the links to the index and to the written pages."""
  order = [n for n in _FIRST if n in names]
  order += sorted(set(names) - set(order))
  links = [("index", "Systems"), *((name, label(name)) for name in order)]
  found = []
  for name, text in links:
    mark = ' aria-current="page"' if name == current else ""
    found.append(f'<a href="{up}{name}.html"{mark}>{html.escape(text)}</a>')
  return "".join(found)


def label(name: str) -> str:
  """Returns the name of a page as words."""
  return name.replace("_", " ").capitalize()


def rendered(text: str, folder: Path) -> tuple[str, str]:
  """Returns (HTML, links to its sections) of a page in Markdown.

  Args:
    text: Markdown.
    folder: that the page is in: links to other pages there lead to their HTML.

  Raises:
    UserError: if the package that reads Markdown is not installed.
  """
  try:
    from markdown_it import MarkdownIt
  except ImportError:
    raise UserError("the HTML needs `pip install -e .[docs]`") from None

  reader = MarkdownIt("commonmark", {"html": True}).enable("table")
  tokens = reader.parse(text)
  sections: list[tuple[str, str]] = []
  for number, token in enumerate(tokens):
    if token.type == "heading_open":
      _anchor(token, tokens[number + 1], sections)
    elif token.type == "inline":
      for child in token.children or ():
        _to_html(child, folder)
  body = reader.renderer.render(list(_scrolling(tokens)), reader.options, {})
  return _drawings(body), _contents(sections)


def _anchor(token: Any, inline: Any, sections: list[tuple[str, str]]) -> None:
  """Gives a heading a name; those of the second level are sections."""
  text = "".join(c.content for c in inline.children or () if c.content)
  name = re.sub(r"[^\w]+", "-", text.lower()).strip("-")
  token.attrSet("id", name)
  if token.tag == "h2":
    sections.append((name, text))


def _to_html(token: Any, folder: Path) -> None:
  """Lets a link to a page lead to its HTML."""
  target = token.attrGet("href") if token.type == "link_open" else None
  if not target or ":" in target:
    return
  path, mark, part = target.partition("#")
  inside = "docs" in (folder / path).resolve().relative_to(folder.anchor).parts[:-1]
  if path.endswith(".md") and inside:
    token.attrSet("href", f"{path.removesuffix('.md')}.html{mark}{part}")


def _scrolling(tokens: Sequence[Any]) -> Iterator[Any]:
  """Puts tables into boxes that scroll, also by the keyboard."""
  from markdown_it.token import Token

  opened = '<div class="scroll" tabindex="0" role="region" aria-label="Table">\n'
  for token in tokens:
    if token.type == "table_open":
      yield Token("html_block", "", 0, content=opened)
    yield token
    if token.type == "table_close":
      yield Token("html_block", "", 0, content="</div>\n")


def _drawings(body: str) -> str:
  """Marks text that draws with shades: its lines must touch."""

  def mark(match: re.Match) -> str:
    kind = ' class="drawing"' if _SHADES.search(match[0]) else ' tabindex="0"'
    return match[0].replace("<pre", f"<pre{kind}", 1)

  return re.sub(r"<pre>.*?</pre>", mark, body, flags=re.DOTALL)


def _contents(sections: Sequence[tuple[str, str]]) -> str:
  if len(sections) < 3:
    return ""
  links = "".join(
    f'<li><a href="#{name}">{html.escape(text)}</a></li>' for name, text in sections
  )
  return f'<nav class="contents" aria-label="On this page"><ul>{links}</ul></nav>\n'
