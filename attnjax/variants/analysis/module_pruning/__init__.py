"""DIMAP: weights pruned without data, layers compared by their relative distortion.

Yang He, Joey Tianyi Zhou. Data-independent Module-aware Pruning for Hierarchical Vision
Transformers. ICLR 2024. arXiv:2404.13648. No public code: the repository that the paper
names holds a page without any; held to definitions in NumPy and to numbers by hand.

Removing weights of layer l changes the network's output by at most a constant times the
part |W - W'| / |W| (Frobenius) of that layer. In the order of |w| in a layer, the
largest first, weight j goes after all that follow it:

  score(w_j) = w_j^2 / sum_(i <= j) w_i^2

Scores of a module's layers are ranked together, and the lowest go:

  qkv         query, key and value projections of all blocks, one layer a block
  projection  the attentions' output projections
  mlp         both projections of the MLPs
  (AUX-M)     norms, embeddings, merging, head, biases, position tables: never pruned

Then the model is trained on under fixed masks. A score knows no scale of its layer:
W_1 c, W_2 / c have the masks of W_1, W_2. The score is that of LAMP (Jaeho Lee et al.
arXiv:2010.07611), which ranks all layers in one pool.

  masks = module_pruning.dimap_masks(model, 0.6)
  model = module_pruning.apply_masks(model, masks)
  optimizer = module_pruning.masked_updates(optax.adamw(1e-3), masks)

Cost: a sort of each layer, O(P log P), on the host and in float64. Zeros anywhere in a
matrix save no time of a GPU: "flops" counts 2 for each weight that is left.

Axes: P weights of a layer.

Not here: Swin on ImageNet with its checkpoints; sorting layers that are sharded over
devices, which are gathered.
"""

from attnjax.variants.analysis.module_pruning.masks import (
  POOLS,
  RULES,
  SCORES,
  PrunedLayer,
  apply_masks,
  dimap_masks,
  layers,
  report,
)
from attnjax.variants.analysis.module_pruning.scores import (
  CASES,
  IMPLEMENTATIONS,
  dimap_scores,
  exact_scores,
  reference_dimap_scores,
)
from attnjax.variants.analysis.module_pruning.tuning import (
  fine_tuning,
  iterated,
  levels,
  masked_updates,
)

__all__ = [
  "CASES",
  "FORMS",
  "IMPLEMENTATIONS",
  "POOLS",
  "RULES",
  "SCORES",
  "PrunedLayer",
  "apply_masks",
  "dimap_masks",
  "dimap_scores",
  "exact_scores",
  "fine_tuning",
  "iterated",
  "layers",
  "levels",
  "masked_updates",
  "reference_dimap_scores",
  "report",
]
# It reads parameters, not what a model does with an input.
FORMS = ()
