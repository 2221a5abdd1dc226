"""Pareto fronts of costs and scores."""

from collections.abc import Sequence

import numpy as np


def pareto(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
  """Returns the points that none beats, by their numbers, the cheapest first.

  A point is beaten by one of no higher cost and no lower score that differs from it;
  of equal points the first stays. A point whose cost is NaN is not on the front.

  Args:
    costs: less is better.
    scores: more is better.
  """
  cost, score = (np.asarray(x, np.float64) for x in (costs, scores))
  order = np.lexsort((np.arange(cost.size), -score, cost))
  front, best = [], -np.inf
  for number in order:
    if not np.isnan(cost[number]) and score[number] > best:
      front.append(int(number))
      best = score[number]
  return front
