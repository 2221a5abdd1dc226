"""Scale-DiT: local windows, text, and a small image of the whole as a guide.

Yuyao Zhang, Yu-Wing Tai. Scale-DiT: Ultra-High-Resolution Image Generation with
Hierarchical Local Attention. 2025. arXiv:2510.16325. Official code:
github.com/PeterYYZhang/Scale-DiT (commit ef68520).

Three streams of tokens, text, an image, and the same image at low resolution:

  text  sees text and the image ("limited"), or everything ("all")
  image sees text, its neighbours, and the low-resolution tokens
          "sliding": |rows| <= w_h div 2 and |columns| <= w_w div 2, fewer at borders
          "window":  the same window after a cyclic shift by one token, borders joined
  low   sees text and low, never the image: it can be computed once

If there are more than 256 low-resolution tokens, an image token sees only the part that
belongs to its run of windows, and they see each other in blocks of 256. One set of
weights serves the streams, or the text has its own; each query and key head has an RMS
norm; on low-resolution tokens low-rank terms are added (LoRA):

  y = W x + [token is low] alpha / rank B A x

The rotary position of a low-resolution token is the corner of its cell, its place times
the ratio of the sizes. Image tokens lie window by window, so that a block of queries
sees few blocks of keys. The paper's text orders windows along Hilbert curves; its code
also has an index that steps between cells that are not neighbours: the order
"released".

Cost: O(T (w_h + 1) (w_w + 1) N H) and O(T (E + L) N H) for E text and L low-resolution
tokens, memory O(T N H) in tiles.

Axes: B batch, T tokens of all streams, N query heads, K key/value heads, H head size,
D model width.

`Transformer` is the model around it, FLUX.2: blocks in which the text has weights of
its own, then blocks with one set for all streams and an MLP beside the attention. The
time of the diffusion shifts, scales and gates tokens; the low resolution's time is 0.

Not here: training and sampling, and the autoencoder and the text encoder around them.
"""

from attnjax.variants.local.scale_dit.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  proportional_scale,
  reference,
)
from attnjax.variants.local.scale_dit.blocks import DoubleBlock, SingleBlock
from attnjax.variants.local.scale_dit.joint import JointAttention, rotate
from attnjax.variants.local.scale_dit.layer import FORMS, Layer
from attnjax.variants.local.scale_dit.layout import (
  Layout,
  anchor_positions,
  window_order,
)
from attnjax.variants.local.scale_dit.lora import TokenLoRA
from attnjax.variants.local.scale_dit.mask import hierarchical_local_mask
from attnjax.variants.local.scale_dit.modulation import Modulation, TimeEmbedding
from attnjax.variants.local.scale_dit.transformer import (
  PARAMETERS,
  SIZES,
  Transformer,
)

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "SIZES",
  "DoubleBlock",
  "JointAttention",
  "Layer",
  "Layout",
  "Modulation",
  "SingleBlock",
  "TimeEmbedding",
  "TokenLoRA",
  "Transformer",
  "anchor_positions",
  "attend",
  "hierarchical_local_mask",
  "proportional_scale",
  "reference",
  "rotate",
  "window_order",
]
LAYER = {"dim": 32, "heads": 4, "window": 4, "ratio": 3, "rank": 2, "lora_noise": 0.1}
GROWTH = 2.0
