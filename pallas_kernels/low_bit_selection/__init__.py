"""Selection of key blocks by low-bit scores in fused kernels, for TPUs and GPUs.

  score[t, s] = q_scale[t] k_scale[s] (q[t] . k[s]) + bias[s]       q, k int8
  chosen[i, j] = whether score[t, s] > least[t] for some t of block i and s of block j

for the blocks of keys j = 1, ..., last[i]; others are not chosen. It is the estimation
of SALE (Xiaodong Ji et al. arXiv:2505.24179, section 3.2): one pass over the keys whose
products are of integers, with no exponentials and nothing kept but a number a block. If
`rounded`, the bias is rounded to a multiple of the product of the scales, half to even.

  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

Products of codes are 8-bit in both, also where codes have 4 bits. Nothing has a
derivative. Two runs are equal to the bit.
"""

import functools
from collections.abc import Callable
from typing import Any

from jax.sharding import PartitionSpec as P

from attnjax.core import devices
from pallas_kernels import calling
from pallas_kernels.batching import Layout

# Where plain JAX computes it.
XLA = "attnjax/variants/sparse/sale/selection.py"

_ARRAYS, _LAST = P("batch", None, "heads"), P("batch")
# q, k, q_scale, k_scale, bias, least, last; the map (B, N, Q, S).
LAYOUT = Layout((*[_ARRAYS] * 6, _LAST), P("batch", "heads"), shared=(6,))


def prepared(
  q, k, *, block_q: int, block_k: int, rounded: bool, impl: str, tiles: Any = None
) -> Callable:
  """Returns the function of the arrays to what is chosen, bool (B, N, Q, S).

    run(q, k, q_scale, k_scale, bias, least, last)

  q (B, T, N, H) and k (B, T, K, H) are int8; q_scale, bias and least (B, T, N) and
  k_scale (B, T, K) float32; last (B|1, Q) int32.

  Args:
    q: codes of queries, or their shape and type.
    k: codes of keys; K divides N.
    block_q: queries of a block.
    block_k: keys of a block.
    rounded: whether the bias is rounded.
    impl: one of `calling.BACKENDS`.
    tiles: the backend's Tiles; its defaults if None.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
  """
  kernel = calling.load(__name__, impl)
  kernel.supports(q, k, block_q, block_k)
  tiles = kernel.tiles(q, k, block_q, block_k) if tiles is None else tiles
  given = {"block_q": block_q, "block_k": block_k, "rounded": rounded, "tiles": tiles}
  run = calling.spread(kernel.forward, LAYOUT, **given)
  return functools.partial(_run, run)


def _run(run, *arrays):
  return run(*devices.aligned(arrays, LAYOUT.inputs)) != 0
