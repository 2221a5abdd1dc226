"""Reports of analyses as the types of JSON: lists, numbers, None where undefined."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(report: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a report's arrays as lists, and None for what is not a number.

  Args:
    report: names to arrays of floats, integers or booleans, numbers, and words.

  Raises:
    TypeError: for another value, with its name.
    ValueError: for an infinite number, which JSON lacks.
  """
  return {name: _plain(name, value) for name, value in report.items()}


def _plain(name, value):
  if isinstance(value, str):
    return value
  array = np.asarray(value)
  if array.dtype.kind not in "fiub":
    raise TypeError(f"report {name!r} is {type(value).__name__}: arrays and numbers go")
  if array.dtype.kind == "f" and np.isinf(array).any():
    raise ValueError(f"report {name!r} holds an infinity; JSON has none")
  return _defined(array.tolist())


def _defined(value):
  if isinstance(value, list):
    return [_defined(entry) for entry in value]
  return None if isinstance(value, float) and math.isnan(value) else value
