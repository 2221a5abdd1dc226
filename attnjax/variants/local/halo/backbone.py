"""The paper's networks: bottlenecks whose middle is halo attention."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.softmax import wide
from attnjax.nn import running
from attnjax.nn.norms import BatchNorm
from attnjax.variants.local.halo.layer import Layer

WIDTHS, HEADS = (64, 128, 256, 512), (4, 8, 8, 8)


def _size(block, halo, values, width, third, last) -> dict[str, Any]:
  return {
    "block": block,
    "halo": halo,
    "value_ratio": values,
    "bottleneck_ratio": width,
    "depths": (3, 3, third, 3),
    "last": last,
  }


# Tables 2 and 3 of the paper: b, h, r_v, r_b, blocks of the third stage, d_f.
SIZES = {
  "h0": _size(8, 3, 1.0, 0.5, 7, 0),
  "h1": _size(8, 3, 1.0, 1.0, 10, 0),
  "h2": _size(8, 3, 1.0, 1.25, 11, 0),
  "h3": _size(10, 3, 1.0, 1.5, 12, 1024),
  "h4": _size(12, 2, 1.0, 3.0, 12, 1280),
  "h5": _size(14, 2, 2.5, 2.0, 23, 1536),
  "h6": _size(8, 4, 3.0, 2.75, 24, 1536),
  "h7": _size(10, 3, 4.0, 3.5, 26, 2048),
}


class Bottleneck(nnx.Module):
  """shortcut(x) + 1 x 1, halo attention, 1 x 1; with batch norms and SiLU.

  Args:
    below: channels of x.
    width: D of the attention.
    dim: channels of the result.
    stride: 2 halves the map.
    rngs: for the parameters.
    options: more of `Layer`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    below: int,
    width: int,
    dim: int,
    *,
    stride: int = 1,
    rngs: nnx.Rngs,
    **options,
  ):
    self.first = _Projection(below, width, rngs=rngs)
    self.mix = Layer(width, stride=stride, rngs=rngs, **options)
    values = int(width * options.get("value_ratio", 1.0))
    self.norm = BatchNorm(values)
    self.last = _Projection(values, dim, rngs=rngs)
    same = stride == 1 and below == dim
    self.shortcut = None if same else _Projection(below, dim, rngs=rngs)
    self.stride = stride

  def __call__(
    self, x: Float[Array, "B R C D"], *, stats: Any = None, train: bool = False
  ) -> tuple[Float[Array, "B r c E"], Any]:
    """(the block's output, new statistics)."""
    carry = running.Carry(self, stats, train)
    y = self.mix(jax.nn.silu(carry(self.first, x)))
    y = carry(self.last, jax.nn.silu(carry(self.norm, y)))
    if self.shortcut is not None:
      x = carry(self.shortcut, x[:, :: self.stride, :: self.stride])
    return carry.result(jax.nn.silu(x + y))


class Model(nnx.Module):
  """Images (B, H, W, channels) of any size to logits (B, classes) float32.

  A convolution of 7 x 7 and stride 2, the greatest of 3 x 3 with stride 2, then stages
  of bottlenecks, each after the first one beginning with stride 2.

  Args:
    channels: of the images.
    classes: number of logits.
    block: side of the blocks of queries.
    halo: keys around a block.
    value_ratio: width of the values, in that of the bottleneck (the paper's r_v).
    bottleneck_ratio: width of a stage's maps, in that of its bottlenecks (r_b).
    widths: of the bottlenecks of each stage.
    depths: number of bottlenecks of each stage.
    heads: of each stage.
    last: channels of a last projection; none if 0.
    rngs: for the parameters.
    options: more of `Layer`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    channels: int,
    classes: int,
    *,
    block: int = 8,
    halo: int = 3,
    value_ratio: float = 1.0,
    bottleneck_ratio: float = 1.0,
    widths: tuple[int, ...] = WIDTHS,
    depths: tuple[int, ...] = (3, 3, 10, 3),
    heads: tuple[int, ...] = HEADS,
    last: int = 0,
    rngs: nnx.Rngs,
    **options,
  ):
    if not len(widths) == len(depths) == len(heads):
      raise ValueError(f"widths {widths}, depths {depths}, heads {heads}: one a stage")
    around = ((3, 3), (3, 3))
    self.stem = nnx.Conv(
      channels, widths[0], (7, 7), 2, padding=around, use_bias=False, rngs=rngs
    )
    self.stem_norm = BatchNorm(widths[0])
    self.stages, below = nnx.List([]), widths[0]
    for stage, (width, depth, count) in enumerate(zip(widths, depths, heads)):
      blocks, dim = nnx.List([]), int(width * bottleneck_ratio)
      for number in range(depth):
        blocks.append(
          Bottleneck(
            below,
            width,
            dim,
            stride=2 if stage and not number else 1,
            heads=count,
            head_dim=width // count,
            value_ratio=value_ratio,
            block=block,
            halo=halo,
            rngs=rngs,
            **options,
          )
        )
        below = dim
      self.stages.append(blocks)
    self.last = _Projection(below, last, rngs=rngs) if last else None
    self.head = nnx.Linear(last or below, classes, rngs=rngs)

  def __call__(
    self, images: Float[Array, "B H W C"], *, stats: Any = None, train: bool = False
  ) -> tuple[Float[Array, "B classes"], Any]:
    """(logits of the classes, new statistics)."""
    carry = running.Carry(self, stats, train)
    x = self._features(carry, images)[-1]
    x = x if self.last is None else jax.nn.silu(carry(self.last, x))
    logits = self.head(x.mean(axis=(1, 2)))
    return carry.result(logits.astype(wide(logits)))

  def features(
    self, images: Float[Array, "B H W C"], *, stats: Any = None, train: bool = False
  ) -> tuple[list[Array], Any]:
    """(the map (B, h, w, D) after every stage, new statistics), for dense tasks."""
    carry = running.Carry(self, stats, train)
    return carry.result(self._features(carry, images))

  def _features(self, carry, images):
    x = jax.nn.silu(carry(self.stem_norm, self.stem(images)))
    x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    found = []
    for blocks in self.stages:
      for block in blocks:
        x = carry(block, x)
      found.append(x)
    return found


class _Projection(nnx.Module):
  """Each pixel's channels, then a batch norm."""

  def __init__(self, below, dim, *, rngs):
    self.linear = nnx.Linear(below, dim, use_bias=False, rngs=rngs)
    self.norm = BatchNorm(dim)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    return carry.result(carry(self.norm, self.linear(x)))
