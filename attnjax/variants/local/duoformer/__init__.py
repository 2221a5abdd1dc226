"""DuoFormer: attention across the scales of one place, then between the places.

Xiaoya Tang, Bodong Zhang, Man Minh Ho, Beatrice S. Knudsen, Tolga Tasdizen. DuoFormer:
Leveraging Hierarchical Representations by Local and Global Attention Vision
Transformer. 2025. arXiv:2506.12982. Official code: github.com/xiaoyatang/DuoFormer (its
copy AliSerwat/duoformer_TCGA, commit 69b7441, was read).

A convolutional network gives maps of several scales. All that lies under one of the P
cells of the coarsest map is a list of n tokens, coarse to fine, 1 + 4 + 16 + ..., with
a learned scale token in front:

  scale attention   out[p, i] = softmax_j(scale q[p, i] . k[p, j]) v[p, j]   in list p
  patch attention   softmax attention of the P scale tokens (and a class token)

The encoder has `depth` blocks of the first kind, then `depth` of the second, which sees
nothing but the scale tokens. Published patch blocks are bare attention, without
residual, norm and MLP; "prenorm" blocks have them.

Cost: O(P n^2 (H + V) N) time and O(P n (H + V) N) memory, P n^2 N numbers in
"reference"; in the encoder most of it is the MLP of P n tokens.

Axes: B batch, P cells, n tokens of a list, N query heads, K key/value heads, H head
size, V value size, D model width.

Not here: the scale token that is a fused map ("channel" in the official code), the
encoder that shares its weights between both kinds of blocks, dropout, and pretrained
weights of the convolutional network.
"""

from attnjax.variants.local.duoformer.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.local.duoformer.backbone import (
  PADDED,
  PARAMETERS,
  SIZES,
  Model,
)
from attnjax.variants.local.duoformer.encoder import Encoder
from attnjax.variants.local.duoformer.layer import Layer, ScaleAttention
from attnjax.variants.local.duoformer.tokens import scale_tokens

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PADDED",
  "PARAMETERS",
  "SIZES",
  "Encoder",
  "Layer",
  "Model",
  "ScaleAttention",
  "attend",
  "reference",
  "scale_tokens",
]
FORMS = ("image", "backbone")
LAYER = {"dim": 32, "heads": 4, "scales": 2}
GROWTH = 2.0
