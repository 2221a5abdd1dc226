"""Statistics of sparse attention: a paired test of losses, and a law of accuracies."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def max_safe_sparsity(
  dense: Any,
  sparse: Mapping[float, Any],
  *,
  margin: float = 0.01,
  level: float = 0.95,
  draws: int = 10_000,
  seed: int = 0,
) -> float:
  """Returns the largest sparsity that loses at most the margin; 0 if none does.

  One-sided paired bootstrap: with the probability `level` the mean loss of a sample,
  dense less sparse, is at most `margin`. The test is this library's, after the paper's
  abstract; few samples prove nothing, and then nothing is safe.

  Args:
    dense: (M,), scores of samples with full attention.
    sparse: sparsity to the scores (M,) of the same samples.
    margin: in the unit of the scores, a point of accuracy.
    level: of the bound.
    draws: of samples, with replacement.
    seed: of the draws.

  Raises:
    ValueError: for scores of other samples, and none.
  """
  safe = [
    s
    for s, scores in sparse.items()
    if loss_bound(dense, scores, level=level, draws=draws, seed=seed) <= margin
  ]
  return max(safe, default=0.0)


def loss_bound(
  dense: Any, sparse: Any, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> float:
  """Returns the bound of the mean loss of samples, dense less sparse, by a bootstrap.

  Args:
    dense: (M,).
    sparse: (M,), of the same samples.
    level: the share of the draws whose mean loss is at most the bound.
    draws: as in `max_safe_sparsity`, and so is the seed.
    seed: of the draws.
  """
  one, two = np.asarray(dense, np.float64), np.asarray(sparse, np.float64)
  if one.ndim != 1 or not one.size or one.shape != two.shape:
    raise ValueError(
      f"scores {one.shape} and {two.shape}; both are of the same samples"
    )
  loss = one - two
  draw = np.random.default_rng(seed)
  means = [loss[draw.integers(loss.size, size=loss.size)].mean() for _ in range(draws)]
  return float(np.quantile(means, level))


@dataclasses.dataclass(frozen=True)
class Law:
  """logit(accuracy) = a[task] + a sum of factors times log P, log L, log 1 / (1 - s).

  Attributes:
    tasks: names, one constant each.
    constants: of the tasks.
    factors: of the terms of `_terms`.
    interactions: whether there are products of two terms.
  """

  tasks: tuple[str, ...]
  constants: tuple[float, ...]
  factors: tuple[float, ...]
  interactions: bool

  def predict(self, task: Any, parameters: Any, length: Any, sparsity: Any) -> Any:
    """Returns accuracies, (M,); the arguments are as `fit_logit_linear` has them.

    Raises:
      ValueError: for a task that was not fitted.
    """
    design = _design(
      self.tasks, task, _terms(parameters, length, sparsity, self.interactions)
    )
    return 1 / (1 + np.exp(-design @ np.array([*self.constants, *self.factors])))


def fit_logit_linear(
  task: Sequence[str] | np.ndarray,
  parameters: Any,
  length: Any,
  sparsity: Any,
  accuracy: Any,
  *,
  interactions: bool = False,
) -> Law:
  """Fits accuracies over models, lengths and sparsities by least squares of logits.

  The paper's first version has such a law without its form; this one is ours.

  Args:
    task: (M,), names.
    parameters: (M,), P of the model.
    length: (M,), L, tokens.
    sparsity: (M,), s < 1.
    accuracy: (M,), taken from 0.01 to 0.99.
    interactions: whether products of two of the logarithms are terms, too.

  Raises:
    ValueError: for a sparsity of 1 or more.
  """
  tasks = tuple(sorted(set(task)))
  design = _design(tasks, task, _terms(parameters, length, sparsity, interactions))
  share = np.clip(np.asarray(accuracy, np.float64), 0.01, 0.99)
  found = np.linalg.lstsq(design, np.log(share / (1 - share)), rcond=None)[0]
  constants, factors = (tuple(map(float, x)) for x in np.split(found, [len(tasks)]))
  return Law(tasks, constants, factors, interactions)


def errors(predicted: Any, accuracy: Any) -> tuple[float, float]:
  """Returns (R^2, mean absolute error) of predictions, of what a fit has not seen.

  R^2 = 1 - sum (a - p)^2 / sum (a - mean a)^2; it is below 0 if the mean is better.
  """
  p, a = np.asarray(predicted, np.float64), np.asarray(accuracy, np.float64)
  rest, whole = ((a - p) ** 2).sum(), ((a - a.mean()) ** 2).sum()
  return float(1 - rest / whole), float(np.abs(a - p).mean())


def held_out(parameters: Any, length: Any, sparsity: Any) -> np.ndarray:
  """Returns which points a fit must not see: of the largest model, length or sparsity.

  Args:
    parameters: (M,).
    length: (M,).
    sparsity: (M,).
  """
  each = (np.asarray(x, np.float64) for x in (parameters, length, sparsity))
  return np.logical_or.reduce([x == x.max() for x in each])


def _terms(parameters, length, sparsity, interactions: bool) -> np.ndarray:
  """Returns the terms, (M, 3) or (M, 6)."""
  P, L, s = (np.asarray(x, np.float64) for x in (parameters, length, sparsity))
  if (s >= 1).any():
    raise ValueError(f"sparsity = {s.max()}; below 1, something is read")
  terms = [np.log(P), np.log(L), -np.log1p(-s)]
  if interactions:
    terms += [terms[0] * terms[1], terms[0] * terms[2], terms[1] * terms[2]]
  return np.stack(np.broadcast_arrays(*terms), axis=-1)


def _design(tasks, task, terms) -> np.ndarray:
  """Returns the matrix of a constant for each task, and the terms."""
  unknown = sorted(set(task) - set(tasks))
  if unknown:
    raise ValueError(f"tasks {unknown} were not fitted; there are {', '.join(tasks)}")
  own = np.array([[one == name for name in tasks] for one in task], np.float64)
  return np.concatenate([own, terms], axis=1)
