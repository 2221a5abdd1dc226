"""Statistics of softmax weights in fused kernels, for TPUs and GPUs.

  columns[s] = sum_t exp(score[t, s] - lse[t])
  argmax[t], entropy[t]    of the row exp(score[t] - lse[t])

They are loops of FlashAttention (Tri Dao. arXiv:2307.08691) without values: columns
that of its backward pass over the queries of a block of keys, rows that of its forward
pass over the keys of a block of queries, over the same lists of blocks and programs of
scores. lse is known, so that nothing is rescaled. Derivatives are those of the plain
form, `attnjax.core.softmax.statistics`.

  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

Where a query sees a NaN its entropy is NaN, and its argmax any key. Two runs are equal
to the bit: no sums by atomic operations.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from attnjax.core import derivatives, devices, programs
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores
from attnjax.core.softmax import statistics
from pallas_kernels import calling
from pallas_kernels.batching import Layout

# Where plain JAX computes it.
XLA = "attnjax/core/softmax/statistics.py"

_ARRAYS, _OPERANDS = P("batch", None, "heads"), P("batch", "heads")
_INPUTS = (*[_ARRAYS] * 3, _OPERANDS, _OPERANDS)
# (columns (B, N, S)); (argmax, entropy), each (B, T, N).
LAYOUTS = {
  "columns": Layout(_INPUTS, (_OPERANDS,), shared=(3, 4)),
  "rows": Layout(_INPUTS, (_ARRAYS, _ARRAYS), shared=(3, 4)),
}


def prepared(
  which: str, q, k, scores: Scores, *, impl: str, tiles: Any = None
) -> Callable:
  """Returns the function of (q, k, lse, scale=) to the statistics, a tuple.

  Args:
    which: "columns" or "rows".
    q: (B, T, N, H).
    k: (B, S, K, H).
    scores: the mask, bias and functions that are applied to q . k.
    impl: one of `calling.BACKENDS`.
    tiles: the backend's Tiles; its defaults for the shape and device if None.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
  """
  kernel = calling.load(__name__, impl)
  q, k, scores = devices.vary((q, k, scores))
  shape, dtype = (q.shape[0], q.shape[2], q.shape[1], k.shape[1]), accumulator_dtype(q)
  program = programs.program(scores, shape, dtype)
  kernel.supports(q, k, program)
  tiles = kernel.tiles(q, k, program) if tiles is None else tiles
  block = tiles.blocks(scores, shape)[which == "columns"]
  (schedule,) = programs.schedules(scores, shape, [block])
  schedule = kernel.prepared(schedule, q, k)
  program = programs.listed(program, scores, [block], dtype)
  return functools.partial(_run, kernel, which, tiles, program, schedule)


def _run(kernel, which, tiles, program, schedule, q, k, lse, *, scale):
  given = {"which": which, "scale": scale, "tiles": tiles}
  run = calling.spread(kernel.forward, LAYOUTS[which], **given)

  def forward(x, schedule):
    *arrays, program = x
    found = run(*arrays, program.scheduled, schedule)
    return found if which == "columns" else (_bits(found[0]), found[1])

  def plain(x, schedule):
    del schedule
    if which == "columns":
      return (statistics.columns_of(*x, scale=scale),)
    argmax, entropy = statistics.rows_of(*x, scale=scale)
    return _bits(argmax), entropy

  maps = derivatives.tangent_of(plain), derivatives.transpose_of(plain)
  call = derivatives.differentiable(forward, *maps, keeps_output=False)
  *x, schedule = devices.aligned((q, k, lse, program, schedule), _INPUTS)
  found = call(tuple(x), schedule)
  if which == "columns":
    return found
  return jax.lax.bitcast_convert_type(found[0], jnp.int32), found[1]


def _bits(argmax):
  """Returns integers as floats of equal bits, since these are what has tangents."""
  return jax.lax.bitcast_convert_type(jax.lax.stop_gradient(argmax), jnp.float32)
