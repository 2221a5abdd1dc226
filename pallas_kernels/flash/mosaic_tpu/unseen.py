"""Rows that nobody sees: their NaN and infinities must not reach what is seen.

A weight of 0 does not keep them out of a sum of products. Partial tiles therefore read
copies. Where a copy is not finite, rows that no score of the tile counts become zeros.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.flash.mosaic_tpu import operands
from pallas_kernels.flash.mosaic_tpu.operands import LANES
from pallas_kernels.flash.mosaic_tpu.part import Part, Plan


def scratch(plan: Plan, *arrays: tuple[int, int, object]):
  """Memory of the copies of (rows, size, dtype), or None if all tiles are full."""
  if plan.seen is None:
    return (None,) * len(arrays)
  return tuple(pltpu.VMEM((rows, size), dtype) for rows, size, dtype in arrays)


def copy_keys(part: Part, array, copy) -> None:
  """Copies a tile's rows of keys, or values; `part` is any of its parts."""
  _copy(part, array, copy, queries=False)


def copy_queries(part: Part, array, copy) -> None:
  """Copies a tile's rows of queries, or of cotangents."""
  _copy(part, array, copy, queries=True)


def _copy(part, array, copy, queries):
  plan, rows = part.plan, array.shape[0]
  copy[...] = array[...]
  size = LANES if rows % LANES == 0 else rows
  shape = {"inner_q": plan.block_q, "inner_k": plan.block_k}
  shape["inner_q" if queries else "inner_k"] = size
  down = queries != plan.keys_down  # its rows run down the sublanes of scores

  def block(number, _):
    first = pl.multiple_of(number * size, size)
    at = {"row": first if queries else 0, "column": 0 if queries else first}
    one = dataclasses.replace(part, plan=dataclasses.replace(plan, **shape), **at)
    seen = jnp.where(one.seen(), 1.0, 0.0).max(axis=int(down), keepdims=True)
    seen = seen if down else operands.spread(seen)
    own = pl.ds(first, size)
    copy[own, :] = operands.used(array[own, :], seen)

  @pl.when(_strange(array))
  def _():
    jax.lax.fori_loop(0, rows // size, block, None)


def _strange(array) -> jax.Array:
  """Whether there may be a NaN or an infinity in an array."""
  zeros = (array[...].astype(jnp.float32) * 0.0).sum(axis=0, keepdims=True)
  return jnp.max(jnp.where(zeros == 0, 0.0, 1.0)) > 0
