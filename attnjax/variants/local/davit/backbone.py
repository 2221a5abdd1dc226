"""The paper's network: four stages of blocks that take turns."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.core.softmax import wide
from attnjax.nn import paths, transformer
from attnjax.nn.depthwise import Depthwise
from attnjax.variants.local.davit.layer import Layer

_INIT = nnx.initializers.truncated_normal(0.02)
# Table 1 of the paper: depths count pairs of blocks.
SIZES: dict[str, dict[str, Any]] = {
  "tiny": {"dims": (96, 192, 384, 768), "depths": (1, 1, 3, 1)},
  "small": {"dims": (96, 192, 384, 768), "depths": (1, 1, 9, 1)},
  "base": {
    "dims": (128, 256, 512, 1024),
    "depths": (1, 1, 9, 1),
    "heads": (4, 8, 16, 32),
  },
}


class Block(nnx.Module):
  """Attention of one kind and an MLP, each after a convolution for positions.

    x = x + convolve(x);  x = x + attend(norm x);
    x = x + convolve(x);  x = x + mlp(norm x)

  Args:
    dim: D.
    kind: "window" or "channel".
    hidden: width of the MLP.
    drop: the share of examples whose residual is left out in training.
    rngs: for the parameters.
    options: more of `Layer`.
  """

  def __init__(
    self,
    dim: int,
    *,
    kind: str,
    hidden: int,
    drop: float = 0.0,
    rngs: nnx.Rngs,
    **options,
  ):
    self.positions = nnx.List(Depthwise(dim, 3, rngs=rngs) for _ in range(2))
    self.norms = nnx.List(transformer.layer_norm(dim, rngs=rngs) for _ in range(2))
    self.mix = Layer(dim, form="image", kind=kind, rngs=rngs, **options)
    self.feed = transformer.Feed(dim, hidden, rngs=rngs)
    self.drop = drop

  def __call__(
    self, x: Float[Array, "B H W D"], *, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B H W D"]:
    """The block's output; `key` turns the dropping of residuals on."""
    first, second = (None, None) if key is None else jax.random.split(key)
    x = x + self.positions[0](x)
    x = x + paths.drop(self.mix(self.norms[0](x)), self.drop, first)
    x = x + self.positions[1](x)
    return x + paths.drop(self.feed(self.norms[1](x)), self.drop, second)


class Model(nnx.Module):
  """Images (B, H, W, channels) of any size to logits (B, classes) float32.

  A convolution of 7 x 7 and stride 4 and a norm; before each later stage a norm and a
  convolution of 2 x 2 and stride 2. Maps that a stride does not divide are padded with
  zeros at the right and bottom.

  Args:
    channels: of the images.
    classes: number of logits.
    dims: width of each stage.
    depths: of each stage, in pairs of a window block and a channel block.
    heads: of each stage.
    window: side of the windows.
    mlp_ratio: hidden width of the MLPs, in D.
    drop: of the last block; the blocks before it have less, in equal steps.
    rngs: for the parameters.
    options: more of `Layer`.
  """

  def __init__(
    self,
    channels: int,
    classes: int,
    *,
    dims: tuple[int, ...] = (96, 192, 384, 768),
    depths: tuple[int, ...] = (1, 1, 3, 1),
    heads: tuple[int, ...] = (3, 6, 12, 24),
    window: int = 7,
    mlp_ratio: float = 4.0,
    drop: float = 0.1,
    rngs: nnx.Rngs,
    **options,
  ):
    if not len(dims) == len(depths) == len(heads):
      raise ValueError(f"dims {dims}, depths {depths}, heads {heads}: one a stage")
    self.merges = nnx.List(
      _Merge(below, dim, first=not stage, rngs=rngs)
      for stage, (below, dim) in enumerate(zip((channels, *dims), dims))
    )
    rates = transformer.rates(drop, tuple(2 * depth for depth in depths))
    self.stages = nnx.List(
      nnx.List(
        Block(
          dim,
          kind="channel" if number % 2 else "window",
          hidden=int(mlp_ratio * dim),
          drop=rate,
          heads=count,
          window=window,
          rngs=rngs,
          **options,
        )
        for number, rate in enumerate(own)
      )
      for dim, count, own in zip(dims, heads, rates)
    )
    self.norm = transformer.layer_norm(dims[-1], rngs=rngs)
    self.head = nnx.Linear(dims[-1], classes, kernel_init=_INIT, rngs=rngs)

  def __call__(
    self, images: Float[Array, "B H W C"], *, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B classes"]:
    """Logits of the classes."""
    pooled = self.features(images, key=key)[-1].mean(axis=(1, 2))
    logits = self.head(self.norm(pooled))
    return logits.astype(wide(logits))

  def features(
    self, images: Float[Array, "B H W C"], *, key: Key[Array, ""] | None = None
  ) -> list[Array]:
    """The map (B, h, w, D) after every stage, for dense tasks."""
    found, x = [], images
    for stage, (merge, blocks) in enumerate(zip(self.merges, self.stages)):
      x = merge(x)
      own = None if key is None else jax.random.fold_in(key, stage)
      for block, part in zip(blocks, transformer.keys(own, len(blocks))):
        x = block(x, key=part)
      found.append(x)
    return found


class _Merge(nnx.Module):
  """Between stages a norm and patches of 2 x 2; first overlapping ones, then a norm."""

  def __init__(self, below, dim, *, first, rngs):
    size, self.stride, pad = (7, 4, 3) if first else (2, 2, 0)
    self.project = nnx.Conv(
      below,
      dim,
      (size, size),
      strides=self.stride,
      padding=((pad, pad),) * 2,
      kernel_init=_INIT,
      rngs=rngs,
    )
    self.norm = transformer.layer_norm(dim if first else below, rngs=rngs)
    self.first = first

  def __call__(self, x):
    x = x if self.first else self.norm(x)
    around = [(0, -n % self.stride) for n in x.shape[1:3]]
    x = self.project(jnp.pad(x, ((0, 0), *around, (0, 0))))
    return self.norm(x) if self.first else x
