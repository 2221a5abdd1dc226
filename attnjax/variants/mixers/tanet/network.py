"""The whole network: two levels of convolutions down and up, blocks at the lowest."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn.remat import REMAT, checkpointed
from attnjax.variants.mixers.tanet.convolutions import (
  Convolution,
  along,
  leaky,
  uniform,
)
from attnjax.variants.mixers.tanet.layer import Layer

# The published network is the one of the defaults; "mini" is invented.
SIZES: dict[str, dict[str, Any]] = {
  "published": {},
  "mini": {"width": 8, "blocks": 2},
}
PARAMETERS: dict[str, float] = {}  # the code has no number, and the paper was not read
RESIDUALS = 3  # convolutional blocks on each level, down and up
STRIDE = 4  # of both levels together


class Residual(nnx.Module):
  """leaky(convolution(leaky(convolution(x))) + x), 3 x 3, `dim` channels."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.first = Convolution(dim, dim, 3, rngs=rngs)
    self.second = Convolution(dim, dim, 3, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B H W D"], *, index: Any = 0
  ) -> Float[Array, "B H W D"]:
    """Returns the map."""
    del index  # equal at every depth
    return leaky(self.second(leaky(self.first(x))) + x)


class Repeated(nnx.Module):
  """Equal blocks one after the other, scanned: compile time does not grow with them.

  Args:
    build: build(dim, rngs=) makes a block, which is called as block(x, index=).
    dim: channels.
    depth: number of blocks; their parameters are stacked on a first axis.
    remat: what `jax.checkpoint` keeps of each block, see `nn.remat.REMAT`.
    rngs: for the parameters.
  """

  def __init__(
    self, build: Any, dim: int, depth: int, *, remat: str = "none", rngs: nnx.Rngs
  ):
    keys = jax.random.split(rngs.params(), depth)
    # In a list of that name, as `sharding` knows leaves with an axis of blocks.
    self.blocks = nnx.List([jax.vmap(lambda key: build(dim, rngs=nnx.Rngs(key)))(keys)])
    self.depth, self.remat = depth, remat

  def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
    """Returns the last block's map."""

    def run(x, part):
      block, index = part
      return block(x, index=index), None

    places = jnp.arange(self.depth)
    return jax.lax.scan(checkpointed(run, self.remat), x, (self.blocks[0], places))[0]


class Enlarge(nnx.Module):
  """The transposed convolution of 2 x 2 with stride 2: each pixel gives four.

  Args:
    below: channels of the map.
    dim: channels of the result.
    rngs: for the parameters, uniform within 1 / sqrt(4 dim), as torch has it.
  """

  def __init__(self, below: int, dim: int, *, rngs: nnx.Rngs):
    kernel, bias = uniform(rngs, (4 * dim) ** -0.5, (below, 2, 2, dim), dim)
    self.kernel, self.bias = nnx.Param(kernel), nnx.Param(bias)

  def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B H W D"]:
    """Returns the map, twice as high and wide."""
    B, h, w, _ = x.shape
    y = jnp.einsum("bhwc,cijd->bhiwjd", x, self.kernel[...])
    return y.reshape(B, 2 * h, 2 * w, y.shape[5]) + along(self.bias[...], 4)


class Down(nnx.Module):
  """Residual blocks of `dim` channels; then half the sides, twice the channels."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.residuals = Repeated(Residual, dim, RESIDUALS, rngs=rngs)
    self.reduce = Convolution(dim, 2 * dim, 4, stride=2, bias=False, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B H W D"]
  ) -> tuple[Float[Array, "B h w C"], Float[Array, "B H W D"]]:
    """Returns (the smaller map, the map that skips to the way up)."""
    x = self.residuals(x)
    return self.reduce(x), x


class Up(nnx.Module):
  """Twice the sides, joined with the map that skipped; then residual blocks."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.enlarge = Enlarge(2 * dim, dim, rngs=rngs)
    self.join = Convolution(2 * dim, dim, 1, rngs=rngs)
    self.residuals = Repeated(Residual, dim, RESIDUALS, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B h w C"], skipped: Float[Array, "B H W D"]
  ) -> Float[Array, "B H W D"]:
    """Returns the larger map."""
    joined = jnp.concatenate([self.enlarge(x), skipped], axis=3)
    return self.residuals(leaky(self.join(joined)))


class Network(nnx.Module):
  """images (B, H, W, C) of any size -> maps (B, H, W, outputs), float32 or wider.

  Args are those of `Model`; `build` makes the blocks of the lowest level, as those of
  `Repeated` are.
  """

  def __init__(
    self,
    channels: int,
    outputs: int,
    build: Any,
    *,
    width: int,
    blocks: int,
    centre: float,
    remat: str,
    rngs: nnx.Rngs,
  ):
    self.stem = Convolution(channels, width, 3, rngs=rngs)
    self.down = nnx.List([Down(dim, rngs=rngs) for dim in (width, 2 * width)])
    self.middle = Repeated(build, STRIDE * width, blocks, remat=remat, rngs=rngs)
    self.up = nnx.List([Up(dim, rngs=rngs) for dim in (2 * width, width)])
    self.head = Convolution(width, outputs, 3, rngs=rngs)
    self.residual = channels == outputs
    self.centre, self.remat = centre, remat

  def __call__(
    self, images: Float[Array, "B H W C"], *, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B H W outputs"]:
    """Returns the maps; nothing is drawn from `key`, since nothing is dropped.

    Sides that are no multiples of 4 are padded by reflection, and the maps cropped.
    """
    del key
    H, W = images.shape[1:3]
    around = ((0, 0), (0, -H % STRIDE), (0, -W % STRIDE), (0, 0))
    x = leaky(self.stem(jnp.pad(images - self.centre, around, mode="reflect")))
    run, skipped = checkpointed(operator.call, self.remat), []
    for down in self.down:
      x, kept = run(down, x)
      skipped.append(kept)
    x = self.middle(x)
    for up in self.up:
      x = run(up, x, skipped.pop())
    y = leaky(self.head(x))[:, :H, :W]
    y = y.astype(accumulator_dtype(y))
    return y + images if self.residual else y


def Model(
  channels: int,
  outputs: int,
  *,
  width: int = 32,
  blocks: int = 10,
  lpa_kernel: int = 7,
  lpa_multiply: bool = False,
  centre: float = 0.5,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Network:
  """Builds the network: images (B, H, W, channels) to maps (B, H, W, outputs).

  With as many outputs as channels the images are added to what the network gives.
  Beside the hyper-parameters of all networks, `attnjax.contract.forms.dense`:

    width         channels of the first level; the blocks have four times as many
    blocks        number of triplet attention blocks
    lpa_kernel    as in `Layer`
    lpa_multiply  as in `Layer`
    centre        subtracted from the images in front of the first convolution: the
                  authors train on images from -0.5 to 0.5

  Raises:
    ValueError: if a size is below 1 or an option is unknown.
  """
  check_known("remat", remat, REMAT)
  for name, value in (("width", width), ("blocks", blocks)):
    if value < 1:
      raise ValueError(f"{name} = {value}: it must be at least 1")
  options = {"lpa_kernel": lpa_kernel, "lpa_multiply": lpa_multiply, "impl": impl}
  build = functools.partial(Layer, **options)
  return Network(
    channels,
    outputs,
    build,
    width=width,
    blocks=blocks,
    centre=centre,
    remat=remat,
    rngs=rngs,
  )
