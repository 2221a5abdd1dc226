"""The frame of an HTML page that needs nothing but itself."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.errors import UserError

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2126; --soft: #5b6670; --paper: #ffffff; --card: #f4f6f8;
  --line: #d9dfe4; --good: #0b6b46; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e8eb; --soft: #9aa6b0; --paper: #14181c; --card: #1d2328;
    --line: #343d45; --good: #5fd3a2; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 80rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 0.25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 0.5rem; }
p { margin: 0 0 0.75rem; max-width: 45rem; }
.soft, figcaption, caption, dt { color: var(--soft); }
.cards { display: grid; gap: 0.75rem; margin: 1.5rem 0 0;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.cards div { background: var(--card); border-radius: 0.5rem; padding: 0.6rem 0.8rem; }
.cards dt { font-size: 0.8rem; }
.cards dd { margin: 0; font-size: 1.25rem; font-weight: 600; overflow-wrap: anywhere; }
.charts { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.chart { width: 100%; max-width: 36rem; height: auto; color: var(--ink); }
.scroll { overflow-x: auto; }
section > .scroll, section > .charts { margin-top: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: 0.875rem; }
caption { text-align: left; padding-bottom: 0.4rem; font-size: 0.9rem; }
th, td { padding: 0.35rem 0 0.35rem 0.75rem; border-bottom: 1px solid var(--line);
  text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; padding-right: 0.5rem;
  position: sticky; left: 0; background: var(--paper); }
thead th { vertical-align: bottom; font-size: 0.8rem; color: var(--soft);
  white-space: normal; }
tbody th { font-weight: 500; }
td.best { color: var(--good); font-weight: 700; }
.settings { columns: 20rem; column-gap: 2.5rem; margin: 0; font-size: 0.9rem; }
.settings div { display: flex; gap: 1rem; justify-content: space-between;
  break-inside: avoid; border-bottom: 1px solid var(--line); padding: 0.2rem 0; }
.settings dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
pre { background: var(--card); border-radius: 0.5rem; padding: 0.9rem 1rem;
  font: 0.85rem/1.5 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { font-size: 0.8rem; padding-top: 0.2rem; }
.pictures { display: grid; gap: 0.9rem;
  grid-template-columns: repeat(auto-fill, minmax(4.5rem, 1fr)); }
.rows { display: grid; gap: 1.25rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.beside { display: grid; gap: 0.4rem; grid-auto-flow: column; grid-auto-columns: 1fr; }
.maps { display: grid; gap: 0.9rem;
  grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.maps + .maps { margin-top: 0.9rem; }
.pixels { width: 100%; height: auto; image-rendering: pixelated; display: block;
  border: 1px solid var(--line); }
.wrong { color: var(--bad); font-weight: 600; }
"""


def page(title: str, *parts: str) -> str:
  """Returns a whole page; `parts` are elements, the title is text."""
  body = "\n".join(part for part in parts if part)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
    f"<body>\n{body}\n</body>\n</html>\n"
  )


def escape(value: object) -> str:
  """Escapes text for HTML, also in attributes."""
  return html.escape(str(value))


def section(title: str, *parts: str) -> str:
  """Returns a section with a heading, or "" if it has no content."""
  body = "\n".join(part for part in parts if part)
  return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def paragraph(text: str) -> str:
  """Returns text as a paragraph in the quieter colour."""
  return f'<p class="soft">{escape(text)}</p>'


def pairs(kind: str, rows: Iterable[tuple[str, str]]) -> str:
  """Returns a list of names with values; kind "cards" is large, "settings" is dense."""
  items = "\n".join(
    f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    for name, value in rows
  )
  return f'<dl class="{kind}">\n{items}\n</dl>' if items else ""


def table(
  caption: str,
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  best: frozenset[tuple[int, int]] = frozenset(),
) -> str:
  """Returns a table whose first column names the rows.

  Args:
    caption: what the table says.
    head: the names of the columns.
    rows: their cells, as text.
    best: (row, column) of the cells that are marked as best, from 0.
  """
  columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
  lines = []
  for i, (first, *rest) in enumerate(rows):
    cells = "".join(
      f'<td class="best">{escape(cell)} ★</td>'
      if (i, j) in best
      else f"<td>{escape(cell)}</td>"
      for j, cell in enumerate(rest, start=1)
    )
    lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
  # The focus lets a keyboard scroll what is too wide.
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
    f"<table>\n<caption>{escape(caption)}</caption>\n"
    f"<thead><tr>{columns}</tr></thead>\n<tbody>\n"
    + "\n".join(lines)
    + "\n</tbody></table></div>"
  )


def figure(element: str, caption: str, kind: str = "") -> str:
  """Returns a picture with text below it; kind is a class of the text."""
  kind = f' class="{kind}"' if kind else ""
  caption = f"<figcaption{kind}>{escape(caption)}</figcaption>" if caption else ""
  return f"<figure>{element}{caption}</figure>"


def grid(kind: str, figures: Iterable[str]) -> str:
  """Arranges figures side by side; kind is a class: "charts", "maps", "rows"..."""
  body = "\n".join(f for f in figures if f)
  return f'<div class="{kind}">\n{body}\n</div>' if body else ""


def save(path: Path, text: str) -> None:
  """Writes the page so that a reader finds the old or the new one, never a part.

  Raises UserError if the file cannot be written.
  """
  temporary = path.with_name(path.name + ".new")
  try:
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
  except OSError as error:
    raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from None
