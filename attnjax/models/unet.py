"""A U-shaped network from images to maps, around any mechanism on feature maps.

Olaf Ronneberger, Philipp Fischer, Thomas Brox. U-Net. arXiv:1505.04597, section 2, with
stages of pre-norm blocks in place of convolutions, as in Zhendong Wang et al. Uformer.
arXiv:2106.03106, section 3.1: stages at falling resolution and growing width, then as
many at growing resolution, each of which is joined with the map of its own resolution
on the way down. Two convolutions of 3 x 3 at full resolution, which also see the image,
make the maps. Fixed 2-D sinusoids are added once; images of any size fit, since patches
pad and crop.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract.trace import Edit, Edits, Trace
from attnjax.core.dtypes import accumulator_dtype
from attnjax.models.vision import on_grid
from attnjax.nn import running
from attnjax.nn.patches import Patches
from attnjax.nn.stack import Stack, hidden_size
from attnjax.nn.stages import Stages, one_a_stage
from attnjax.nn.unpatch import Unpatch

# A mechanism that knows two dimensions is given them.
FORMS = ("image", "sequence")
TAKES = "image_maps"  # what its data sets hold
SIZES = ("channels", "outputs")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return (batch["image"],), {}


class Model(nnx.Module):
  """images (B, H, W, channels) -> maps (B, H, W, outputs) float32.

  `stats` and `train` are of layers with batch norm, see `attnjax.nn.running`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    channels: int,
    outputs: int,
    patch: int = 2,  # side of the first stage's patches
    dims: tuple[int, ...] = (32, 64),  # width of each stage
    depths: tuple[int, ...] = (2, 2),  # blocks of each stage, down and up
    mlp_ratio: float = 4.0,  # 0: no MLP in the blocks
    width: int = 16,  # of the convolutions at full resolution
    residual: bool = False,  # whether the image is added to the maps
    dropout: float = 0.0,
    remat: str = "none",
    rngs: nnx.Rngs,
  ):
    one_a_stage(dims=dims, depths=depths)
    grids = [on_grid(build) for build in builds]

    def stack(dim, depth):
      return Stack(
        grids,
        dim=dim,
        depth=depth,
        norm="layer",
        feed_forward="gelu",
        hidden=hidden_size(dim, mlp_ratio),
        dropout=dropout,
        remat=remat,
        rngs=rngs,
      )

    sizes = [(channels, patch), *((dim, 2) for dim in dims[:-1])]
    merges = [
      Patches(above, dim, size, positions=not stage, rngs=rngs)
      for stage, ((above, size), dim) in enumerate(zip(sizes, dims))
    ]
    stages = [stack(dim, depth) for dim, depth in zip(dims, depths)]
    norms = [nnx.LayerNorm(dim, rngs=rngs) for dim in dims]
    self.encoder = Stages(stages, merges=merges, norms=norms)
    levels = list(zip(dims[1:], dims, depths))[
      ::-1
    ]  # (below, own, depth), coarse first
    self.decoder = nnx.List(
      Level(below, dim, stack(dim, depth), rngs=rngs) for below, dim, depth in levels
    )
    sizes = {"patch": patch, "channels": channels, "width": width, "outputs": outputs}
    self.pixels = Pixels(dims[0], **sizes, residual=residual, rngs=rngs)

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the maps, and new statistics if some are given.

    Args:
      images: of any size.
      key: turns dropout on.
      stats: running statistics, where there is batch norm.
      train: whether batch norm measures the batch.
    """
    carry = running.Carry(self, stats, train)
    *skips, x = carry(self.encoder, images, key=key)
    for number, (level, skip) in enumerate(zip(self.decoder, skips[::-1])):
      own = None if key is None else jax.random.fold_in(key, len(skips) + 1 + number)
      x = carry(level, x, skip, key=own)
    return carry.result(self.pixels(x, images))

  def weights(
    self, images: Float[Array, "B H W C"], *, stats: Any = None
  ) -> list[Array]:
    """Returns the weights (B, N, T, S) of all attentions, the first block's first."""
    carry = running.Carry(self, stats, False)
    found = self.encoder.weights(images, stats=carry.of(self.encoder))
    *skips, x = carry(self.encoder, images)
    for level, skip in zip(self.decoder, skips[::-1]):
      found += level.weights(x, skip, stats=carry.of(level))
      x = carry(level, x, skip)
    return found

  def trace(
    self,
    images: Float[Array, "B H W C"],
    *,
    edit: Edit | Edits | None = None,
    stats: Any = None,
  ) -> Trace:
    """Returns the intermediate values of the network, its maps as `output`."""
    carry = running.Carry(self, stats, False)
    found = self.encoder.trace(images, edit=edit, stats=carry.of(self.encoder))
    *skips, x = found.output
    for level, skip in zip(self.decoder, skips[::-1]):
      own = {"stats": carry.of(level), "first": len(found.heads)}
      found = found + level.trace(x, skip, edit=edit, **own)
      x = found.output
    return dataclasses.replace(found, output=self.pixels(x, images))


class Level(nnx.Module):
  """A stage on the way up: x and the map beside it (B, h, w, D) -> (B, h, w, D).

  Args:
    below: width of x, which has half of the resolution.
    dim: D.
    stack: the blocks.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(self, below: int, dim: int, stack: Stack, *, rngs: nnx.Rngs):
    self.rise = Unpatch(below, dim, 2, rngs=rngs)
    self.join: Any = nnx.Linear(2 * dim, dim, rngs=rngs)
    self.stack = stack
    self.norm = nnx.LayerNorm(dim, rngs=rngs)

  def __call__(
    self, x: Array, skip: Array, *, key=None, stats: Any = None, train: bool = False
  ) -> Any:
    """Returns the normalised map, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    y = carry(self.stack, self.joined(x, skip), key=key)
    return carry.result(self.norm(y))

  def weights(self, x: Array, skip: Array, *, stats: Any = None) -> list[Array]:
    """Returns the weights (B, N, T, S) of the stack's attentions."""
    own = running.Carry(self, stats, False).of(self.stack)
    return self.stack.weights(self.joined(x, skip), stats=own)

  def trace(self, x: Array, skip: Array, *, stats: Any = None, **options) -> Trace:
    """Returns the stack's trace; its output is the normalised map."""
    own = running.Carry(self, stats, False).of(self.stack)
    found = self.stack.trace(self.joined(x, skip), stats=own, **options)
    return dataclasses.replace(found, output=self.norm(found.output))

  def joined(self, x: Array, skip: Array) -> Float[Array, "B h w D"]:
    """Returns what the stack takes: x at the resolution of `skip`, joined with it."""
    x = self.rise(x, skip.shape[1:3])
    return self.join(jnp.concatenate([x, skip], axis=-1))


class Pixels(nnx.Module):
  """Makes the maps from the finest stage's map and the image, at full resolution.

  Args:
    dim: width of the map.
    patch: pixels of the image on a side of a point of the map.
    channels: of the image.
    width: of the convolutions.
    outputs: of the maps.
    residual: whether the image is added to the maps.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    patch: int,
    channels: int,
    width: int,
    outputs: int,
    residual: bool,
    rngs: nnx.Rngs,
  ):
    if residual and outputs != channels:
      raise ValueError(
        f"residual = True: maps of {outputs} outputs; the image has {channels} channels"
      )
    self.rise = Unpatch(dim, width, patch, rngs=rngs)
    self.first_conv = nnx.Conv(width + channels, width, (3, 3), rngs=rngs)
    # A network that corrects an image begins as the identity.
    init = nnx.initializers.zeros if residual else nnx.initializers.lecun_normal()
    self.second_conv = nnx.Conv(width, outputs, (3, 3), kernel_init=init, rngs=rngs)
    self.residual = residual

  def __call__(
    self, x: Float[Array, "B h w D"], images: Float[Array, "B H W C"]
  ) -> Float[Array, "B H W K"]:
    """Returns the maps, in float32 or wider."""
    y = self.rise(x, images.shape[1:3])
    y = jnp.concatenate([y, images.astype(y.dtype)], axis=-1)
    y = self.second_conv(jax.nn.gelu(self.first_conv(y)))
    y = y.astype(accumulator_dtype(y))
    return y + images.astype(y.dtype) if self.residual else y
