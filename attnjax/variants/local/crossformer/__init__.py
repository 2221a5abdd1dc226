"""CrossFormer: attention in near and in far groups, patches of several sizes.

Wenxiao Wang, Lu Yao, Long Chen, Binbin Lin, Deng Cai, Xiaofei He, Wei Liu. CrossFormer:
A Versatile Vision Transformer Hinging on Cross-scale Attention. 2021. arXiv:2108.00154.
Wenxiao Wang et al. CrossFormer++. 2023. arXiv:2303.06908.
Official code: github.com/cheerss/CrossFormer (commit 7952010).

A group has G x G tokens at a distance of I on each axis, from one block of G I x G I:

  short distance (SDA): I = 1, groups are windows
  long distance (LDA):  I = ceil(side / G), groups are dilated grids, fixed in place
  out[t] = softmax_s(scale q[t] . k[s] + b[place(t) - place(s)]) v[s]     in the group
  b(dy, dx) = MLP(dy, dx)                       dynamic position bias (DPB), any group

place() counts within the group. Layers take turns, the even ones short. The cross-scale
embedding (CEL) concatenates convolutions of several sizes with one stride. A grid that
groups do not tile is padded at its end, and padding is not seen.

Cost: O(T G^2 (H + V) N) time and O(T (H + V) N) memory; T^2 N numbers in "reference",
and (2 G - 1)^2 D^2 / 128 for the bias in both.

Axes: B batch, S the two axes of the grid, T their tokens, P the G^2 tokens of a group,
N query heads, K key/value heads, H head size, V value size, D model width.

Not here: the official code's options that none of its configurations choose: padding
on both sides, groups without a mask, groups that grow over the depth, positions by a
convolution or a table, one ratio of the MLP for each stage.
"""

from attnjax.variants.local.crossformer.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.local.crossformer.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.local.crossformer.embedding import CrossScale
from attnjax.variants.local.crossformer.layer import Layer
from attnjax.variants.local.crossformer.position import DynamicBias

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "SIZES",
  "CrossScale",
  "DynamicBias",
  "Layer",
  "Model",
  "attend",
  "reference",
]
FORMS = ("image", "backbone")
LAYER = {"dim": 32, "heads": 4, "window": 3, "bias_width": 4}
GROWTH = 1.0
