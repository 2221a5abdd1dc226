"""Softmax attention in pure JAX: the reference, and algorithms with O(T) memory.

  score[t, s] = modified(scale q[t].k[s]) where seen, else -inf
  lse[t]      = log( sum_s exp(score[t, s]) [+ exp(sinks[n])] )
  out[t]      = sum_s exp(score[t, s] - lse[t]) keep[t, s] v[s]

The modifications are those of `attnjax.core.scores`. A query that sees no key has
out = 0, lse = -inf and no gradient. Scores, weights and lse are float32 (float64 for
float64) whatever the input is.

Weights do not come from lse, which has lost log(total) where scores are large: a row's
greatest score is subtracted first, which is exact for the scores near it, whatever
their magnitude (`attnjax.core.softmax.gradients`). NaN and infinity at tokens that a
query does not see do not reach it, forward or backward; a query that sees them has NaN
(`attnjax.core.softmax.unseen`).

Shapes: q (B, T, N, H), k (B, S, K, H), v (B, S, K, V), K divides N; sinks (N,);
out (B, T, N, V), lse (B, T, N).
"""

from attnjax.core.softmax.gradients import (
  BACKWARD,
  FORWARD,
  SAVED,
  Passes,
  arguments,
  differentiable,
  logarithm,
  with_sinks,
)
from attnjax.core.softmax.reference import check, combine, reference
from attnjax.core.softmax.xla import chunked

__all__ = [
  "BACKWARD",
  "FORWARD",
  "SAVED",
  "Passes",
  "arguments",
  "check",
  "chunked",
  "combine",
  "differentiable",
  "logarithm",
  "reference",
  "with_sinks",
]
