"""A paired bootstrap: what a policy loses at most, and the sparsest that loses nothing.

A loss is a row's score under full attention less its score under the policy; rows are
drawn again, with both their scores. Bradley Efron, Robert Tibshirani. An Introduction
to the Bootstrap. 1993, chapter 13 (percentile intervals). The bound is that of
`sparse_frontier`, the tests of budgets one after the other are ours.
"""

from collections.abc import Sequence

import numpy as np

from attnjax import contract

LEVEL, RESAMPLES = 0.95, 10_000


def upper(
  losses: Sequence[float],
  *,
  level: float = LEVEL,
  resamples: int = RESAMPLES,
  seed: int = 0,
) -> float:
  """Returns a one-sided upper confidence bound of the mean loss.

  Args:
    losses: of rows, at least two.
    level: share of resampled means that the bound exceeds, above 0 and below 1.
    resamples: how often the rows are drawn again, with replacement.
    seed: of the draws.

  Raises:
    ValueError: for fewer rows, and a level out of its range.
  """
  values = np.asarray(losses, np.float64)
  if values.ndim != 1 or values.size < 2:
    raise ValueError(f"losses of the shape {values.shape}; there must be two rows")
  if not 0 < level < 1 or resamples < 1:
    raise ValueError(
      f"level = {level}, resamples = {resamples}; within 0 and 1, and at least 1"
    )
  bound = contract.load("sparse_frontier").statistics.loss_bound
  options = {"level": level, "draws": resamples, "seed": seed}
  return float(bound(values, np.zeros_like(values), **options))


def largest_safe(
  candidates: Sequence[tuple[float, Sequence[float]]],
  *,
  margin: float,
  level: float = LEVEL,
  seed: int = 0,
) -> int | None:
  """Returns the number of the sparsest candidate that is safe, None if none is.

  Candidates are tested from the least sparse on, and the first whose bound exceeds the
  margin ends the tests. So, in such a fixed sequence, the probability that any unsafe
  one passes is at most 1 - level, however many there are.

  Args:
    candidates: (sparsity, losses of rows).
    margin: mean loss that is tolerated.
    level: of the bounds.
    seed: of the draws.
  """
  found = None
  for number in sorted(range(len(candidates)), key=lambda i: candidates[i][0]):
    if upper(candidates[number][1], level=level, seed=seed) > margin:
      break
    found = number
  return found
