"""Routing Transformer: tokens attend inside clusters found by online k-means.

Aurko Roy, Mohammad Saffar, Ashish Vaswani, David Grangier. Efficient Content-Based
Sparse Attention with Routing Transformers. TACL 2021. arXiv:2003.05997.
Official code: github.com/google-research/google-research (routing_transformer).
Compared with github.com/lucidrains/routing-transformer (commit 3f6c461), a third
party's code.

Queries and keys on the unit sphere, centroids mu[n, c]:

  kind "all" (published): cluster c takes the w queries and the w keys of greatest
    x . mu[c], in the order of time; a token may be in several clusters, or in none
  kind "past": query t joins the cluster of the nearest centroid, and sees the w
    keys s <= t of greatest k[s] . mu there
  o_c[t] = softmax over the cluster (H^-0.5 q . k) v
  out[t] = sum of o_c[t] over the clusters of t / (their number + eps)

The published form leaks the future: later tokens take places in the clusters and drive
earlier ones out, so the choice depends on the future although none of its values is
read, and decoding gives other outputs than training. With "past", training and decoding
give equal outputs. Centroids are an argument and a result (`Clusters`): moving averages
of the tokens assigned to them, or as in the third party's code of the centroids of one
k-means iteration a batch (`follow`), with a commitment loss of 1e-4 for the tokens.

Beyond the third party's code: padding is neither routed nor counted; the local heads
have sliding windows, not blocks with a look back, so that packing and padding change
nothing; the routing ignores positions.

Cost: O(T c H + c w^2 H) a head in "all", O(T c H + T w H) in "past": T^1.5 H with
c = T^0.5 and w = T / c. O(T^2 c) in "reference". In "past" the kernels, "pallas" and
"triton", take groups of 16 queries of a cluster among max(w, 16 c) tokens, and compute
O(T (w + 16 c) H); no implementation but "reference" has an array of all pairs. Decoding
keeps 2 N H + N c elements a token.

Axes: B batch, T tokens, N heads, c clusters, w tokens of a cluster, M memory keys, H
head size, V value size, D model width.
"""

from attnjax.variants.sparse.routing_transformer.attention import (
  CASES,
  IMPLEMENTATIONS,
  SELECTIONS,
  attend,
  reference,
)
from attnjax.variants.sparse.routing_transformer.decode import Cache
from attnjax.variants.sparse.routing_transformer.kmeans import (
  Clusters,
  affinity,
  assign,
  commitment,
  follow,
  iterate,
  unit,
)
from attnjax.variants.sparse.routing_transformer.layer import FORMS, Layer

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "SELECTIONS",
  "Cache",
  "Clusters",
  "Layer",
  "affinity",
  "assign",
  "attend",
  "commitment",
  "follow",
  "iterate",
  "reference",
  "scaled",
  "unit",
]
LAYER = {"dim": 32, "heads": 4, "clusters": 3, "cluster_size": 6, "window": 5}
GROWTH = 1.5


def scaled(shape: tuple[int, ...]) -> dict[str, int]:
  """Returns options under which GROWTH holds: T^1/2 clusters of T^1/2 tokens."""
  side = round(shape[0] ** 0.5)
  return {"clusters": side, "cluster_size": side}
