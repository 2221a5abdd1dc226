"""Measures the papers' claims and keeps the numbers.

  python -m experiments.claims gated_attention lightning2
  python -m experiments.claims --all

Each system's claims are in configs/claims/<slug>.py. The numbers go to
results/claims.json, and from there into the table of README.md.
"""

import argparse
import importlib
import pkgutil
import sys
import time
from pathlib import Path

import configs.claims
from attnjax import contract
from experiments import catalogue, errors
from experiments.evidence import REPORTED

_ROOT = Path(__file__).parent.parent


def main(argv: list[str] | None = None) -> int:
  """Prints measured beside expected; status 1 if a claim does not hold."""
  known = sorted(m.name for m in pkgutil.iter_modules(configs.claims.__path__))
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("slug", nargs="*", help=f"of: {', '.join(known)}")
  parser.add_argument("--all", action="store_true", help="all systems")
  parser.add_argument(
    "--root", type=Path, default=_ROOT, help="the folder of README.md and results/"
  )
  flags = parser.parse_args(argv)
  slugs = known if flags.all else flags.slug
  if not slugs:
    raise errors.UserError("no system named; give slugs, or --all")
  for slug in slugs:
    if slug not in known:
      raise errors.UserError(contract.unknown("system with claims", slug, known))
  catalogue.check(flags.root)  # before anything is measured, which takes minutes
  held = [_measure(slug, flags.root) for slug in slugs]
  return 0 if all(held) else 1


def _measure(slug: str, root: Path) -> bool:
  """Prints the claims of a system as they are measured, and keeps them."""
  print(slug, flush=True)
  start, found = time.monotonic(), []
  for claim in importlib.import_module(f"configs.claims.{slug}").claims():
    bound = "" if claim.rule == REPORTED else f" {claim.rule}"
    verdict = bound and (" holds" if claim.holds else " DOES NOT HOLD")
    print(f"  {claim.name}: {claim.measured:.4g}{bound}{verdict}", flush=True)
    found.append(
      {
        "name": claim.name,
        "measured": float(f"{claim.measured:.4g}"),
        "rule": claim.rule,
        "holds": claim.holds,
      }
    )
  seconds = time.monotonic() - start
  print(f"  measured in {seconds:.0f} s", flush=True)
  catalogue.keep(root, slug, found, round(seconds))
  return all(claim["holds"] for claim in found)


if __name__ == "__main__":
  sys.exit(errors.guard(main))
