"""L2ViT: linear attention that is bounded below, and made local again.

Chuanyang Zheng. The Linear Attention Resurrection in Vision Transformer. 2025.
arXiv:2501.16182. Official code: github.com/ChuanyangZheng/L2ViT (commit fad0341).

  q, k <- relu(q), relu(k)
  out[t, n] = temperature[n] q[t, n] S / max(q[t, n] . z, den_min)
  S = sum_s k_s v_s^T,  z = sum_s k_s                    over all tokens s

The implied attention matrix is nonnegative and too smooth; depthwise convolutions
after the attention concentrate it:

  concentrate(x) = conv7x7(norm(gelu(conv7x7(x))))
  h = x + conv3x3(x);  h = h + attn(norm h);  h = h + concentrate(norm h);  MLP

The model alternates such blocks with softmax attention in windows.

Cost: O(T H V N) time for the attention, N H V elements beside the tokens, in "xla"
(packed documents: chunks, as in `attnjax.core.recurrence.linear`); O(T^2 (H + V) N)
and O(T^2 N) in "reference". The concentration: 98 T D products.

Axes: B batch, T tokens, S the axes of the grid, N query heads, K key/value heads, H
head size, V value size, D model width.

Not here: what the code has as options, GELUs after the convolutions for positions and
other kinds of block; networks that detect and segment.
"""

from attnjax.variants.linear.l2vit.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.linear.l2vit.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.linear.l2vit.blocks import GlobalBlock, WindowBlock
from attnjax.variants.linear.l2vit.layer import NORMS, Concentration, Layer

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "NORMS",
  "PARAMETERS",
  "SIZES",
  "Concentration",
  "GlobalBlock",
  "Layer",
  "Model",
  "WindowBlock",
  "attend",
  "reference",
]
FORMS = ("sequence", "image", "backbone")
LAYER = {"dim": 32, "heads": 4, "local_kernel": 3}
GROWTH = 1.0
