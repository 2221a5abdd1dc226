"""Makes the pages anew: docs/systems, the parts between marks, and the HTML.

python -m experiments.docs            all of it; then open docs/index.html
python -m experiments.docs halo       the page of that system alone, and the parts
python -m experiments.docs --check    writes nothing; names what is not up to date
"""

import argparse
import sys
from pathlib import Path

from attnjax import contract
from experiments import errors
from experiments.docs import (
  chip_tables,
  decode_tables,
  families,
  growth,
  index,
  kernel_tables,
  marks,
  mask_pictures,
  run_tables,
  site,
  suite_pictures,
  suite_tables,
  system_page,
  systems,
)
from experiments.errors import UserError
from experiments.pages.page import save

_ROOT = Path(__file__).parent.parent.parent


def main(argv: list[str] | None = None) -> int:
  """Writes what is generated; status 1 if a check finds something old."""
  parser = argparse.ArgumentParser(
    prog="python -m experiments.docs",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("slug", nargs="*", help="systems; all, and HTML, if none")
  parser.add_argument("--root", type=Path, default=_ROOT, help="of README.md")
  parser.add_argument("--check", action="store_true", help="write nothing")
  flags = parser.parse_args(argv)
  for slug in flags.slug:
    if slug not in contract.systems():
      raise UserError(contract.unknown("system", slug, contract.systems()))
  root, slugs = flags.root, flags.slug or list(contract.systems())
  texts = written(root)
  for slug in slugs:
    texts |= of_system(root, slug)
  if flags.check:
    return _checked(root, texts)
  _save(texts)
  print(f"{len(texts)} pages and pictures made")
  if not flags.slug:
    _save(as_html(root))
    print(f"for a browser: {root / 'docs' / 'index.html'}")
  return 0


def of_system(root: Path, slug: str) -> dict[Path, str]:
  """Returns the page of a system, and the picture of its cost if that is known."""
  path = system_page.path(root, slug)
  found = {path: system_page.page(systems.read(root, slug))}
  rows = growth.read(root, slug).get("rows")
  if rows:
    found[path.with_suffix(".svg")] = growth.picture(slug, rows)
  return found


def written(root: Path) -> dict[Path, str]:
  """Returns the pages that are written by hand with their parts made anew.

  Raises:
    UserError: if README.md is not there, or has no place for the table of systems.
  """
  readme = root / "README.md"
  if not readme.is_file():
    raise UserError(f"--root {root}: there is no README.md")
  if "<!-- systems -->" not in readme.read_text(encoding="utf-8"):
    raise UserError(f"{readme} has no place for the table: <!-- systems -->")
  found = {}
  for path in [readme, *sorted((root / "docs").glob("*.md"))]:
    up = "" if path == readme else "../"
    parts = {
      "systems": lambda: families.table(root),
      "masks": mask_pictures.table,
      "kernels": lambda up=up: kernel_tables.algorithms(root, up),
      "compiled for TPUs": lambda: kernel_tables.tpu(root),
      "compiled for GPUs": lambda: kernel_tables.gpu(root),
      "timed on the CPU": lambda: kernel_tables.cpu(root),
      "run on chips": lambda: chip_tables.chips(root),
      "timed decoding": lambda: decode_tables.decoded(root),
      "language models": lambda: run_tables.language(root),
      **suite_tables.parts(root),
    }
    text = marks.filled(path, path.read_text(encoding="utf-8"), parts)
    found[path] = marks.with_outputs(text)
  pictures = mask_pictures.files() | suite_pictures.files(root)
  found |= {root / "docs" / name: text for name, text in pictures.items()}
  return found


def as_html(root: Path) -> dict[Path, str]:
  """Returns every page in Markdown that is in docs, and the index, as HTML."""
  folder = root / "docs"
  names = [path.stem for path in sorted(folder.glob("*.md"))]
  found, pages = {}, {}
  for name in names:
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    body, contents = site.rendered(text, folder)
    bar = site.bar(names, up="", current=name)
    title = site.label(name)
    page = site.page(title, body, up="", bar=bar, contents=contents)
    found[folder / f"{name}.html"] = page
  for slug in contract.systems():
    path = system_page.path(root, slug)
    pages[slug] = path.read_text(encoding="utf-8")
    body, contents = site.rendered(pages[slug], path.parent)
    bar = site.bar(names, up="../", current="")
    page = site.page(slug, body, up="../", bar=bar, contents=contents)
    found[path.with_suffix(".html")] = page
  every = [systems.read(root, slug) for slug in contract.systems()]
  bar = site.bar(names, up="", current="index")
  found[folder / "index.html"] = index.page(every, pages, bar)
  return found


def _checked(root: Path, texts: dict[Path, str]) -> int:
  """Prints what differs from the files, and pages of systems that are gone."""
  known = {system_page.path(root, slug).stem for slug in contract.systems()}
  gone = [p for p in (root / "docs" / "systems").glob("*.md") if p.stem not in known]
  old = [path for path, text in texts.items() if _text(path) != text]
  for path in [*old, *gone]:
    print(f"{path} is not up to date: python -m experiments.docs makes it")
  return 1 if old or gone else 0


def _text(path: Path) -> str:
  return path.read_text(encoding="utf-8") if path.is_file() else ""


def _save(texts: dict[Path, str]) -> None:
  for folder in {path.parent for path in texts}:
    folder.mkdir(parents=True, exist_ok=True)
  for path, text in texts.items():
    if _text(path) != text:
      save(path, text)


if __name__ == "__main__":
  sys.exit(errors.guard(main))
