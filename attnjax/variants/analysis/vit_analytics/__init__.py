"""Head importance, strength and patterns of the attention of Vision Transformers.

Yiran Li, Junpeng Wang, Xin Dai, Liang Wang, Chin-Chia Michael Yeh, Yan Zheng, Wei
Zhang, Kwan-Liu Ma. How Does Attention Work in Vision Transformers? A Visual Analytics
Attempt. 2023. arXiv:2303.13731. No official code, and of the paper the abstract alone
was read: its three parts are here, their formulas are invented.

  gate[l, n] O[l, n]        1 or 0: pruning a head, or all others of its layer
  importance[l, n]          mean over images of what the pruned model loses: probability
                            of the class, cross-entropy, Jensen-Shannon divergence,
                            features, accuracy
  proxy[l, n]             = E | sum O dL/dO |
  S[k]                    = sum_{|q - s| = k} A[q, s]      ring k, Chebyshev distance
  m[k]                    = S[k] / |ring k|
  R[dy, dx]               = mean of A at that offset of key and query
  pattern                 = the template with the greatest cosine
  z                       = encoder(log(R + 1e-4)), clustered by k-means

  found = vit_analytics.head_importance(model, images, labels, heads=4)
  report = vit_analytics.analyse(model.trace(images))

Averages over images hide heads that follow the content: `ring_deviation` keeps their
spread. Redundant heads hide each other in `head_importance`; `cumulative` prunes them
in order.

Cost: L N + 1 forward passes for the importance, with the layers' own kernels; profiles
hold A, O(L N T^2) for a batch.

Axes: B images, T tokens, L layers, N heads, K rings, P patches or templates, Y X
offsets.

Not here: profiles of hierarchical models, whose windows have grids of their own; sums
over batches, a report is of one.
"""

from attnjax.contract import Case
from attnjax.variants.analysis.vit_analytics.importance import (
  KINDS,
  METRICS,
  PRUNE,
  changes,
  cumulative,
  divergence,
  gate_blocks,
  gate_heads,
  head_importance,
  outputs,
  proxy_importance,
  pruned,
)
from attnjax.variants.analysis.vit_analytics.patterns import (
  PatternAutoencoder,
  Scale,
  clusters,
  error,
  k_means,
  pca,
  silhouette,
  train_autoencoder,
)
from attnjax.variants.analysis.vit_analytics.profiles import (
  IMPLEMENTATIONS,
  TEMPLATES,
  attention_distance,
  class_profile,
  offset_map,
  reference_offset_map,
  reference_ring_profile,
  ring_profile,
  row_entropy,
  template_scores,
)
from attnjax.variants.analysis.vit_analytics.ranking import (
  concentration,
  rank_correlation,
  ranked,
)
from attnjax.variants.analysis.vit_analytics.report import (
  AXES,
  HOSTS,
  LABELS,
  MEANINGS,
  analyse,
)
from attnjax.variants.analysis.vit_analytics.weights import attention_of

__all__ = [
  "AXES",
  "CASES",
  "FORMS",
  "HOSTS",
  "IMPLEMENTATIONS",
  "KINDS",
  "LABELS",
  "MEANINGS",
  "METRICS",
  "PRUNE",
  "PatternAutoencoder",
  "Scale",
  "TEMPLATES",
  "analyse",
  "attention_distance",
  "attention_of",
  "changes",
  "class_profile",
  "clusters",
  "concentration",
  "cumulative",
  "divergence",
  "error",
  "gate_blocks",
  "gate_heads",
  "head_importance",
  "k_means",
  "offset_map",
  "outputs",
  "pca",
  "proxy_importance",
  "pruned",
  "rank_correlation",
  "ranked",
  "reference_offset_map",
  "reference_ring_profile",
  "ring_profile",
  "row_entropy",
  "silhouette",
  "template_scores",
  "train_autoencoder",
]

FORMS = ("analysis",)


def _ring(name, B, N, grid, **options):
  T = grid[0] * grid[1] + options.get("prefix", 1)
  shapes = {"attention": (B, N, T, T)}
  given = {"grid": grid} | options
  return Case(name, shapes, given, function="ring_profile")


CASES = (
  _ring("plain", 2, 2, (3, 4), k_max=2),
  _ring("one_patch", 1, 1, (1, 1), k_max=0, prefix=0),
  _ring("registers", 1, 1, (2, 5), k_max=4, prefix=3),
  Case(
    "offsets", {"attention": (2, 1, 13, 13)}, {"grid": (3, 4)}, function="offset_map"
  ),
)
