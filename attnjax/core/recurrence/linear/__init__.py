"""Causal linear attention with decay: token by token, and in chunks.

  S_t = exp(g_t) S_{t-1} + k_t v_t^T      (H, E), S_{-1} the initial state or 0
  o_t = scale q_t S_t

g <= 0 is the log of the decay, a scalar for each token and head. In a chunk with rows
r, columns c and G_r = g_0 + ... + g_r, S being the state before the chunk:

  O = scale (Q K^T * D) V + scale exp(G) * (Q S)    D[r, c] = exp(G_r - G_c), r >= c
  S <- exp(G_last) S + (exp(G_last - G) * K)^T V

Zhen Qin et al. Lightning Attention-2. 2024. arXiv:2401.04658, algorithm 1.
Every exponent is <= 0 before it is exponentiated: exp(G_r) and exp(-G_c) apart would
overflow. G_r - G_c is summed over the tokens between, not subtracted, so that no decay
between two tokens is lost in the rounding of one before them: g may be anything from 0
to -inf, which resets the state. States, decays and sums are float32 (float64 for
float64) whatever the input is.

Cost for chunks of C tokens: O(T C (H + E) + T H E) time for each head, and T / C
states in memory for the backward pass.

Axes: B batch, T tokens, N query heads, K key/value heads (K divides N, query head n
reads key head n K // N), H head size, E value size.

A sequence may also be cut into pieces, one on each device: `Transfer`, `combine`.
"""

from attnjax.core.recurrence.linear.chunks import (
  CHUNK,
  LOWEST,
  check,
  chunked,
  each_token,
  recurrent,
  spans,
  step,
)
from attnjax.core.recurrence.linear.pieces import Transfer, combine, inherited, past

__all__ = [
  "CHUNK",
  "LOWEST",
  "Transfer",
  "check",
  "chunked",
  "combine",
  "each_token",
  "inherited",
  "past",
  "recurrent",
  "spans",
  "step",
]
