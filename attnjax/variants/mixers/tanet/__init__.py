"""TANet: three gates of pixels remove haze, rain and snow by one network.

Hsing-Hua Wang, Fu-Jen Tsai, Yen-Yu Lin, Chia-Wen Lin. TANet: Triplet Attention Network
for All-In-One Adverse Weather Image Restoration. 2024. arXiv:2410.08177. Official code:
github.com/xhuachris/TANet-ACCV-2024 (commit 6bcfb73).

  GSA(x) = x sigmoid(W2 relu(W1 (r + s)))     r: means of rows, convolved along H,
                                              s: means of columns, along W
  LPA(x) = sigmoid(K * [max_c x, mean_c x])   for all channels; K is 7 x 7
  GDA(x) = x + lrelu(conv(lrelu([norm(u1), u2])))   [u1, u2] = conv(x), the norm of each
                                              image and channel over its pixels

  t = lrelu(W lrelu(conv(x)))                 the block (TAB); W are 1 x 1
  f = x + lrelu(conv(lrelu(W [GSA(t1), LPA(t2), t3])))      t1, t2, t3: lrelu(conv(t))
  y = f + GDA(f) + W x

The network has two levels of residual convolutions down and two up, with skips, and ten
blocks between them; it adds its output to the image. LPA in the official code is the
gate itself, not its product with x (`lpa_multiply`), and GDA adds f a second time:
activations grow by a factor of three a block as they are drawn, which takes float32.
The loss is a distance of pixels plus one of Fourier coefficients, whose size grows with
that of the image; the authors clip the network's output before it.

Cost: O(T D^2) time, of convolutions; the gates are O(T D), GSA's strips of O(H + W)
pixels for its inner products. O(T D) memory; backward keeps the gates' inputs alone.

Axes: B batch, H W pixels, T = H W, C channels, M channels of strips, D model width,
E = D // 2 channels of a branch.

Not here: fused kernels of strip means and gates, which would read the map twice instead
of four times; the layers that the official blocks have and never call, the clip of
outputs in training, padding to multiples of 64, which the authors' test program has
instead of 4; their data, their weights, and the paper's number of parameters.
"""

from attnjax.variants.mixers.tanet import distribution, gates, objective
from attnjax.variants.mixers.tanet.convolutions import Convolution, convolve
from attnjax.variants.mixers.tanet.definition import (
  reference_distribution_block,
  reference_pixel_gate,
  reference_reconstruction,
  reference_strip_gate,
)
from attnjax.variants.mixers.tanet.distribution import EPSILON, distribution_block
from attnjax.variants.mixers.tanet.gates import IMPLEMENTATIONS, pixel_gate, strip_gate
from attnjax.variants.mixers.tanet.layer import (
  DistributionBlock,
  Layer,
  PixelGate,
  StripGate,
)
from attnjax.variants.mixers.tanet.network import (
  PARAMETERS,
  SIZES,
  Enlarge,
  Model,
  Network,
  Residual,
)
from attnjax.variants.mixers.tanet.objective import reconstruction

__all__ = [
  "CASES",
  "EPSILON",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "SIZES",
  "Convolution",
  "DistributionBlock",
  "Enlarge",
  "Layer",
  "Model",
  "Network",
  "PixelGate",
  "Residual",
  "StripGate",
  "convolve",
  "distribution_block",
  "pixel_gate",
  "reconstruction",
  "reference_distribution_block",
  "reference_pixel_gate",
  "reference_reconstruction",
  "reference_strip_gate",
  "strip_gate",
]
FORMS = ("image", "dense")
CASES = gates.CASES + distribution.CASES + objective.CASES
LAYER = {"dim": 16, "lpa_kernel": 5}
GROWTH = 1.0
