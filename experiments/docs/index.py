"""Makes the index of all systems, an HTML page that can be searched and filtered."""

import html
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnjax import contract
from experiments.claims import records
from experiments.docs import site
from experiments.docs.systems import System

_FOLDER = Path(__file__).parent
_INTRO = (
  "Published attention mechanisms as pure functions, layers and kernels in JAX, each"
  " beside its definition, held to the authors' code, with the paper's claims measured"
  " again."
)


def page(systems: Sequence[System], pages: dict[str, str], bar: str) -> str:
  """Returns the index.

  Args:
    systems: in their order.
    pages: maps a slug to its page in Markdown, in which words are searched.
    bar: links to the written pages.
  """
  script = (_FOLDER / "index.js").read_text(encoding="utf-8")
  words = {s.slug: _words(s, pages[s.slug]) for s in systems}
  data = json.dumps(words, ensure_ascii=False).replace("<", "\\u003c")
  rows = "\n".join(map(_entry, systems))
  body = (
    f"<h1>attnjax</h1>\n<p>{_INTRO} The softmax engine is"
    " <code>attnjax.dot_product_attention</code>: see"
    ' <a href="masks.html">masks and score functions</a>.'
    f"</p>\n{_find(systems)}\n"
    f'<ul class="results">\n{rows}\n</ul>\n<p class="none" hidden>No system has all of'
    " these words.</p>\n"
    f'<script type="application/json" id="words">{data}</script>\n'
    f"<script>\n{script}</script>"
  )
  style = (_FOLDER / "index.css").read_text(encoding="utf-8")
  return site.page("Systems", body, up="", bar=bar, style=style)


def _find(systems: Sequence[System]) -> str:
  """Returns the search field and the filters."""
  implementations = {impl for s in systems for impl in s.module.IMPLEMENTATIONS}
  forms = {form for s in systems for form in s.module.FORMS}
  known = [f for f in contract.form_names() if f in forms]
  return (
    '<search class="find"><input id="search" type="search" autocomplete="off"'
    ' aria-label="Search all pages of systems" placeholder="Search: a name, a paper,'
    ' an author, an option  ( / )">\n'
    '<form class="filters">\n'
    + _select("family", sorted({s.family for s in systems}))
    + _select("form", [*known, *sorted(forms - set(known))])
    + _select("impl", sorted(implementations), "implementation")
    + '<button type="reset">Clear</button>\n'
    f'<p class="count" aria-live="polite">{len(systems)} systems</p>\n</form></search>'
  )


def _select(name: str, values: Iterable[str], shown: str = "") -> str:
  options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
  return (
    f'<label>{shown or name}<select name="{name}"><option value="">any</option>'
    f"{options}</select></label>\n"
  )


def _entry(system: System) -> str:
  """Returns a system's entry: name, title, paper, verdicts, forms, implementations."""
  forms, impls = system.module.FORMS, system.module.IMPLEMENTATIONS
  tags = [f'<span class="form">{html.escape(form)}</span>' for form in forms]
  tags += [f"<span>{html.escape(impl)}</span>" for impl in impls if impl != "reference"]
  counts = records.verdicts(system.record)
  claims = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
  said = [system.family, *_paper(system), f"claims: {claims}" if claims else ""]
  return (
    f'<li data-slug="{system.slug}" data-family="{system.family}"'
    f' data-form="{" ".join(forms)}" data-impl="{" ".join(impls)}">'
    f'<div><h3><a href="systems/{system.slug}.html">{system.slug}</a></h3>'
    f"<p>{html.escape(system.title)}</p>"
    f'<p class="soft">{" · ".join(filter(None, said))}</p></div>'
    f'<div class="tags">{"".join(tags)}</div></li>'
  )


def _paper(system: System) -> list[str]:
  if system.paper is None:
    return []
  number, year = system.paper
  link = f'<a href="https://arxiv.org/abs/{number}">arXiv:{number}</a>'
  return [f"{year}, {link}"]


def _words(system: System, text: str) -> list[str]:
  """Returns the texts that are searched: name, title, each word of the page once."""
  name = f"{system.slug} {system.slug.replace('_', ' ')}"
  found = re.sub(r"[^\w:/.+-]+", " ", text.lower()).split()
  return [name, system.title.lower(), " ".join(dict.fromkeys(found))]
