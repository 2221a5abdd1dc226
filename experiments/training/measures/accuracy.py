"""The share of labels that are hit."""

BETTER = max


def value(totals: dict[str, float]) -> float:
  """Returns hits over labels."""
  return totals["hits"] / max(totals["count"], 1.0)
