"""S2, scaling on scales: a small network on tiles of an image at several scales.

Baifeng Shi, Ziyang Wu, Maolin Mao, Xin Wang, Trevor Darrell. When Do We Not Need Larger
Vision Models? 2024. arXiv:2403.13043. Official code: github.com/bfshi/scaling_on_scales
(commit 9c008a3).

For a network f from images of H x W to maps, and scales r:

  x_r  = bicubic(x, r H x r W)                      a = -0.75, no antialiasing
  y_r  = f of each tile of x_r, stitched            n x n tiles, n = ceil(r H / split)
  out  = concatenate_r area(y_r, h x w)             channels; h x w of one scale

Tokens that are no map (class tokens) are averaged over tiles, and concatenated alike.
f runs on sides that it knows, and no tile sees another: finer scales give details,
attention over the whole image is not needed. `split` of half a side with scales 1/2 and
1 takes the details from the image itself, where scales 1 and 2 only enlarge it.

What a larger network's features hold beyond a smaller one's is measured by a linear map
from these to those: information = -log(error / error of the best constant), and its
ratio to what a still larger network's features give.

Cost: n^2 runs of f a scale, sum r^2 for scales r; T^2 / n^2 pairs of tokens where
attention over the whole image has T^2. `split_forward` has one tile of each image in
memory at a time.

Axes: B batch, H W the image's sides, h w those of a map, P other tokens, C channels of
the image, D of a map, E of what is reconstructed.

Not here: the authors' frozen networks and their benchmarks; traces of tiles; kernels of
its own: attention is within f.
"""

from attnjax.core.resample import area
from attnjax.variants.tokens.scaling_on_scales.backbone import (
  PARAMETERS,
  SIZES,
  Model,
  ScaledStages,
)
from attnjax.variants.tokens.scaling_on_scales.cases import CASES
from attnjax.variants.tokens.scaling_on_scales.definition import (
  reference_information,
  reference_linear_reconstruction,
  reference_multiscale_forward,
)
from attnjax.variants.tokens.scaling_on_scales.forward import (
  IMPLEMENTATIONS,
  merge_tiles,
  multiscale_forward,
  split_tiles,
)
from attnjax.variants.tokens.scaling_on_scales.reconstruction import (
  information,
  linear_reconstruction,
)
from attnjax.variants.tokens.scaling_on_scales.resize import bicubic

__all__ = [
  "CASES",
  "FORMS",
  "IMPLEMENTATIONS",
  "PARAMETERS",
  "SIZES",
  "Model",
  "ScaledStages",
  "area",
  "bicubic",
  "information",
  "linear_reconstruction",
  "merge_tiles",
  "multiscale_forward",
  "reference_information",
  "reference_linear_reconstruction",
  "reference_multiscale_forward",
  "split_tiles",
]
FORMS = ("backbone",)
