"""OverLoCK: an overview of the image makes the kernels that look at it closely.

Meng Lou, Yizhou Yu. OverLoCK: An Overview-first-Look-Closely-next ConvNet with
Context-Mixing Dynamic Kernels. CVPR 2025. arXiv:2502.20087. Official code:
github.com/LMMMEng/OverLoCK (commit 2c8ab3b).

ContMix makes the weights of each pixel's window of its affinities to regions:

  a[p]   = (q[p] . r[l])_l                 l over L = 49 means of the context, q scaled
  z[p,t] = sum_l a[p, l] W[l, t] + b[t] + bias[j - i + k - 1]
  y[p]   = sum_t softmax_t(z[p]) v[j(p, t)]

Pixel p has the coordinate i on an axis of length n; its window of k taps holds the keys
j from clip(i - k div 2, 0, n - k) on. W and b serve all groups. Half of the channels
see windows of 5 x 5, half windows of k x k. The layer around it, of a normalised x:

  y = norm(Wf [y5, yk]) + norm(large(x));   out = Wo norm(silu(norm(Wg x)) excite(y))

`large` is a sum of depthwise convolutions with different dilations, each with a batch
norm, which `fuse` merges to one. The scale of q is that of C / G channels, though it
has C / (2 G), as in the authors' code.

The network has three parts: a Base-Net of large convolutions; an Overview-Net, one more
stage of them; and a Focus-Net, whose ContMix blocks look at the Base-Net's map again,
with queries of its features and regions of the overview.

Cost: H W G L k^2 products for the weights and H W G k^2 c to apply them; memory O(H W G
(L + c + k)), and H W G k^2 c in "reference".

Axes: B batch, H W the map, G groups, d size of a query, L regions, P = k^2 taps, c size
of a value, D model width; N = 2 G heads, small windows' groups first.

Not here: the norms and the projection of the overview with which detection and
segmentation read the maps; kernels of its own.
"""

from attnjax.variants.local.overlock.backbone import (
  PARAMETERS,
  SIZES,
  Model,
  auxiliary_loss,
)
from attnjax.variants.local.overlock.blocks import ContMixBlock, ConvBlock
from attnjax.variants.local.overlock.contmix import ContMix
from attnjax.variants.local.overlock.guided import GuidedContMixBlock
from attnjax.variants.local.overlock.large_kernel import LargeKernel, fuse
from attnjax.variants.local.overlock.layer import Layer
from attnjax.variants.local.overlock.mixing import (
  CASES,
  IMPLEMENTATIONS,
  mix,
  reference,
)

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "SIZES",
  "ContMix",
  "ContMixBlock",
  "ConvBlock",
  "GuidedContMixBlock",
  "LargeKernel",
  "Layer",
  "Model",
  "auxiliary_loss",
  "fuse",
  "mix",
  "reference",
]
FORMS = ("image", "backbone")
LAYER = {"dim": 8, "heads": 1, "window": 5, "small_window": 3, "regions": 2}
GROWTH = 1.0
