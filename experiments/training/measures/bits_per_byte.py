"""Cross entropy of bytes in bits."""

import math

BETTER = min


def value(totals: dict[str, float]) -> float:
  """Returns the mean loss in bits."""
  return totals["loss"] / max(totals["count"], 1.0) / math.log(2.0)
