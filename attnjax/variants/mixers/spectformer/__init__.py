"""SpectFormer: filters over all tokens in the first blocks, attention in the others.

Badri N. Patro, Vinay P. Namboodiri, Vijay S. Agneeswaran. SpectFormer: Frequency and
Attention is What You Need in a Vision Transformer. 2023. arXiv:2304.06446. Official
code: github.com/badripatro/SpectFormers (commit b6cf487). The filter is the global
filter of GFNet (Yongming Rao et al. 2021. arXiv:2107.00645).

  out = irfft(rfft(x) * K)                   over both axes of the map, each channel
      = sum_q k[(p - q) mod (h, w)] x[q]     k = irfft(K), as large as the map

  vanilla block       x + MLP(LN'(filter(LN x)))               one residual, as in GFNet
  hierarchical block  y = x + filter(LN x),  y + MLP(LN' y)    two

The first alpha blocks are such ones, the others have softmax attention: alpha = 0 is a
Vision Transformer, alpha = depth is GFNet. K is complex, as large as half the map and
learned for one size: on maps of other sizes it is interpolated, as the official code
does before it trains further. The convolution is circular: borders that lie opposite
are neighbours. A filter draws near 0, 0.02 times a unit normal.

In the hierarchical network the mean of the last map attends to it as a class token;
with token labels each token has logits too. In the form "sequence" the row is the
circle: no mask, padding or document can be cut from it, so that all are refused.

Cost of a filter: O(T log T D) time by an FFT, O(T^1.5 D) on a square map by products
with DFT matrices; O(T D) memory, and as many parameters.

Axes: B batch, T tokens, h w rows and columns of a map, C channels, D model width.

Not here: the loss of token labelling and its mixing of images in training; dropout and
the hidden layer before the classifier, which no published size has; object detection;
fused kernels, the transforms being XLA's.
"""

from attnjax.variants.mixers.spectformer.backbone import (
  MIXERS,
  PARAMETERS,
  SIZES,
  Model,
)
from attnjax.variants.mixers.spectformer.blocks import (
  STYLES,
  SpectralBlock,
  attention_block,
)
from attnjax.variants.mixers.spectformer.gating import (
  CASES,
  CURVES,
  IMPLEMENTATIONS,
  METHODS,
  reference,
  spectral_gate,
)
from attnjax.variants.mixers.spectformer.layer import Layer, resampled, scaled
from attnjax.variants.mixers.spectformer.pooling import (
  ClassAttention,
  TokenHead,
  token_logits,
)

__all__ = [
  "CASES",
  "CURVES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "METHODS",
  "MIXERS",
  "PARAMETERS",
  "SIZES",
  "STYLES",
  "ClassAttention",
  "Layer",
  "Model",
  "SpectralBlock",
  "TokenHead",
  "attention_block",
  "reference",
  "resampled",
  "scaled",
  "spectral_gate",
  "token_logits",
]
FORMS = ("sequence", "image", "backbone")
LAYER = {"dim": 8, "grid": 9}
GROWTH = 1.5  # by matrices on a square map; a row as long goes by an FFT
