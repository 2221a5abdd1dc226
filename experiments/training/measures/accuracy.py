"""The share of labels that are predicted right."""

BETTER = max


def value(totals: dict[str, float]) -> float:
  """Returns hits over labels."""
  return totals["hits"] / max(totals["count"], 1.0)
