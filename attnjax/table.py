"""The systems of the catalogue as a table that a notebook shows."""

import functools
import html
import re
from collections.abc import Iterator, Mapping

from attnjax import contract


class Systems(Mapping[str, str]):
  """Maps the slugs of systems to their modules' names; shows itself as a table.

  Nothing is imported before a row is shown or a filter asks for it.
  """

  def __init__(self, modules: Mapping[str, str]):
    self._modules = dict(modules)

  def __getitem__(self, slug: str) -> str:
    return self._modules[slug]

  def __iter__(self) -> Iterator[str]:
    return iter(self._modules)

  def __len__(self) -> int:
    return len(self._modules)

  def rows(self) -> list[dict[str, str]]:
    """Returns slug, family, title, paper, forms and implementations of each system."""
    return [_row(slug, name) for slug, name in self._modules.items()]

  def __repr__(self) -> str:
    rows = self.rows()
    if not rows:
      return "no systems"
    widths = {n: max(len(n), *(len(r[n]) for r in rows)) for n in _SHOWN}
    lines = [{n: n for n in _SHOWN}, *rows]
    return "\n".join(
      "  ".join(line[n].ljust(widths[n]) for n in _SHOWN).rstrip() for line in lines
    )

  def _repr_html_(self) -> str:
    head = "".join(f"<th>{name}</th>" for name in _SHOWN)
    body = "".join(
      "<tr>" + "".join(f"<td>{_cell(row, name)}</td>" for name in _SHOWN) + "</tr>"
      for row in self.rows()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_SHOWN = ("slug", "family", "forms", "implementations", "title")


def systems(
  *, family: str | None = None, form: str | None = None, impl: str | None = None
) -> Systems:
  """Returns the systems, all or those of a family, a form or an implementation.

  Args:
    family: a folder of `attnjax.variants`: "softmax", "linear", ...
    form: how a system plugs in: "causal", "sequence", "image", ...
    impl: "xla", "pallas", "triton", ...

  Raises:
    ValueError: for an unknown family or form, with the nearest names.
  """
  found = Systems(contract.systems())
  if family is not None:
    known = {name.split(".")[-2] for name in found.values()}
    contract.check_known("family", family, known)
  if form is not None:
    contract.check_known("form", form, contract.form_names())
  if family is form is impl is None:
    return found

  def fits(slug, name) -> bool:
    if family is not None and name.split(".")[-2] != family:
      return False
    if form is None and impl is None:
      return True
    module = contract.load(slug)
    return (form is None or form in module.FORMS) and (
      impl is None or impl in module.IMPLEMENTATIONS
    )

  return Systems({slug: name for slug, name in found.items() if fits(slug, name)})


@functools.cache
def _row(slug: str, name: str) -> dict[str, str]:
  module = contract.load(slug)
  text = (module.__doc__ or "").strip()
  paper = re.search(r"arXiv:(\d{4}\.\d{4,5})", " ".join(text.splitlines()))
  return {
    "slug": slug,
    "family": name.split(".")[-2],
    "title": text.splitlines()[0].rstrip(".") if text else "",
    "paper": paper.group(1) if paper else "",
    "forms": ", ".join(module.FORMS),
    "implementations": ", ".join(module.IMPLEMENTATIONS),
  }


def _cell(row: dict[str, str], name: str) -> str:
  text = html.escape(row[name])
  if name == "title" and row["paper"]:
    return f'<a href="https://arxiv.org/abs/{row["paper"]}">{text}</a>'
  return text
