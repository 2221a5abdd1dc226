"""MedViTV2: neighbourhood attention, pooled attention, and a KAN for the MLP.

Omid Nejati Manzari, Hojat Asgariandehkordi, Taha Koleilat, Yiming Xiao, Hassan Rivaz.
Medical Image Classification with KAN-Integrated Transformers and Dilated Neighborhood
Attention. Applied Soft Computing, 2025. arXiv:2502.13693. Official code:
github.com/Omid-Nejati/MedViTV2 (commit 8d54f66).

Neighbourhood attention with dilation d and window w, on each axis: a token is number i
of the L tokens whose coordinate has its remainder by d, and sees the keys

  a <= j < a + w,  a = clip(i - w div 2, 0, L - w)        all of them where L < w
  out[i] = softmax_j(scale q[i] . k[j] + b[j - i]) v[j]   b a table of both axes

The abstract's dilation is 1 in the code; the layer's own rule, floor(side / w) at every
second depth, is that of DiNAT (Ali Hassani, Humphrey Shi. arXiv:2209.15001).

A layer of the KAN (FasterKAN) has G = 8 bumps for each number, c_g from -2 to 2:

  u = LayerNorm(x);  b[i, g] = 1 - tanh((u_i - c_g) / 0.33)^2;  y = sum_ig b[i, g] W_ig

Local blocks (LFP) are attention and an inverted residual convolution, global ones (GFP)
attention to keys pooled along the flattened image, a grouped convolution on the rest of
the channels, and the KAN for each token. The published weights are of code that reads
maps (B, D, H, W) as if they were (B, H, W, D), at the neighbourhood attention and at
the KAN: `layout_bug=True` does so too.

Cost: O(T w^2 (H + V) N) products, times about 4 for w = 7 in blocks of 8 x 8, memory
O(T (H + V) N), and T^2 N numbers in "reference". A KAN has 8 times the weights and
products of linear maps between the same widths.

Axes: B batch, R C the rows and columns of the map (T = R C), N query heads, K key/value
heads, H head size, V value size, D model width.

Not here: dropout within the attentions, and norms that are merged into the linear maps
behind them for inference.
"""

from attnjax.variants.local.medvitv2.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.local.medvitv2.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.local.medvitv2.blocks import GFP, LFP
from attnjax.variants.local.medvitv2.kan import FasterKAN, KANLayer, bumps, kan_layer
from attnjax.variants.local.medvitv2.layer import Layer

__all__ = [
  "CASES",
  "FORMS",
  "GFP",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "LFP",
  "PARAMETERS",
  "SIZES",
  "FasterKAN",
  "KANLayer",
  "Layer",
  "Model",
  "attend",
  "bumps",
  "kan_layer",
  "reference",
]
FORMS = ("image", "backbone")
LAYER = {"dim": 16, "heads": 2, "window": 3}
GROWTH = 1.0
