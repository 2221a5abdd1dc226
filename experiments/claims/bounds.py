"""Numbers beside bounds, as claims were before the protocol of `experiments.claims`."""

import dataclasses

REPORTED = "reported"  # the rule of a number that has no bound


@dataclasses.dataclass(frozen=True)
class Bound:
  """A statement of a paper and its measurement here.

  Attributes:
    name: the statement, in a few words.
    measured: the number.
    rule: what the number must satisfy, e.g. "<= 0.125".
    holds: whether it does.
  """

  name: str
  measured: float
  rule: str
  holds: bool


def at_most(name: str, measured: float, bound: float) -> Bound:
  """Returns the claim that a number is not above a bound."""
  return Bound(name, float(measured), f"<= {bound:g}", bool(measured <= bound))


def at_least(name: str, measured: float, bound: float) -> Bound:
  """Returns the claim that a number is not below a bound."""
  return Bound(name, float(measured), f">= {bound:g}", bool(measured >= bound))


def reported(name: str, measured: float) -> Bound:
  """Returns a number without a bound, for the reader to judge."""
  return Bound(name, float(measured), REPORTED, True)
