"""Third-order attention in fused kernels, for TPUs and GPUs.

  score[t, j, l] = scale sum_h q[t, h] k1[j, h] k2[l, h]    where both are seen
  out[t]         = sum_jl softmax_jl(score[t])[j, l] v1[j] v2[l]      by elements

Josh Alman, Zhao Song. How to Capture Higher-order Correlations? arXiv:2310.04064. Aurko
Roy et al. Fast and Simplex: 2-Simplicial Attention in Triton. arXiv:2507.02754. The
algebra and its derivatives are those of `attnjax.core.third_order`. For a key j of the
first stream the scores are one product of matrices, of the rows q[t] k1[j] and k2, as
are the weighted values, whose rows are then multiplied by v1[j]. The backward pass is
three, none of which adds to what another program wrote:

  queries  a tile of rows, over j and l:  dq[t]  = sum_j k1[j] (dS_j k2)[t]
  keys     a tile of j, over rows and l:  dk1[j] = sum_t q[t] (dS_j k2)[t]
                                          dv1[j] = sum_t do[t] (P_j v2)[t]
  keys     again with the streams exchanged

with dS = P (do . v1 v2 - delta) of each triple. Tiles that no row sees are not visited,
tiles that all rows see are not masked. The queries of a token that read a key head
follow each other as rows, so that a narrow window still fills a matrix product.

  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

Two runs are equal to the bit: no sums by atomic operations.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.contract import Case
from attnjax.core import devices, third_order
from attnjax.core.third_order import Sight
from pallas_kernels import calling
from pallas_kernels.batching import Layout

# Where plain JAX computes it.
XLA = "attnjax/core/third_order"

FORWARD = Layout(*third_order.FORWARD)
BACKWARD = Layout(*third_order.BACKWARD)


def attend(
  q, k1, k2, v1, v2, data=(None, None), *, sight: Sight, impl: str, tiles: Any = None
):
  """Returns (out (B, T, N, V), lse (B, T, N) float32) by a backend's kernels.

  Args:
    q: (B, T, N, H).
    k1: (B, S, K, H), as k2; K divides N.
    k2: see k1.
    v1: (B, S, K, V), as v2.
    v2: see v1.
    data: (ids, offset), see `attnjax.core.third_order.gradients`.
    sight: who sees whom.
    impl: one of `calling.BACKENDS`.
    tiles: the backend's Tiles; its defaults for the shape and device if None.

  TPUs take float16 as float32, which costs its time and memory.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ValueError: if shapes or tiles do not fit.
  """
  x = q, k1, k2, v1, v2
  return prepared(*x, sight=sight, impl=impl, tiles=tiles)(*x, data)


def prepared(
  q, k1, k2, v1, v2, *, sight: Sight, impl: str, tiles: Any = None
) -> Callable:
  """Returns `attend` by one backend, for arrays of these types and shapes.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
  """
  third_order.check(q, k1, k2, v1, v2)
  kernel = calling.load(__name__, impl)
  kernel.supports(q, k1, k2, v1, v2)
  _check_range(q, k1, sight, impl)
  how = {"sight": sight, "tiles": tiles}
  passes = third_order.Passes(
    calling.spread(kernel.forward, FORWARD, **how),
    calling.spread(kernel.backward, BACKWARD, **how),
    kernel.no_tangent,
  )
  return functools.partial(_run, passes)


def _check_range(q, k1, sight: Sight, impl: str) -> None:
  """Raises NotImplementedError where rows by position do not fit 32 bits."""
  group = q.shape[2] // k1.shape[2]
  most = group * (max(q.shape[1], k1.shape[1]) + max(sight.windows))
  most += group * abs(sight.offset or 0)
  if most > 2**30:
    raise NotImplementedError(
      f"impl {impl!r}: tokens, window and offset times the {group} rows of a token are"
      f" {most}; they are compared in 32 bits, up to 2^30"
    )


def _run(passes, q, k1, k2, v1, v2, data):
  x, data = devices.aligned(((q, k1, k2, v1, v2), data), third_order.FORWARD[0][4:])
  with jax.numpy_rank_promotion("allow"):
    return third_order.differentiable(passes)(x, data)


def _shapes(B, T, S, N, K, H, V):
  k, v = (B, S, K, H), (B, S, K, V)
  return {"q": (B, T, N, H), "k1": k, "k2": k, "v1": v, "v2": v}


def _case(name, shapes, sight, data=None):
  return Case(
    name, _shapes(*shapes), {"sight": sight} | ({"data": data} if data else {})
  )


def _documents(_):
  own = jnp.array([[1] * 9 + [4] * 10 + [-1] * 2, [2] * 21])
  return (own, own), None


def _shifted(_):
  return None, jnp.int32(2)


CASES = (
  _case("whole", (2, 5, 12, 4, 2, 8, 5), Sight(0.3)),
  _case("one_token", (1, 1, 1, 1, 1, 4, 4), Sight(0.5, causal=True)),
  _case("windows", (1, 12, 15, 6, 2, 8, 8), Sight(0.4, True, (3, 7), None), _shifted),
  _case("wide", (1, 7, 9, 1, 1, 160, 130), Sight(0.1, False, (4, 0), -1)),
  _case("documents", (2, 21, 21, 2, 1, 8, 8), Sight(0.4, True), _documents),
)
