"""MoH: attention heads as experts, of which every token takes some.

Peng Jin, Bo Zhu, Li Yuan, Shuicheng Yan. MoH: Multi-Head Attention as Mixture-of-Head
Attention. ICML 2025. arXiv:2410.11842. Official code: github.com/SkyworkAI/MoH (commit
2cefd57); its training code for language models is not released.

  o[n]     = softmax(H^-0.5 q[n] k^T) v             of each of N = A + R heads
  p        = softmax(x W_r)                         of the R routed heads
  M        = 1 at the top_k greatest p, else 0      of equal p the first
  g_routed = a_2 top_k p M / sum(p M)
  g_shared = a_1 A softmax(x W_s)                   1 instead if A = 1
  a        = 2 softmax(x W_h)                       1 if all heads are of one kind
  out      = sum over n of g[n] o[n] W_o[n]
  loss     = R^2 mean_r(P_r f_r)                    P, f: means over tokens of p, M

Uniform gates give multi-head attention: the factors top_k, A and 2 are those of the
code, the paper has none. For language models, continued from a trained model: p =
softmax(|q| / std |q|) by the norms of the routed heads' queries, nothing is learned
(router "query_norm"), and gates are 0 or 1 with a straight-through gradient (quantised:
g = M + p - stop(p)). A head's gate reads its own token only, so decoding is exact.

The authors compute all heads and multiply them by gates. The dispatch form (capacity
c) gathers for each routed head the queries that take it, at most ceil(c top_k T / R),
and computes these; how its places are given to the earlier tokens is invented, the
authors have none.

Cost: O(T S H N) time as dot-product attention, and D (R + A + 2) weights; with a
capacity (A + c top_k) / N of it, but for the projections. Decoding keeps 2 K H elements
a token and reads all heads.

Axes: B batch, T query tokens, S key tokens, N query heads, A shared heads, R routed
heads, K key/value heads, H head size, V value size, C places of a head's list, D model
width.

Not here: TransNeXt's own attention, the whole networks, and steps of decoding that skip
the caches of heads that no token takes.
"""

from attnjax.variants.heads.mixture_of_head.attention import (
  CASES,
  CURVES,
  IMPLEMENTATIONS,
  attend,
  gated,
  reference,
)
from attnjax.variants.heads.mixture_of_head.layer import FORMS, Layer
from attnjax.variants.heads.mixture_of_head.router import COUNTS, KINDS, Router
from attnjax.variants.heads.mixture_of_head.routing import (
  Gates,
  balance_loss,
  gates,
  query_norms,
)
from attnjax.variants.heads.mixture_of_head.sizes import SIZES, blocks
from attnjax.variants.heads.mixture_of_head.wrapper import MixtureOfHeads

__all__ = [
  "CASES",
  "COUNTS",
  "CURVES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "KINDS",
  "LAYER",
  "SIZES",
  "Gates",
  "Layer",
  "MixtureOfHeads",
  "Router",
  "attend",
  "balance_loss",
  "blocks",
  "gated",
  "gates",
  "query_norms",
  "reference",
  "scaled",
]
LAYER = {"dim": 24, "heads": 6, "kv_heads": 2, "shared": 2, "top_k": 2}
GROWTH = 2.0


def scaled(shape: tuple[int, ...]) -> dict[str, int | float]:
  """Returns options of a layer whose tokens take half of the heads, dispatched."""
  del shape
  return {"heads": 8, "shared": 2, "top_k": 2, "capacity": 1.25}
