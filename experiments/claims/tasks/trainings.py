"""Rows of one training: a model is scored in several ways, one row each.

Interventions and cuts need no training of their own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from experiments import small
from experiments.claims.claim import Row, Score


class Trainings:
  """Models of one kind, trained once for each learning rate and seed.

  Args:
    build: random key -> model, called with a batch.
    problem: what it learns.
    recipe: how.
  """

  def __init__(
    self,
    build: Callable[[jax.Array], nnx.Module],
    problem: small.Problem,
    recipe: small.Recipe,
  ):
    self.build, self.problem, self.recipe = build, problem, recipe
    self._known: dict[tuple[float, int], Any] = {}

  def model(self, run: tuple[float, int]) -> tuple[Any, int]:
    """Returns a trained model and the number of its parameters."""
    if run not in self._known:
      found = small.train(self.build, self.problem, self.recipe, [run])
      one = jax.tree.map(lambda leaf: leaf[0], found.models)
      self._known[run] = one, found.parameters
    return self._known[run]

  def row(self, name: str, kind: str, score: Callable[[Any, Any], Any]) -> Row:
    """Returns a row: `score(model, examples of a split)` of the trained models.

    Args:
      name: in the table.
      kind: one of `experiments.claims.claim.KINDS`.
      score: a function of a model and a batch to the claim's number, not compiled.
    """

    def train(runs: Sequence[tuple[float, int]]) -> list[Score]:
      found = []
      for run in runs:
        model, parameters = self.model(run)
        test, validation = (
          float(score(model, self.problem.examples(run[1], split)))
          for split in ("test", "validation")
        )
        found.append(Score(test, validation, parameters))
      return found

    return Row(name, kind, train)
