"""The convolutional network below the encoder.

Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun. Deep Residual Learning for Image
Recognition. 2015. arXiv:1512.03385, table 1; the stride is in the 3 x 3 convolutions,
as in torchvision.
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnjax.nn import running
from attnjax.nn.norms import BatchNorm
from attnjax.nn.stages import Stage, Stages, one_a_stage

_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
WIDTHS = (64, 128, 256, 512)


class ResNet(nnx.Module):
  """images (B, H, W, C) -> maps at a fourth, 8th, 16th, ... of their sides.

  Args:
    channels: C.
    blocks: number of blocks of each stage.
    widths: of the 3 x 3 convolutions of each stage.
    expansion: channels out of a block, in those of its 3 x 3 convolutions; 1 for the
      blocks of two convolutions, 4 for those of three.
    remat: of each block, see `nn.stack.REMAT`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    channels: int,
    *,
    blocks: Sequence[int],
    widths: Sequence[int] = WIDTHS,
    expansion: int = 1,
    remat: str = "none",
    rngs: nnx.Rngs,
  ):
    one_a_stage(blocks=blocks, widths=widths)
    self.stem = _Unit(channels, widths[0], 7, 2, rngs=rngs)
    stages, below = [], widths[0]
    for stage, (dim, depth) in enumerate(zip(widths, blocks)):
      found = []
      for number in range(depth):
        stride = 2 if stage and not number else 1
        found.append(_Block(below, dim, expansion, stride, rngs=rngs))
        below = dim * expansion
      stages.append(Stage(found, remat=remat))
    self.stages = Stages(stages)
    self.dims = tuple(dim * expansion for dim in widths)

  def __call__(
    self, images: Float[Array, "B H W C"], *, stats: Any = None, train: bool = False
  ) -> tuple[list[Array], Any]:
    """Returns (the maps (B, h, w, D), the finest first, new statistics)."""
    carry = running.Carry(self, stats, train)
    x = jax.nn.relu(carry(self.stem, images))
    x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return carry.result(carry(self.stages, x))


class _Unit(nnx.Module):
  """A convolution without bias, and a norm."""

  def __init__(self, below, dim, size, stride, *, rngs):
    around = (size // 2,) * 2
    self.convolution = nnx.Conv(
      below,
      dim,
      (size, size),
      strides=stride,
      padding=(around, around),
      use_bias=False,
      kernel_init=_INIT,
      rngs=rngs,
    )
    self.norm = BatchNorm(dim)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    return carry.result(carry(self.norm, self.convolution(x)))


class _Block(nnx.Module):
  def __init__(self, below, dim, expansion, stride, *, rngs):
    out = dim * expansion
    if expansion == 1:
      parts = (below, dim, 3, stride), (dim, dim, 3, 1)
    else:
      parts = (below, dim, 1, 1), (dim, dim, 3, stride), (dim, out, 1, 1)
    self.units = nnx.List(_Unit(*part, rngs=rngs) for part in parts)
    change = stride > 1 or below != out
    self.short = _Unit(below, out, 1, stride, rngs=rngs) if change else None

  def __call__(self, x, *, index=0, key=None, stats=None, train=False):
    del index, key  # equal at every depth, and nothing is dropped
    carry, y = running.Carry(self, stats, train), x
    for number, unit in enumerate(self.units):
      y = carry(unit, jax.nn.relu(y) if number else y)
    x = x if self.short is None else carry(self.short, x)
    return carry.result(jax.nn.relu(y + x))
