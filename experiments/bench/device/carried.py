"""Draws the inputs of cases again, reads exported programs, measures errors."""

import gzip
import zlib
from pathlib import Path

import numpy as np

PLACES = 8192  # elements of a large array that are compared


def inputs(case: dict) -> dict:
  """Draws the arrays of a case from its seed."""
  import ml_dtypes  # noqa: F401  (names bfloat16 to NumPy)

  random, arrays = np.random.default_rng(case["seed"]), {}
  for name, (shape, dtype, draw) in case["inputs"].items():
    match draw:
      case "normal":
        array = random.standard_normal(shape, np.float32)
      case "decay":  # mostly slow, sometimes all is forgotten at once
        array = -(random.exponential(0.5, shape) ** 4)
      case _:  # "ids"
        array = np.sort(random.integers(0, 5, shape), axis=1)
        array[:, -(shape[1] // 10) :] = -1
    arrays[name] = array.astype(dtype)
  return arrays


def checksum(arrays: dict) -> int:
  """Returns the checksum of the inputs, which another NumPy might draw differently."""
  return zlib.crc32(b"".join(a.tobytes() for a in arrays.values()))


def places(size: int):
  """Returns which elements of a flattened array are compared."""
  if size <= PLACES:
    return slice(None)
  return np.sort(np.random.default_rng(size).choice(size, PLACES, replace=False))


def error(got, want) -> float:
  """Returns the largest error of compared elements, over max(1, largest element)."""
  got = np.asarray(got, np.float64).ravel()[places(got.size)]
  finite = np.isfinite(want)
  if not np.array_equal(got[~finite], want[~finite]):
    return float("inf")
  got, want = got[finite], want[finite]
  most = float(np.abs(got - want).max(initial=0) / np.abs(want).max(initial=1))
  return most if np.isfinite(got).all() else float("inf")


def exported(folder: Path, case: dict, kind: str):
  """Reads an export of a case, a function of {input: array} to {output: array}."""
  from jax import export

  data = gzip.decompress((folder / case["files"][kind]).read_bytes())
  return export.deserialize(bytearray(data))


def loaded(folder: Path, case: dict, kind: str):
  """Returns an exported function of a case, {input: array} to {output: array}."""
  return exported(folder, case, kind).call


def given(folder: Path, case: dict) -> dict:
  """Returns a case's inputs: those that were carried along, or drawn again."""
  if "inputs" in case["files"]:
    with np.load(folder / case["files"]["inputs"]) as arrays:
      return dict(arrays)
  drawn = inputs(case)
  if checksum(drawn) != case["checksum"]:
    raise RuntimeError("the inputs are not those of the reference: another NumPy?")
  return drawn
