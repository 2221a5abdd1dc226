"""SHRP, specialised heads: heads as experts, one of which is kept.

Zeli Su, Ziyin Zhang, Wenzheng Zhang, Zhou Liu, Guixian Xu, Wentao Zhang. SHRP:
Specialized Head Routing and Pruning for Efficient Encoder Compression. 2025.
arXiv:2512.20635. There is no official code, and the whole paper was not at hand: this
is a reconstruction from its abstract, which says that each head is an independent
expert (Expert Attention), that a light shared expander network follows them, and that
one mechanism of usage, Top-1, routes in training and prunes for deployment. All below
that is more than this is ours.

  A[i]  = softmax(H^-0.5 q[i] k[i]^T) v[i]          of each of N heads, (T, H)
  r     = softmax(m W_r),  e = argmax r              m: mean of the row, or the token
  h     = r[e] A[e]
  y     = W_2 gelu(W_1 h + b_1) + b_2                H -> F -> D, one for all heads
  loss  = N sum_i f[i] P[i]                          f: shares of picks, P: means of r

The expander takes the place of the projection of all heads and of the block's own
network (`--config.model.mlp_ratio=0`). The gradient reaches the router by r[e] and by
the balance loss, whose weight the trainer may lower. Usage counts the picks of each
head on held data; pruning keeps the most used head of each layer, drops the router, and
folds the mean of r[e] into W_1. Whole layers are dropped by their |y - x| / |x|.
Attention of any other kind is pruned by importances of its heads (arXiv:1905.10650).
`python -m experiments.pruning` reports heads, modules, parameters and FLOPs.

With F = 16 H a BERT-base of such layers has 49 % fewer parameters, embeddings counted,
near the abstract's 48 %; that F is ours.

Cost: O(T S H) time where a row takes one head, whose projections alone are computed;
O(T S N H) where a token takes one, and in packed rows. Memory O(T + S). Decoding keeps
2 N H elements a token, and 2 H after pruning. Parameters by formula: `parameters`.

Axes: B batch, T query tokens, S key tokens, N heads, K heads given, H head size, V
value size, D model width, F width of the expander, L layers, R repeats of a stack.

Not here: noise of the router, an expander that is fitted to a dense layer, and the
distillation from a dense model.
"""

from attnjax.variants.heads.specialized_heads.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.heads.specialized_heads.encoder import Block, Encoder
from attnjax.variants.heads.specialized_heads.layer import (
  FORMS,
  GRANULARITIES,
  Layer,
  SharedExpander,
)
from attnjax.variants.heads.specialized_heads.pruning import (
  IMPORTANCES,
  contributions,
  importance,
  prune,
  prune_layers,
  pruned,
  usage,
)
from attnjax.variants.heads.specialized_heads.routing import Usage, balance_loss
from attnjax.variants.heads.specialized_heads.sizes import dense, flops, parameters

__all__ = [
  "CASES",
  "FORMS",
  "GRANULARITIES",
  "GROWTH",
  "IMPLEMENTATIONS",
  "IMPORTANCES",
  "LAYER",
  "Block",
  "Encoder",
  "Layer",
  "SharedExpander",
  "Usage",
  "attend",
  "balance_loss",
  "contributions",
  "dense",
  "flops",
  "importance",
  "parameters",
  "prune",
  "prune_layers",
  "pruned",
  "reference",
  "usage",
]
LAYER = {"dim": 16, "heads": 4, "hidden": 12}
GROWTH = 2.0
