"""Gated Attention for Large Language Models: Non-linearity, Sparsity, Sink-Free.

Zihan Qiu et al. 2025. arXiv:2505.06708. Code: github.com/qiuzh20/gated_attention.

  A = softmax(scale q k^T)                          masked, causal by default
  out[t, n] = (A v)[t, n] * act(gate[t, n])         or + act(gate) for combine "add"

with the gate a projection of the layer's input. That is position "sdpa" (G1), the
paper's choice: it depends on the query and lies between the projections of the values
and of the output, which are one linear map without it. The layer also has the other
positions of the study: "value" (G2) and "key" (G3), gated at the key's token, "query"
(G4), and "output" (G5), after the output projection. A headwise gate is one number a
head, an elementwise gate has one for each feature of the head.

No bias, weights normal(0.02): at the start a sigmoid gate is 1/2 everywhere.

Cost: as dot-product attention, plus D N weights and as many multiplications a token
for a headwise gate, D N H for an elementwise one. Decoding keeps 2 K H elements a
token; with G2 and G3 the cache holds gated values and keys.

Axes: B batch, T query tokens, S key tokens, N query heads, K key/value heads, H head
size, V value size, D model width.
"""

from attnjax.variants.softmax.gated_attention.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.softmax.gated_attention.layer import (
  FORMS,
  GATES,
  POSITIONS,
  Layer,
)

__all__ = [
  "CASES",
  "FORMS",
  "GATES",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "POSITIONS",
  "Layer",
  "attend",
  "reference",
]
LAYER = {"dim": 32, "heads": 4, "kv_heads": 2}
GROWTH = 2.0
