"""MSA-Conv: self-attention in the place of a convolution's taps.

Song Zhang, Qingzhong Wang, Jiang Bian, Haoyi Xiong. TiC: Exploring Vision Transformer
in Convolution. 2023. arXiv:2310.04134. Official code: github.com/zs670980918/MSA-Conv
(commit 2d96f54), which holds the operator only.

Each token sees a window of k_h x k_w tokens at the distance r:

  s[p, t] = scale q[p] . k[p + r (t - k div 2)]           t in 0..k_h-1 x 0..k_w-1
  o[p]    = sum_t softmax_t(s[p, t]) v[p + r (t - k div 2)]
  y       = relu(conv_k(o + x))                           of the module, no residual

Beyond the image keys and values are zeros, which take their part of the softmax
(border "zero", as in the code), or are not seen (border "mask"). The code has one head;
with as many heads as channels the operator is depthwise.

Two things that enlarge the reach have no official code, and are defined here:
  shift (multi-directional cyclic shift): a quarter of the channels each has its keys
    and values rolled by `shift` tokens up, down, left or right, around the border
  pooling (inter-pooling): one softmax over the k^2 taps of the map and the k^2 taps
    of its means over 2 x 2 tokens, around the mean that the token is in

Cost: O(T k_h k_w (H + V) N) products, times (8 + k - 1)^2 / k^2 in blocks of 8 x 8;
memory O(T (H + V) N), and T k_h k_w (H + V) N in "reference".

Axes: B batch, H W the image (T = H W), P = k_h k_w taps, N heads, D model width.

Not here: TiC, the paper's network of four stages. No code of it is published, and its
widths, depths, norms, stem and the places of its shifts and poolings are not known.
"""

from attnjax.variants.local.msa_conv.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
  window_av,
  window_qk,
)
from attnjax.variants.local.msa_conv.layer import FORMS, Layer, MSAConv2d

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "Layer",
  "MSAConv2d",
  "attend",
  "reference",
  "window_av",
  "window_qk",
]
LAYER = {"dim": 8, "heads": 2, "window": 3, "shift": 1}
GROWTH = 1.0
