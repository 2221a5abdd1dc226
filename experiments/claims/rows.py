"""Rows of claims that small models are trained for, by `experiments.small`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from experiments import small
from experiments.claims.claim import Row, Score


def trained(
  name: str,
  kind: str,
  build: Callable[[jax.Array], Any],
  problem: small.Problem,
  recipe: small.Recipe,
) -> Row:
  """Returns a row whose models are trained together, and scored on test data.

  A row that several claims share is trained once.

  Args:
    name: in the table.
    kind: one of `experiments.claims.claim.KINDS`.
    build: random key -> model.
    problem: what it learns; its score is the claim's number.
    recipe: how it is trained.
  """
  known: dict[tuple[float, int], Score] = {}

  def train(runs: Sequence[tuple[float, int]]) -> list[Score]:
    missing = [run for run in runs if run not in known]
    if missing:
      known.update(zip(missing, _scores(build, problem, recipe, missing)))
    return [known[run] for run in runs]

  return Row(name, kind, train)


def untrained(
  name: str, build: Callable[[jax.Array], Any], problem: small.Problem
) -> Row:
  """Returns a "broken" row: models as they are drawn, which know nothing."""
  return trained(name, "broken", build, problem, small.Recipe(steps=0))


def _scores(build, problem, recipe, runs: Sequence[tuple[float, int]]) -> list[Score]:
  found = small.train(build, problem, recipe, runs)
  splits = [small.scores(found, problem, runs, s) for s in ("test", "validation")]
  return [Score(test, held, found.parameters) for test, held in zip(*splits)]
