"""Rectified SpaAttn where blocks fill the tokens: as it is by default."""

from collections.abc import Iterator, Mapping

import numpy as np

from tests.golden import rectified_sparse


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  yield from rectified_sparse.compare(arrays, meta, zero_tail=False)
