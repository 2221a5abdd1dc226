"""Maps of accuracy over lengths and depths, of policies at one budget."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.data import progress
from experiments.errors import UserError
from experiments.frontier import points, scores
from experiments.frontier.measuring import Run
from experiments.frontier.points import Point

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def lengths_of(run: Run, given: Sequence[int]) -> list[int]:
  """Returns the lengths of a map: those given, or the trained one and its double.

  Raises:
    UserError: for lengths of a data set without the option `length`.
  """
  if given and not run.has("length"):
    raise UserError(
      f"--lengths {list(given)}: data set {run.config.data.name!r} has no `length`"
    )
  if not run.has("length"):
    return []
  trained = int(run.config.data.length)
  return list(given) or [trained, 2 * trained]


def measured(
  run: Run,
  candidates: Sequence[Point],
  *,
  fraction: float,
  lengths: Sequence[int],
  depths: Sequence[float],
  count: int,
) -> list[dict[str, Any]]:
  """Returns a map for full attention and for each policy with a budget.

  Args:
    run: the run.
    candidates: policies; those as they are have no map.
    fraction: their budget, a share of each length.
    lengths: tokens of a row.
    depths: of the needle; ignored where the data set has none.
    count: rows of a cell.

  Returns:
    policy, fraction, lengths, depths (empty without), and means by length and depth
    (one column without): `right`, `exact` and `bits`.
  """
  own = list(depths) if run.has("depth") else []
  asked = [points.Point(points.FULL)]
  asked += [point for point in candidates if point.fraction is not None]
  cells = [(length, depth) for length in lengths for depth in own or [None]]
  means: dict[str, list[Any]] = {point.name: [] for point in asked}
  for length, depth in progress.track(cells, "lengths and depths"):
    changes: dict[str, Any] = {"length": length}
    changes |= {"test_length": 0} if run.has("test_length") else {}
    changes |= {} if depth is None else {"depth": depth}
    prompt = scores.prompt_of(run.rows(count, **changes), 0)
    for point in asked:
      at = points.at(point, fraction, length)
      found = run.scores(at, count, prompt, **changes)
      means[point.name].append({n: float(np.mean(x)) for n, x in found.items()})
  axes = {"lengths": list(lengths), "depths": own}
  return [_map(point, fraction, axes, means[point.name]) for point in asked]


def _map(
  point: Point, fraction: float, axes: dict[str, list], cells: Sequence[dict]
) -> dict[str, Any]:
  """Returns the map of a policy from the means of its cells, one depth by another."""
  shape = len(axes["lengths"]), max(len(axes["depths"]), 1)
  shares = {"policy": point.name, "fraction": fraction if point.policy else None}
  found = {
    name: np.reshape([cell[name] for cell in cells], shape).tolist()
    for name in ("right", "exact", "bits")
  }
  return shares | axes | found
