"""A program's operands in the TPU kernels, and the way of each kind into fast memory.

An operand is (B|1, N|1, T|1, S|1). A scalar (neither T nor S) lies in SMEM; a row (T)
or a column (S) is one line of elements, broadcast over lanes inside the kernel when it
must run down the sublanes; a cell (both) is fetched tile by tile.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128


@dataclasses.dataclass(frozen=True)
class Operand:
  """The static description of an operand.

  Attributes:
    kind: "scalar", "row", "column" or "cell".
    batches: size of its batch axis, 1 or B.
    heads: size of its head axis, 1 or N.
    dtype: what the program's functions take it as.
    differentiable: whether it has a gradient.
  """

  kind: str
  batches: int
  heads: int
  dtype: Any
  differentiable: bool

  def line(self, b, n):
    """Returns the operand's batch and head index for (b, n)."""
    return (b if self.batches > 1 else 0, n if self.heads > 1 else 0)


def describe(arrays, score, keep) -> tuple[Operand, ...]:
  """Returns the static description of each of a program's operands."""
  smooth = {
    i for function in (score, keep) if function is not None for i in function.operands
  }
  return tuple(
    Operand(
      kind=_kind(array.shape),
      batches=array.shape[0],
      heads=array.shape[1],
      dtype=jnp.dtype(jnp.float32) if _floating(array) else jnp.dtype(array.dtype),
      differentiable=_floating(array) and i in smooth,
    )
    for i, array in enumerate(arrays)
  )


def _kind(shape: tuple[int, ...]) -> str:
  return {
    (False, False): "scalar",
    (True, False): "row",
    (False, True): "column",
    (True, True): "cell",
  }[shape[2] > 1, shape[3] > 1]


def _floating(array) -> bool:
  return jnp.issubdtype(array.dtype, jnp.floating)


def pack(array: jax.Array, operand: Operand, rows: int, columns: int) -> jax.Array:
  """Lays the array out for the kernels, padded to `rows` queries, `columns` keys."""
  if operand.kind == "cell":
    if array.dtype == jnp.float16:
      array = array.astype(jnp.float32)
    return pad(pad(array, 2, rows), 3, columns)
  if array.dtype.itemsize < 4:
    array = array.astype(jnp.float32 if _floating(array) else jnp.int32)
  if operand.kind == "scalar":
    return array.reshape(-1)
  if operand.kind == "row":
    return pad(array, 2, rows).swapaxes(2, 3)
  return pad(array, 3, columns)


def unpack(slope, array: jax.Array, operand: Operand, T: int, S: int):
  """Converts the backward kernel's gradient to the shape of the operand `array`."""
  if slope is None:
    return jnp.zeros(array.shape, jnp.float32) if _floating(array) else None
  if operand.kind == "cell":
    return slope[:, :, :T, :S]
  if operand.kind in ("row", "scalar"):
    B, K, group = slope.shape[:3]
    slope = slope.reshape(B, K * group, -1, 1)
  slope = slope[:, :, :T, :S]
  axes = [axis for axis in range(4) if array.shape[axis] == 1]
  return slope.sum(axis=axes, keepdims=True)


def pad(array: jax.Array, axis: int, size: int, value: float = 0) -> jax.Array:
  """Pads the end of an axis with `value` up to `size`."""
  if array.shape[axis] == size:
    return array
  widths = [(0, 0)] * array.ndim
  widths[axis] = (0, size - array.shape[axis])
  return jnp.pad(array, widths, constant_values=value)


def spec(operand: Operand, block_q: int, block_k: int, where: Callable) -> pl.BlockSpec:
  """Returns the operand's block spec; `where(*grid)` gives (b, n, i, j)."""
  if operand.kind == "scalar":
    return pl.BlockSpec(memory_space=pltpu.SMEM)
  shape = {
    "row": (1, block_q),
    "column": (1, block_k),
    "cell": (block_q, block_k),
  }[operand.kind]

  def index(*grid):
    b, n, i, j = where(*grid)
    down = i if operand.kind == "cell" else 0
    return *operand.line(b, n), down, i if operand.kind == "row" else j

  return pl.BlockSpec((None, None, *shape), index)


def spread(line: jax.Array) -> jax.Array:
  """Broadcasts a line (1, n) to (n, 128): down the sublanes, equal in all lanes."""
  return jnp.broadcast_to(line, (LANES, line.shape[1])).T


def across(columns: jax.Array, width: int) -> jax.Array:
  """Broadcasts columns (n, 128), which are equal in all lanes, to (n, width)."""
  repeats = -(-width // LANES)
  wide = columns if repeats == 1 else jnp.tile(columns, (1, repeats))
  return wide if wide.shape[1] == width else wide[:, :width]


def used(array: jax.Array, seen: jax.Array) -> jax.Array:
  """Zeroes rows (n, H) where `seen`, (n, 1) or (n, 128) with equal lanes, is 0."""
  if seen.shape[1] == 1:
    seen = jnp.broadcast_to(seen, array.shape)
  else:
    seen = across(seen, array.shape[1])
  found = jnp.where(seen == 0, 0.0, array.astype(jnp.float32))
  return found.astype(array.dtype)


def scalar(ref, operand: Operand, b, n) -> jax.Array:
  """Reads a scalar operand's value for (b, n)."""
  batch, head = operand.line(b, n)
  return ref[batch * operand.heads + head]
