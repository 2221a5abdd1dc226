"""Lightning Attention-2: linear attention with a fixed decay per head, in chunks.

Zhen Qin et al. Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence
Lengths in Large Language Models. 2024. arXiv:2401.04658.
The layers: Zhen Qin et al. TransNormerLLM. 2023. arXiv:2307.14995; MiniMax. MiniMax-01.
2025. arXiv:2501.08313.
Code: github.com/OpenNLPLab/lightning-attention; the MiniMax model of transformers.

  out[t, n] = scale sum_{s <= t} exp(-slope[n] (t - s)) (q[t, n] . k[s, n K / N]) v[s]
  S_t = exp(-slope) S_{t-1} + k_t v_t^T,  out[t] = scale q_t S_t      (equal)

There is no softmax and no denominator, and scale is 1. The layers divide by a norm:

  q, k, v = act(x W)
  y = (norm(merge_heads(out)) * sigmoid(gate(x))) W_out

gate = "lowrank", norm = "layer" is the official example's, TransNormer; gate = "full",
norm = "rms", slope_kind = "minimax" is MiniMax-01's; GATED are the options of
TransNormerLLM, whose values are not activated, and whose gate has no sigmoid.
`TransNormerLLM` is the whole model, with simple GLUs, norms without parameters, and
learned rotations of the queries and keys (LRPE) in its first block.

Cost for each head, with chunks of C tokens: O(T C (H + E) + T H E) time, memory O(T);
O(T^2 (H + E)) and O(T^2) in "reference". The kernels, "pallas" and "triton", keep
scores in fast memory. Decoding keeps N H E elements in float32, for any number of
tokens.

Axes: B batch, T tokens, N query heads, K key/value heads, H head size, E value size,
D model width.

Not here: MiniMax-01's softmax layers between these, and its experts.
"""

from attnjax.variants.linear.lightning2.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
  step,
)
from attnjax.variants.linear.lightning2.decay import SLOPE_KINDS, slopes
from attnjax.variants.linear.lightning2.layer import (
  ACTIVATIONS,
  FORMS,
  GATES,
  NORMS,
  Layer,
)
from attnjax.variants.linear.lightning2.positions import LRPE
from attnjax.variants.linear.lightning2.transnormer import (
  GATED,
  PARAMETERS,
  SIZES,
  TransNormerLLM,
)

__all__ = [
  "ACTIVATIONS",
  "CASES",
  "FORMS",
  "GATED",
  "GATES",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "LRPE",
  "NORMS",
  "PARAMETERS",
  "SIZES",
  "SLOPE_KINDS",
  "Layer",
  "TransNormerLLM",
  "attend",
  "reference",
  "slopes",
  "step",
]
LAYER = {"dim": 32, "heads": 4}
GROWTH = 1.0
