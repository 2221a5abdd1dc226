"""Pages that are made from the code and from what was measured.

python -m experiments.docs    writes the README's table of families anew
"""

import argparse
import collections
import importlib
import sys
from pathlib import Path

from attnjax import contract
from experiments import errors
from experiments.claims import records
from experiments.errors import UserError

_BEGIN, _END = "<!-- systems -->", "<!-- end of systems -->"
_ROOT = Path(__file__).parent.parent


def main(argv: list[str] | None = None) -> int:
  """Writes what is generated, in the folder that it is for."""
  parser = argparse.ArgumentParser(
    prog="python -m experiments.docs",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--root", type=Path, default=_ROOT, help="of README.md")
  flags = parser.parse_args(argv)
  write(flags.root)
  return 0


def write(root: Path) -> None:
  """Puts the table of families between its marks in README.md.

  Raises:
    UserError: if there is no README.md, or no place for the table in it.
  """
  path = root / "README.md"
  if not path.is_file():
    raise UserError(f"--root {root}: there is no README.md")
  text = path.read_text(encoding="utf-8")
  if text.count(_BEGIN) != 1 or _END not in text.partition(_BEGIN)[2]:
    raise UserError(f"{path} has no place for the table: {_BEGIN} ... {_END}")
  before, rest = text.split(_BEGIN)
  after = rest.split(_END)[1]
  path.write_text(f"{before}{_BEGIN}\n{table(root)}{_END}{after}", encoding="utf-8")


def families() -> dict[str, list[str]]:
  """Returns the slugs of the systems of each family, by the families' folders."""
  found: dict[str, list[str]] = collections.defaultdict(list)
  for slug, module in contract.systems().items():
    found[module.rpartition(".")[0]].append(slug)
  return dict(sorted(found.items()))


def table(root: Path) -> str:
  """Returns one row a family: what it is, its systems, what came of their claims."""
  lines = ["| family | what it is | systems | claims |", "|---|---|---|---|"]
  for package, slugs in families().items():
    first = (importlib.import_module(package).__doc__ or "").strip().splitlines()[0]
    counts: collections.Counter[str] = collections.Counter()
    for slug in slugs:
      counts.update(records.verdicts(records.read(root, slug)))
    links = ", ".join(f"[`{slug}`]({_place(root, package, slug)})" for slug in slugs)
    said = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    name = package.rpartition(".")[2]
    lines.append(f"| {name} | {first.rstrip('.')} | {links} | {said} |")
  return "\n".join(lines) + "\n"


def _place(root: Path, package: str, slug: str) -> str:
  path = f"{package}.{slug}".replace(".", "/")
  return path if (root / path).is_dir() else f"{path}.py"


if __name__ == "__main__":
  sys.exit(errors.guard(main))
