"""The table of systems in README.md, made from docstrings and measured claims.

python -m experiments.catalogue    writes the table anew
"""

import json
import re
from pathlib import Path

from attnjax import contract
from experiments.errors import UserError
from experiments.evidence import REPORTED

_BEGIN, _END = "<!-- systems -->", "<!-- end of systems -->"


def check(root: Path) -> None:
  """Raises UserError if a folder has no README.md and results to keep claims in."""
  path = root / "README.md"
  if not path.is_file():
    raise UserError(f"--root {root}: there is no README.md")
  text = path.read_text(encoding="utf-8")
  if text.count(_BEGIN) != 1 or _END not in text.partition(_BEGIN)[2]:
    raise UserError(f"{path} has no place for the table: {_BEGIN} ... {_END}")
  try:
    held = read(root)
  except ValueError as error:
    raise UserError(f"results/claims.json of {root} cannot be read: {error}") from None
  if not isinstance(held, dict):
    raise UserError(f"results/claims.json of {root} holds no JSON object")


def keep(root: Path, slug: str, claims: list[dict], seconds: int) -> None:
  """Writes a system's measured claims to results/claims.json and the README's table."""
  path = root / "results" / "claims.json"
  held = read(root)
  held[slug] = {"seconds": seconds, "claims": claims}
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(dict(sorted(held.items())), indent=2) + "\n")
  write(root)


def read(root: Path) -> dict:
  """All measured claims, by slug."""
  path = root / "results" / "claims.json"
  return json.loads(path.read_text()) if path.exists() else {}


def write(root: Path) -> None:
  """Puts the table between its marks in README.md."""
  path = root / "README.md"
  text = path.read_text(encoding="utf-8")
  before, rest = text.split(_BEGIN)
  after = rest.split(_END)[1]
  path.write_text(f"{before}{_BEGIN}\n{table(root)}{_END}{after}", encoding="utf-8")


def table(root: Path) -> str:
  """One row a system: file, paper, measured claims."""
  measured, rows = read(root), []
  for slug, module in contract.systems().items():
    lines = (contract.load(slug).__doc__ or "").strip().splitlines()
    paper = re.search(r"arXiv:(\d{4}\.\d{4,5})", " ".join(lines))
    number = paper.group(1) if paper else ""
    link = f"[{number}](https://arxiv.org/abs/{number})" if number else ""
    claims = measured.get(slug, {}).get("claims", [])
    bound = [_words(claim) for claim in claims if claim["rule"] != REPORTED]
    words = "<br>".join(bound) or "not measured"
    path = module.replace(".", "/")
    where = path if (root / path).is_dir() else f"{path}.py"
    rows.append(f"| [`{slug}`]({where}) | {lines[0].rstrip('.')} | {link} | {words} |")
  head = "| system | what it is | paper | claims: measured (rule) |\n"
  return head + "|---|---|---|---|\n" + "".join(f"{row}\n" for row in rows)


def _words(claim: dict) -> str:
  text = f"{claim['name']}: {claim['measured']:g} ({claim['rule']})"
  return text if claim["holds"] else f"**does not hold** {text}"


if __name__ == "__main__":
  write(Path(__file__).parent.parent)
