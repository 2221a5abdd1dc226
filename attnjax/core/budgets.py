"""Budgets of cache policies: the number of keys that a share of a row is."""


def keys(fraction: float | int, length: int) -> int:
  """Returns the keys that a query may read, `fraction` of `length`, at least 1.

  Args:
    fraction: above 0, up to 1 for all keys.
    length: places of the row, at least 1.

  Raises:
    ValueError: if one is out of its range.
  """
  if not 0 < fraction <= 1:
    raise ValueError(f"fraction = {fraction}; it must be above 0 and at most 1")
  if length < 1:
    raise ValueError(f"length = {length}; a row has 1 token or more")
  return max(int(fraction * length), 1)
