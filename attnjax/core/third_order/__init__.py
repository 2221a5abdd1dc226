"""Third-order attention in pure JAX: a softmax over pairs of keys, in O(T + S) memory.

  score[t, j, l] = scale sum_h q[t, h] k1[j, h] k2[l, h]   where both are seen, or -inf
  lse[t]         = log( sum_jl exp(score[t, j, l]) )
  out[t]         = sum_jl exp(score[t, j, l] - lse[t]) v1[j] v2[l]      by elements

Josh Alman, Zhao Song. How to Capture Higher-order Correlations? arXiv:2310.04064. The
tiles are those of Aurko Roy et al. Fast and Simplex. arXiv:2507.02754: the products of
some rows of q with some of k1 are the rows of a matrix that meets k2 in one product.

Who sees whom is a `Sight`, with the ids of segments. A query that sees no pair has
out = 0, lse = -inf and no gradient. As in `attnjax.core.softmax`, weights are computed
from the greatest score and the sum, never from lse.

Shapes: q (B, T, N, H), k1 and k2 (B, S, K, H), v1 and v2 (B, S, K, V), K divides N; out
(B, T, N, V), lse (B, T, N). Passes work on rows (U, R, H): the N / K queries of a token
that read a key head follow each other, U = B K and R = T N / K.
"""

from attnjax.core.third_order.gradients import (
  BACKWARD,
  FORWARD,
  SAVED,
  Passes,
  differentiable,
)
from attnjax.core.third_order.rows import by_rows
from attnjax.core.third_order.sight import Sight, check, folded, unfolded
from attnjax.core.third_order.xla import tiled

__all__ = [
  "BACKWARD",
  "FORWARD",
  "SAVED",
  "Passes",
  "Sight",
  "by_rows",
  "check",
  "differentiable",
  "folded",
  "tiled",
  "unfolded",
]
