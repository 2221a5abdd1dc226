"""HyperZ.Z.W and the Terminator: slow nets make the weights of fast ones.

Harvie Zhang. HyperZ.Z.W Operator Connects Slow-Fast Networks for Full Context
Interaction. 2024. arXiv:2401.17948. Official code: github.com/hyperevolnet/Terminator.

A slow net, an MLP over coordinates, generates a kernel W as large as the feature map. A
pixel times its entry is a weight that depends on the context; weights act on features:

  out = (x * W) z                      for each channel, a product of H x W matrices
  out = depthwise convolution of x with a small kernel, made from pooled features
  slow net: h_0 = sin(F_0 c),  h_l = sin(F_l c) * (A_l h_{l-1} + a_l) + p,  W = A h_L

A block runs ten such branches side by side and mixes them into a narrow layer, with
no residual and no running statistics; `attend` is the global product. Two losses tie
the kernels of blocks to each other: `slow_neural_loss`, by the sum over channels or by
tiling them; in training the objective adds `weight_norms`. On maps that are not square
the product sums over the first min(H, W) rows: it equals the product of squares padded
with zeros.

Cost of the product for a channel of a square map of T pixels: O(T^1.5) time and O(T)
memory; "reference" holds O(T^1.5). The slow nets: O(T L m^2) for all images together,
L layers, m wide.

Statistics of the batch enter the normalisations and the local kernels, in evaluation
too, as in the official code: an image's result depends on the others. `Statistics`
reuses the statistics of one batch for other images, so that it does not.

Axes: B batch, H W pixels, C channels, D model width.

Not here: maps of one axis for sequences. Fused kernels: the global product is a batch
of matrix products, which XLA hands to the matrix units, and the small kernels are
convolutions; there is no softmax and no recurrence over tokens, which the shared
kernels compute.
"""

from attnjax.variants.mixers.hyperzzw.blocks import FORMS, Layer, SFNEBlock
from attnjax.variants.mixers.hyperzzw.branches import (
  RGU,
  HyperChannelInteract,
  HyperInteract,
  LocalConv,
  MultiBranch,
)
from attnjax.variants.mixers.hyperzzw.kar3 import kar3, scale_by_signs
from attnjax.variants.mixers.hyperzzw.losses import (
  REDUCTIONS,
  slow_neural_loss,
  terminator_loss,
  weight_norms,
)
from attnjax.variants.mixers.hyperzzw.operator import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  elementwise,
  local,
  reference,
)
from attnjax.variants.mixers.hyperzzw.slow import LocalSlowNet, SlowNet
from attnjax.variants.mixers.hyperzzw.standardise import Statistics, gibs
from attnjax.variants.mixers.hyperzzw.terminator import Terminator

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "REDUCTIONS",
  "RGU",
  "HyperChannelInteract",
  "HyperInteract",
  "Layer",
  "LocalConv",
  "LocalSlowNet",
  "MultiBranch",
  "SFNEBlock",
  "SlowNet",
  "Statistics",
  "Terminator",
  "attend",
  "elementwise",
  "gibs",
  "kar3",
  "local",
  "reference",
  "scale_by_signs",
  "slow_neural_loss",
  "terminator_loss",
  "weight_norms",
]
LAYER = {
  "dim": 16,
  "size": 8,
  "slow_width": 6,
  "local_width": 4,
  "score_width": 4,
  "kernels": (3, 5, 3, 3),
  "omega0": 0.3,
}
GROWTH = 1.5
