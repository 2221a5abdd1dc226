r"""Trains several mechanisms in one host, and compares them on one page.

  python -m experiments.sweep --config configs/pyramid.py \
      --mechanisms local,agent_attention --workdir runs/local

A mechanism is a slug, or a family: all systems of that folder of attnjax/variants. Each
is a run of its own in WORKDIR/<slug>, one after the other; --config.NAME=VALUE is for
all of them. The same command goes on after an interruption. A mechanism that the host
cannot take, or whose run fails, is named on the page with the reason.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from attnjax import contract
from experiments import compare, config_file, errors, locking
from experiments.pages import page
from experiments.pages.columns import columns, remarks
from experiments.pages.records import SUMMARY

_REFUSED = 2  # the exit status of a run that says in one line why it cannot be
PAGE = "compare.html"


def main(arguments: Sequence[str] | None = None) -> int:
  """Trains, prints the table, writes the page; returns 1 if nothing was trained."""
  parser = argparse.ArgumentParser(
    prog="python -m experiments.sweep",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--config", required=True, help="a config, without a mechanism")
  parser.add_argument(
    "--mechanisms", required=True, help="slugs and families, with commas between"
  )
  parser.add_argument("--workdir", required=True, type=Path, help="of all runs")
  options, overrides = parser.parse_known_args(arguments)
  for argument in overrides:
    if not argument.startswith("--config."):
      raise errors.UserError(f"argument {argument!r} is no flag; see --help")
  found = chosen(options.mechanisms)
  _check_config(options.config, found)
  with locking.Lock(options.workdir):
    return _sweep(options, overrides, found)


def _sweep(options, overrides, found):
  reasons = {}
  for number, slug in enumerate(found, start=1):
    print(f"{slug} ({number} of {len(found)})", flush=True)
    reason = train(options.config, slug, options.workdir / slug, overrides)
    if reason:
      print(f"left out: {reason}", flush=True)
      reasons[slug] = reason
  trained = [str(options.workdir / slug) for slug in found if slug not in reasons]
  if not trained:
    print("nothing was trained: there is nothing to compare")
    return 1
  report(trained, reasons, options.workdir / PAGE)
  return 0


def _check_config(path: str, slugs: list[str]) -> None:
  """Raises UserError if the config program runs for none of the mechanisms."""
  for slug in slugs[:-1]:
    with contextlib.suppress(errors.UserError):
      config_file.read(f"{path}:{slug}")
      return
  config_file.read(f"{path}:{slugs[-1]}")


def chosen(names: str) -> list[str]:
  """Returns the slugs of "slug,family,..." in that order, a family's sorted by name.

  Raises:
    UserError: for a name that is neither a slug nor a family.
  """
  families: dict[str, list[str]] = {}
  for slug, module in contract.systems().items():
    families.setdefault(module.split(".")[-2], []).append(slug)
  found: dict[str, None] = {}
  for name in (name.strip() for name in names.split(",")):
    if name not in families and name not in contract.systems():
      known = [*families, *contract.systems()]
      raise errors.UserError(contract.unknown("mechanism or family", name, known))
    found |= dict.fromkeys(families.get(name, [name]))
  return list(found)


def train(config: str, slug: str, workdir: Path, overrides: Sequence[str]) -> str:
  """Trains one mechanism to its end; returns why it was refused, or "".

  A separate process holds the memory and the compiled programs of one run only.

  Raises:
    UserError: if the run ends in any other way.
  """
  command = [sys.executable, "-m", "experiments.run", "--config", f"{config}:{slug}"]
  command += ["--workdir", str(workdir), *overrides]
  run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
  message = run.stderr.strip().splitlines()
  if run.returncode == _REFUSED and message:
    return message[-1].removeprefix("error: ")
  if run.returncode or not (workdir / SUMMARY).exists():
    print(run.stderr, file=sys.stderr)
    raise errors.UserError(
      f"the run of {slug} has not finished (status {run.returncode});"
      " the same command goes on"
    )
  return ""


def report(dirs: Sequence[str], reasons: dict[str, str], path: Path) -> None:
  """Prints the table of these runs and writes their page, with what was left out."""
  found = compare.load(dirs)
  table = columns(found)
  notes = [
    *remarks(found),
    *(f"{slug} is left out: {reason}." for slug, reason in reasons.items()),
  ]
  print(compare.text(found, table))
  print("Loss and metrics are of validation; * marks the best of a column.")
  for note in notes:
    print(note)
  page.save(path, compare.html(found, table, notes))
  print(f"page: {path}")


if __name__ == "__main__":
  # So that the run that is under way ends too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
  sys.exit(errors.guard(main))
