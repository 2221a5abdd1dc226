"""Points of a frontier: full attention, and policies at budgets or as they are."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from attnjax import policies
from experiments import decoding
from experiments.errors import UserError, one_line

FULL = decoding.FULL


@dataclasses.dataclass(frozen=True)
class Point:
  """A policy in one setting.

  Attributes:
    name: as the user named it, without its budget.
    policy: None for full attention.
    fraction: the budget, a share of the keys; None for a policy as it is.
  """

  name: str
  policy: Any = None
  fraction: float | None = None

  @property
  def label(self) -> str:
    """Returns the name, with the budget."""
    return self.name if self.fraction is None else f"{self.name} @ {self.fraction:g}"


def chosen(
  names: Sequence[str], exact: Sequence[str]
) -> tuple[list[Point], dict[str, str]]:
  """Returns (policies without a budget, reasons why others are left out by name).

  Args:
    names: policies that take budgets, options after a colon; all of the library if
      empty.
    exact: policies as they are, options after a colon.

  Raises:
    UserError: for an unknown policy, option or value; for one of `names` without
      budgets.
  """
  found, left = [], {}
  for name in names or _listed():
    policy = _policy(name)
    if hasattr(policy, "of_fraction"):
      found.append(Point(name, policy, 1.0))
      continue
    reason = "has no `of_fraction`: it takes no budget as a share of the keys"
    if names:
      raise UserError(f"policy {name!r} {reason}; --exact takes it as it is")
    left[name] = reason
  return [*found, *(Point(text, _policy(text)) for text in exact)], left


def _listed() -> list[str]:
  """Returns a name of each policy of the library, the shortest that it has."""
  short: dict[type, str] = {}
  for name in decoding.names():
    kind = type(decoding.policy(name))
    if name != FULL and len(name) < len(short.get(kind, 2 * name)):
      short[kind] = name
  return list(short.values())


def _policy(text: str) -> Any:
  try:
    policy = decoding.policy(text)
  except ValueError as error:
    raise UserError(str(error)) from None
  if policy is None:
    raise UserError(f"policy {text!r} is what all others are compared with")
  return policy


def at(point: Point, fraction: float, length: int) -> Point:
  """Returns the point at a budget; one without a budget, and full, as it is."""
  if point.fraction is None:
    return point
  made = point.policy.of_fraction(fraction, length)
  return Point(point.name, made, fraction)


def spread(
  points: Sequence[Point], fractions: Sequence[float], length: int
) -> list[Point]:
  """Returns full attention, and each point at each budget."""
  found = [Point(FULL)]
  for point in points:
    own = fractions if point.fraction is not None else [0.0]
    found += [at(point, fraction, length) for fraction in own]
  return found


def refusal(policy: Any, cache: Any) -> str:
  """Returns why a policy does not fit a model with this cache; "" if it does."""
  try:
    jax.eval_shape(lambda held: policies.under(policy, held), cache)
  except (NotImplementedError, ValueError) as error:
    return one_line(error)
  return ""
