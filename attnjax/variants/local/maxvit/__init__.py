"""MaxViT: attention in windows, then over a dilated grid, after a convolution.

Zhengzhong Tu, Hossein Talebi, Han Zhang, Feng Yang, Peyman Milanfar, Alan Bovik,
Yinxiao Li. MaxViT: Multi-Axis Vision Transformer. 2022. arXiv:2204.01697. Official
code: github.com/google-research/maxvit (commit 70a4707).

  score[t, s] = scale q[t] . k[s] + table[row(s) - row(t), column(s) - column(t)]
  out[t] = sum_s softmax_s(score[t, s]) v[s]

over the tokens s of t's group: a window of p x p adjacent tokens, or a grid of g x g
tokens at the distance ceil(rows / g), ceil(columns / g); rows and columns count places
in the group. A map that groups do not tile is padded, and the padding is not seen.

  block: MBConv; then x + windows(norm x), x + mlp(norm x), and both with the grid

Cost: O(T p^2 (H + V) N) time, O(T N (H + V) + p^4 N) memory in "xla".

Axes: B batch, S axes of the map (T = prod S), N query heads, K key/value heads, H head
size, V value size, D model width.

Not here: the resizing of bias tables to other windows; networks that detect objects or
generate images.
"""

from attnjax.variants.local.maxvit.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.local.maxvit.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.local.maxvit.blocks import Block, MBConv
from attnjax.variants.local.maxvit.layer import Layer

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "SIZES",
  "Block",
  "Layer",
  "MBConv",
  "Model",
  "attend",
  "reference",
]
FORMS = ("image", "backbone")
LAYER = {"dim": 32, "head_dim": 8, "window": 3}
GROWTH = 1.0
