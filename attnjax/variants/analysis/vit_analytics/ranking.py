"""Orders of heads by importance, and how orders agree."""

import numpy as np
from jaxtyping import Float


def ranked(importance: Float[np.ndarray, "L N"]) -> list[tuple[int, int]]:
  """Returns (layer, head) in the order of importance, the least first."""
  flat = np.argsort(np.asarray(importance).reshape(-1), kind="stable")
  return [divmod(int(i), importance.shape[1]) for i in flat]


def concentration(importance: Float[np.ndarray, "L N"], share: float = 0.25) -> float:
  """Returns the part of the positive importance that the top share of heads has."""
  flat = np.sort(np.maximum(np.asarray(importance, np.float64).reshape(-1), 0))[::-1]
  total = flat.sum()
  return float(flat[: max(1, round(share * flat.size))].sum() / total) if total else 0.0


def rank_correlation(
  one: Float[np.ndarray, "L N"], other: Float[np.ndarray, "L N"]
) -> float:
  """Computes Spearman's rank correlation; equal values share their mean rank."""

  def ranks(x):
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    own = np.cumsum(counts) - (counts + 1) / 2
    return own[place.reshape(-1)]

  pair = [ranks(np.asarray(x).reshape(-1)) for x in (one, other)]
  pair = [x - x.mean() for x in pair]
  length = np.sqrt((pair[0] ** 2).sum() * (pair[1] ** 2).sum())
  return float((pair[0] * pair[1]).sum() / length) if length else float("nan")
