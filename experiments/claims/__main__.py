"""Measures the papers' claims and keeps the numbers.

  python -m experiments.claims gated_attention lightning2
  python -m experiments.claims --all

What is measured goes to results/claims/<slug>.json; an interrupted measurement goes on
where it was. `python -m experiments.claims --check` compares the records with today's
claim files, and `--register` records claims that nobody has measured yet. See
`experiments.claims` for what a claim is.
"""

import argparse
import pkgutil
import sys
import time
from pathlib import Path
from typing import Any

from attnjax import contract
from experiments import errors
from experiments.claims import measuring, records, systems
from experiments.claims.bounds import REPORTED

_ROOT = Path(__file__).parent.parent.parent


def main(argv: list[str] | None = None) -> int:
  """Prints rows as they are measured, then verdicts; status 1 if a claim fails."""
  known = sorted(m.name for m in pkgutil.iter_modules(systems.__path__))
  parser = argparse.ArgumentParser(
    prog="python -m experiments.claims",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("slug", nargs="*", help=f"of: {', '.join(known)}")
  parser.add_argument("--all", action="store_true", help="all systems")
  parser.add_argument("--check", action="store_true", help="measure nothing; compare")
  parser.add_argument(
    "--register", action="store_true", help="measure nothing; record what is claimed"
  )
  parser.add_argument(
    "--root", type=Path, default=_ROOT, help="the folder of results/ and runs/"
  )
  flags = parser.parse_args(argv)
  slugs = known if flags.all or (flags.check and not flags.slug) else flags.slug
  if not slugs:
    raise errors.UserError("no system named; give slugs, or --all")
  for slug in slugs:
    if slug not in known:
      raise errors.UserError(contract.unknown("system with claims", slug, known))
    records.read(flags.root, slug)  # before anything is measured, which takes minutes
  if flags.check:
    return max(map(len, [_stale(flags.root, slug) for slug in slugs])) > 0
  if flags.register:
    for slug in slugs:
      _register(slug, flags.root)
    return 0
  held = [records.holds(_measure(slug, flags.root)) for slug in slugs]
  return 0 if all(held) else 1


def stale(root: Path, slug: str) -> list[str]:
  """Returns how a system's record differs from its claim file of today."""
  record = records.read(root, slug)
  if not record:
    return [f"{slug}: not measured"]
  claims = getattr(measuring.module(slug), "CLAIMS", None)
  if claims is None or not record.get("protocol"):
    if (claims is None) == (not record.get("protocol")):
      return []
    return [f"{slug}: measured by another protocol than its file has"]
  if record["registration"] != measuring.registration(slug):
    return [f"{slug}: the claim file has changed since it was measured"]
  want = [(c.sentence, getattr(c, "rule", None)) for c in claims]
  got = [(c["sentence"], c.get("rule")) for c in record["claims"]]
  return [] if want == got else [f"{slug}: other claims or rules than measured"]


def _stale(root: Path, slug: str) -> list[str]:
  found = stale(root, slug)
  for line in found:
    print(line)
  return found


def _measure(slug: str, root: Path) -> dict[str, Any]:
  """Measures the claims of a system, prints and keeps them; returns the record."""
  print(slug, flush=True)
  module = measuring.module(slug)
  claims = getattr(module, "CLAIMS", None)
  record = _bounds(module) if claims is None else _by_protocol(slug, claims, root)
  records.write(root, slug, record)
  print(f"  measured in {record['seconds']:.0f} s", flush=True)
  return record


def _register(slug: str, root: Path) -> None:
  """Writes the record of claims that are registered, and not measured yet.

  Raises:
    UserError: if the file has no claims by the protocol, or they are measured.
  """
  claims = getattr(measuring.module(slug), "CLAIMS", None)
  if claims is None:
    raise errors.UserError(f"{slug}: its file has no CLAIMS to register")
  old = records.read(root, slug)
  if old.get("protocol") and not stale(root, slug):
    raise errors.UserError(f"{slug}: its claims are registered, or measured, already")
  found = [measuring.waiting(claim) for claim in claims]
  own = measuring.registration(slug)
  record = {"protocol": records.PROTOCOL, "registration": own, "claims": found}
  records.write(root, slug, record | records.earlier(old))
  print(f"{slug}: registered {len(found)} claims")


def _by_protocol(slug: str, claims, root: Path) -> dict[str, Any]:
  own = measuring.registration(slug)
  kept = measuring.Kept(root / "runs" / "claims" / f"{slug}.jsonl", own)
  found = []
  for number, claim in enumerate(claims):
    print(f" {claim.sentence} ({claim.source})", flush=True)
    one = measuring.measured(claim, number, kept, lambda line: print(line, flush=True))
    print(f"  {one['verdict']}: {one['said']}", flush=True)
    found.append(one)
  record = {"protocol": records.PROTOCOL, "registration": own}
  record |= measuring.surroundings(root) | {"seconds": round(kept.seconds)}
  return record | {"claims": found} | records.earlier(records.read(root, slug), own)


def _bounds(module) -> dict[str, Any]:
  """Measures a module from before the protocol; returns the record."""
  start, found = time.monotonic(), []
  for claim in module.claims():
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
  seconds = round(time.monotonic() - start)
  before = {"protocol": None, "note": records.BEFORE}
  return before | {"seconds": seconds, "claims": found}


if __name__ == "__main__":
  sys.exit(errors.guard(main))
