"""PLGA: attention through an operator that a net makes of the queries' density.

Burc Gokden. PLDR-LLMs Learn a Generalizable Tensor Operator That Can Replace Its Own
Deep Neural Net at Inference. 2025. arXiv:2502.13502; the decoder is arXiv:2410.16703,
power law graph attention arXiv:2107.02039.
Official code: github.com/burcgokden/PLDR-LLM-with-KVG-cache (commit 8e8658f).

With q and k rotated in interleaved pairs, all projections with biases, in each head

  A_0   = norm(sum_t q_t^T q_t)                    (H, H), norms over the last axis
  A     <- norm(A + f_m(... f_1(A)))               residual units of gated units f
  f(u)  = W3 (silu(W1 u + b1) * (W2 u + b2)) + b3  rows of A, shared by the heads
  A_LM  = u^2 sigmoid(u) + 1e-9,   u = W A + b     W, b of each head, from the left
  A_P   = A_LM ^ p                                 elementwise
  G_LM  = a A_P + b_a
  out_t = softmax_s(H^-0.5 q_t G_LM k_s^T) v_s

The authors' density sums over all tokens of a row, so that in training the scores of a
token tell of later ones: density "full". In decoding the operator of the prompt stays
(G-cache). What the language model here trains by default is invented: density "prefix"
sums over the tokens up to each token, whose operator is its own, so that nothing leaks
and decoding is exact. With "constant" the operator is a parameter; a fixed one, as in
the authors' ablation, is the argument `curvature`; the identity is scaled dot-product
attention.

Cost: O(T S H N) time as attention; the density O(T H^2 N); the metric learner O(N H^2 F
L) for each row, with L gated units F wide, in all, and O(N H^3) for the power law. With
"prefix" these are for each token: F L / T times the attention's time, and memory for
16 tokens at a time. With the G-cache a step takes one (H, H) product a head.

Axes: B batch, T query tokens, S key tokens, N heads, K key/value heads, H head size, V
value size, D model width.

Not here: the training script around the model, whose loss, schedule and clipping are of
`experiments`; a kernel that holds the operator beside the queries: q G is computed
outside of the softmax kernels.
"""

from attnjax.variants.softmax.power_law_graph.attention import (
  CASES,
  EPSILON,
  IMPLEMENTATIONS,
  REFUSED,
  attend,
  curved,
  power_law,
  reference,
  reference_power_law,
)
from attnjax.variants.softmax.power_law_graph.layer import FORMS, Layer
from attnjax.variants.softmax.power_law_graph.metric import (
  GatedUnit,
  Metric,
  PowerLawMetric,
  ResidualUnit,
)
from attnjax.variants.softmax.power_law_graph.model import (
  SIZES,
  Block,
  Decoder,
  dag_loss,
)
from attnjax.variants.softmax.power_law_graph.operator import (
  DENSITIES,
  Cache,
  Operator,
)

__all__ = [
  "CASES",
  "DENSITIES",
  "EPSILON",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "REFUSED",
  "SIZES",
  "Block",
  "Cache",
  "Decoder",
  "GatedUnit",
  "Layer",
  "Metric",
  "Operator",
  "PowerLawMetric",
  "ResidualUnit",
  "attend",
  "curved",
  "dag_loss",
  "power_law",
  "reference",
  "reference_power_law",
  "scaled",
]
# Near u = 0 the power law makes rounding large: heads of two features have few u.
LAYER = {"dim": 8, "heads": 4, "residual_units": 1, "gated_units": 1}
GROWTH = 2.0


def scaled(shape: tuple[int, ...]) -> dict[str, str]:
  """Returns options of a layer with one operator a row, whose cost is not a token's."""
  del shape
  return {"density": "full"}
