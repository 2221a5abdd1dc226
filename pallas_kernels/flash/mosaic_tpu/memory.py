"""Estimates of the fast memory (VMEM) that the TPU kernels take."""

from typing import NamedTuple

import jax.numpy as jnp

from pallas_kernels.flash.mosaic_tpu.layout import ceil_to
from pallas_kernels.flash.mosaic_tpu.operand_gradients import way
from pallas_kernels.flash.mosaic_tpu.operands import LANES, describe

# Spilled registers take about SPILLED_PARTS float32 score tiles of a part, plus SPILLED
# bytes, as the compiler reported for masked and for the widest programs.
SPILLED_PARTS, SPILLED = 5, 1 << 20


class Memory(NamedTuple):
  """Bytes of VMEM of each kernel; dq accumulates there if it is `resident`."""

  forward: int
  backward: int
  resident: bool


def estimate(tiles, q, k, v, program) -> Memory:
  """Estimates the VMEM that the kernels take for arrays of these shapes.

  Args:
    tiles: tile sizes of both kernels.
    q: (B, T, N, H), an array or its shape.
    k: (B, S, K, H), an array or its shape.
    v: (B, S, K, V), an array or its shape.
    program: the scores' program.
  """
  backward = _backward(tiles, q, k, v, program, True)
  resident = backward <= tiles.memory
  if not resident:
    backward = _backward(tiles, q, k, v, program, False)
  return Memory(_forward(tiles.forward, q, v, program), backward, resident)


def _forward(tile, q, v, program) -> int:
  H, V = q.shape[3], v.shape[3]
  width = _width(q)
  windows = _bytes(tile.block_q, H, width) + _bytes(tile.block_k, H, width)
  windows += _bytes(tile.block_k, V, width) + _bytes(tile.block_q, V, width)
  windows += 2 * _bytes(1, tile.block_q, 4)
  scratch = _bytes(tile.block_q, V, 4) + 2 * _bytes(tile.block_q, LANES, 4)
  for kind, size, _ in kinds(program):
    windows += _window(kind, tile, size)
    scratch += _bytes(tile.block_q, LANES, 4) if kind == "row" else 0
  return 2 * windows + scratch + _spilled(tile, width)


def _backward(tiles, q, k, v, program, resident: bool) -> int:
  tile = tiles.backward
  T, N, H = q.shape[1:]
  group, V, width = N // k.shape[2], v.shape[3], _width(q)
  queries = ceil_to(T, tile.block_q)
  windows = _bytes(tile.block_q, H, width) + _bytes(tile.block_q, V, width)
  windows += 2 * (_bytes(tile.block_k, H, width) + _bytes(tile.block_k, V, width))
  windows += 3 * _bytes(1, tile.block_q, 4)
  scratch = _bytes(tile.block_k, H, 4) + _bytes(tile.block_k, V, 4)
  if resident:
    windows += group * _bytes(queries, H, width)
    scratch += group * _bytes(queries, H, 4)
  else:
    scratch += 3 * _bytes(tile.block_q, H, 4)
  keys = ceil_to(k.shape[1], tile.block_k)
  described = describe(program.operands, program.score, program.keep)
  for (kind, size, _), operand in zip(kinds(program), described, strict=True):
    windows += _window(kind, tile, size)
    scratch += _bytes(tile.block_k, LANES, 4) if kind == "column" else 0
    match way(operand, q.shape[0], N, queries, keys):
      case "own":
        windows += _window(kind, tile, 4)
      case "held":
        windows += 4 * operand.heads * queries * keys
      case "gathered":
        scratch += 2 * _window(kind, tile, 4)
      case "column":
        windows += _window(kind, tile, 4)
        scratch += _bytes(tile.block_k, LANES, 4)
      case "line":
        windows += group * queries // tile.block_q * _bytes(1, tile.block_q, 4)
  return 2 * windows + scratch + _spilled(tile, width)


def kinds(program):
  """Yields (kind, bytes of an element, whether it has a gradient) of each operand."""
  described = describe(program.operands, program.score, program.keep)
  for array, operand in zip(program.operands, described, strict=True):
    size = array.dtype.itemsize if array.dtype != jnp.float16 else 4
    yield operand.kind, size if operand.kind == "cell" else 4, operand.differentiable


def _window(kind: str, tile, size: int) -> int:
  match kind:
    case "cell":
      return _bytes(tile.block_q, tile.block_k, size)
    case "column":
      return _bytes(1, tile.block_k, size)
    case "row":
      return _bytes(1, tile.block_q, size)
  return 0


def _bytes(rows: int, lanes: int, size: int) -> int:
  """Returns the bytes of an array in VMEM, padded to whole lanes and sublanes."""
  rows = rows if rows == 1 else ceil_to(rows, 8 * 4 // size)
  return rows * ceil_to(lanes, LANES) * size


def _spilled(tile, width: int) -> int:
  part = _bytes(min(tile.inner_q, tile.block_q), tile.inner_k, 4)
  return (SPILLED_PARTS * part + SPILLED) * width // 2


def _width(q) -> int:
  return 2 if q.dtype == jnp.bfloat16 else 4
