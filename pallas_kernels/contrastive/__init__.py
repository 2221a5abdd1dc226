"""InfoNCE of tiles of scores in fused kernels, for TPUs and GPUs.

  top[i], total[i]  the greatest score of a row and sum_j exp(score[i, j] - top[i])
  slope[i, j] = exp(score - top[i]) dtotal[i] + exp(score - top[j]) dtotal[j]
  sums[i]     = sum_j slope[i, j] y[j]

of score = scale x . y, rows x against all columns y: the algebra, the derivatives and
the sources are those of `attnjax.core.contrastive`. The forward pass is the loop of
FlashAttention (Tri Dao. arXiv:2307.08691) without values; the backward pass has the
columns as values, and both softmaxes in one slope. A call for the queries and one for
the items, sides exchanged, give all results, none of which adds to what another program
wrote. Only tiles in which a label can be equal to one of the other side look for the
positive pair.

  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

Two runs are equal to the bit: no sums by atomic operations.

Not here: a forward pass that computes both sides' sums from one product, which would
hold a line of all columns.
"""

from typing import Any

from attnjax.core import contrastive
from pallas_kernels import calling
from pallas_kernels.batching import Layout

# Where plain JAX computes it.
XLA = "attnjax/core/contrastive"


def prepared(q, items, *, impl: str, tiles: Any = None) -> contrastive.Passes:
  """Returns the passes of one backend, for arrays of these types and shapes.

  Args:
    q: (Nq, D).
    items: (Ni, D).
    impl: one of `calling.BACKENDS`.
    tiles: the backend's Tiles; its defaults for the shape and device if None.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
  """
  kernel = calling.load(__name__, impl)
  kernel.supports(q, items)

  def spread(function, specs, **constants):
    return calling.spread(function, Layout(*specs), **constants)

  return contrastive.composed(
    spread, kernel.forward, kernel.backward, kernel.no_tangent, tiles=tiles
  )
