"""p-Laplacian adapter: an adapter passes messages on the graph of attention weights.

Haoyuan Wu, Xinyun Zhang, Peng Xu, Peiyu Liao, Xufeng Yao, Bei Yu. p-Laplacian
Adaptation for Generative Pre-trained Vision-Language Models. AAAI 2024.
arXiv:2312.10613. Official code: github.com/wuhy68/p-Adapter at e66ab8b, whose published
file lacks the projections of queries and keys; BERT's were put back.

Of a frozen attention with the weights A, the values v and the output map Wo,

  self    nodes are the values, G = A
  cross   nodes are the queries and the values, G = [[0, A'], [A'^T, 0]]; values, and
          the columns of A, are means of `pool` windows of keys
  F      = Wi Wo(nodes), cut into N heads
  M[t,s] = G[t,s] |sqrt(G[t,s] + e) (F[s] - F[t])|^(p - 2)
           G[t,s] (e sqrt(C))^(p - 2)                    where F[s] = F[t], as at s = t
  F'[t]  = (sum_s M[t,s] F[s] + r F[t]) / (sum_s M[t,s] + r),     r = 2 mu / p
  y      = Wout( gelu(Wg c) * F' ),    c = Wo(A v);    the layer gives c + y

with e = 1e-8 and mu = mu0 (2 + tanh(m)); p and m are learned, from 1.75 and 0. In
"cross" the term r F[t] above the line is missing, as in the code, whose matrix of it is
a block off the diagonal. p = 2 leaves the weights of attention; p < 2 prefers near
nodes, above all the node itself. Beside the feed-forward block stands `Bottleneck`,
which adds Wup relu(Wdown x) to the block's input x. Only parameters with "adapter" in
their path are trained:

  python -m experiments.run --config configs/captions.py --workdir runs/base \
      --config.attention.reduction=0 --config.model.bottleneck=0
  python -m experiments.run --config configs/captions.py --workdir runs/tuned \
      --config.init=runs/base --config.train.only=adapter --config.data.inverted=True

The authors add e to every component of the difference as well, which is seen where
F[s] = F[t] alone; there the distance has no gradient here. Windows are those of the
real keys; with `pool_padding` they count padding too, as in the code. Decoding passes
the messages of the whole row; the code's, with a cache, are those of "cross". Invented
here: `zero_init`, padding and documents, and `Adapted`, for layers of other systems.

Cost: O(T S N (H + C)) time; memory O(T + S) beside a block of queries with its pairs,
at most 2^18 or 8 queries, which the backward pass recomputes with their differences;
O(T S N C) in "reference". Decoding keeps D / r elements a token beside keys and values.

Axes: B batch, T query tokens, S key tokens, R windows of keys, N heads, K key/value
heads, H head size, C features of a head, D model width.

Not here: a fused kernel; the distance by |a|^2 + |b|^2 - 2 a.b, which has no digits
left for near nodes; the code's cached decoding; dropout; the paper's measure of how
unlike neighbours are; BLIP, its weights and its data sets; a cache for `Adapted`.
"""

from attnjax.variants.cross.p_adapter.adapted import Adapted
from attnjax.variants.cross.p_adapter.adapter import Bottleneck, PAdapter
from attnjax.variants.cross.p_adapter.attention import KINDS, attend
from attnjax.variants.cross.p_adapter.cases import CASES
from attnjax.variants.cross.p_adapter.crossing import STREAMS
from attnjax.variants.cross.p_adapter.definition import (
  reference,
  reference_adaptive_pool,
  reference_p_laplacian_step,
)
from attnjax.variants.cross.p_adapter.layer import FORMS, Cache, Layer
from attnjax.variants.cross.p_adapter.messages import IMPLEMENTATIONS, p_laplacian_step
from attnjax.variants.cross.p_adapter.pooling import adaptive_pool

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "KINDS",
  "LAYER",
  "STREAMS",
  "Adapted",
  "Bottleneck",
  "Cache",
  "Layer",
  "PAdapter",
  "adaptive_pool",
  "attend",
  "p_laplacian_step",
  "reference",
  "reference_adaptive_pool",
  "reference_p_laplacian_step",
]
LAYER = {"dim": 16, "heads": 2, "reduction": 2, "pool": 4}
GROWTH = 2.0
