"""Softmax attention in pure JAX: the definition, and forms with O(T) memory.

  score[t, s] = what `attnjax.core.scores` makes of scale q[t].k[s] where seen, or -inf
  lse[t]      = log( sum_s exp(score[t, s]) [+ exp(sinks[n])] )
  out[t]      = sum_s exp(score[t, s] - lse[t]) keep[t, s] v[s]

A query that sees no key has out = 0, lse = -inf and no gradient. Scores, weights and
lse are float32 (float64 for float64) whatever the input is.

Shapes: q (B, T, N, H), k (B, S, K, H), v (B, S, K, V), K divides N; sinks (N,);
out (B, T, N, V), lse (B, T, N).
"""

from attnjax.core.softmax.chunked import chunked
from attnjax.core.softmax.definition import check, combine, reference, wide
from attnjax.core.softmax.fused import Form, attend

__all__ = ["Form", "attend", "check", "chunked", "combine", "reference", "wide"]
