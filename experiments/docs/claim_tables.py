"""Tables of a system's claims, which show every row that was measured."""

from collections.abc import Iterator
from typing import Any

from experiments.claims import claim, records
from experiments.claims.bounds import REPORTED
from experiments.docs import markdown
from experiments.docs.docstrings import Block
from experiments.docs.systems import System

_HEAD = ("claim", "source", "measured", "unit", "bound or control", "verdict")
_NONE = "-"


def section(system: System) -> str:
  """Returns the section "Claims": what is claimed, what came out, and every row."""
  record = system.record
  if not record.get("claims"):
    again = f"`python -m experiments.claims {system.slug}`"
    return markdown.section("Claims", f"Not measured yet: {again} measures them.")
  claims = record["claims"]
  if record.get("protocol"):
    tables = [markdown.table(_HEAD, map(_registered, claims))]
    tables += [_rows(claim) for claim in claims]
    tables += _earlier(record.get("earlier", []))
  else:
    tables = [markdown.table(_HEAD, map(_bounded, claims))]
  said = markdown.blocks(_told(system))
  return markdown.section("Claims", said, _summary(record), *tables, _measured(system))


def _earlier(claims: list[dict[str, Any]]) -> Iterator[str]:
  """Yields tables of what was measured before the claim file was changed."""
  if claims:
    yield "Measured before the claim file was changed, as it says:"
    yield markdown.table(_HEAD, map(_registered, claims))
    yield from map(_rows, claims)


def _told(system: System) -> Iterator[Block]:
  """Yields the claim file's text, up to the command that measures the claims."""
  for block in system.claimed.blocks:
    if block.code and "experiments.claims" in block.text:
      return
    yield block


def _summary(record: dict[str, Any]) -> str:
  counts = records.verdicts(record)
  words = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
  note = record.get("note", "")
  return f"**{words}**" + (f" ({note})." if note else ".")


def _registered(one: dict[str, Any]) -> tuple[str, ...]:
  """Returns the cells of a claim that was measured by the protocol."""
  return (
    markdown.prose(one["sentence"]),
    markdown.prose(one["source"]),
    markdown.prose(one["said"]),
    markdown.prose(one.get("unit", _NONE)),
    markdown.prose(one.get("rule", _NONE)),
    f"**{one['verdict']}**",
  )


def _bounded(claim: dict[str, Any]) -> tuple[str, ...]:
  """Returns the cells of a number beside its bound, from before the protocol."""
  if claim["rule"] == REPORTED:
    rule, verdict = _NONE, "no bound"
  else:
    rule = f"`{claim['rule']}`"
    verdict = "within" if claim["holds"] else "**outside**"
  return (
    markdown.prose(claim["name"]),
    markdown.prose(claim.get("source", _NONE)),
    markdown.number(claim["measured"]),
    markdown.prose(claim.get("unit", _NONE)),
    rule,
    verdict,
  )


def _rows(claim: dict[str, Any]) -> str:
  """Returns a table of a claim's rows: models over seeds, or costs over sizes."""
  if not claim.get("rows"):
    return ""
  title = markdown.prose(claim["sentence"])
  body = _costs(claim) if "sizes" in claim else _qualities(claim)
  return f"*{title}*\n\n{body}"


def _qualities(claim: dict[str, Any]) -> str:
  head = ("row", "kind", "parameters", "rate", f"mean [{claim['unit']}]", "each seed")
  return markdown.table(head, _seeds(claim["rows"]))


def _seeds(rows: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
  for row in rows:
    values = row["values"]
    yield (
      markdown.prose(row["name"]),
      row["kind"],
      markdown.number(row["parameters"]),
      f"{row['rate']:g}",
      markdown.number(sum(values) / len(values)),
      ", ".join(map(markdown.number, values)),
    )


def _costs(claim: dict[str, Any]) -> str:
  sizes = [f"at {size:,} [{claim['unit']}]" for size in claim["sizes"]]
  rows = (
    (markdown.prose(row["name"]), row["kind"], *map(markdown.number, row["values"]))
    for row in claim["rows"]
  )
  return markdown.table(("row", "kind", *sizes), rows)


def _measured(system: System) -> str:
  """Says how long measuring took, on which machine, at which commit."""
  record = system.record
  if claim.WAITING in records.verdicts(record):
    file = f"[claim file](../../experiments/claims/systems/{system.slug}.py)"
    again = f"`python -m experiments.claims {system.slug}`"
    return f"Registered by the {file}, not measured yet: {again} measures."
  said = [f"Measured in {record.get('seconds', 0):,} s"]
  if record.get("machine"):
    said.append(f"on {record['machine']}")
  if record.get("commit"):
    said.append(f"at commit `{record['commit'][:12]}`")
  versions = record.get("versions", {})
  if versions:
    said.append(f"with {', '.join(f'{n} {v}' for n, v in versions.items())}")
  slug = system.slug
  links = (
    f"the [record](../../results/claims/{slug}.json) and"
    f" the [claim file](../../experiments/claims/systems/{slug}.py)"
  )
  again = f"`python -m experiments.claims {slug}` measures again."
  return f"{' '.join(said)}: {links}; {again}"
