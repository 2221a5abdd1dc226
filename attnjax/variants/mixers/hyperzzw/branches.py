"""The modules of a block, and its ten branches side by side."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.variants.mixers.hyperzzw import operator
from attnjax.variants.mixers.hyperzzw.slow import (
  KERNEL,
  LocalSlowNet,
  PositionBias,
  SlowNet,
)
from attnjax.variants.mixers.hyperzzw.standardise import (
  Pool,
  batch,
  instance,
  of_batch,
)

BRANCHES = 10


def pointwise(inputs: int, outputs: int, *, bias: bool = True, rngs: nnx.Rngs):
  """Returns a 1 x 1 convolution."""
  return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=KERNEL, rngs=rngs)


class RGU(nnx.Module):
  """The recursive gated unit: y(GELU(instance(k * q(v))) + p), k and v of x."""

  def __init__(self, channels: int, size: int, *, rngs: nnx.Rngs):
    self.key, self.value, self.query, self.out = (
      pointwise(channels, channels, rngs=rngs) for _ in range(4)
    )
    self.position = PositionBias(size, 2)

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Returns the gated features."""
    gated = instance(self.key(x) * self.query(self.value(x)))
    return self.out(_gelu(gated) + self.position(x.shape[1:3])[None])


class HyperChannelInteract(nnx.Module):
  """Scores of the channels by a slow net over them."""

  def __init__(self, channels: int, *, width: int, omega0: float, rngs: nnx.Rngs):
    self.slow = SlowNet(1, axes=1, size=channels, width=width, omega0=omega0, rngs=rngs)

  def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Multiplies each channel of x by its score."""
    return x * jax.nn.sigmoid(self.score(x))

  def score(self, y: Float[Array, "B H W C"]) -> Float[Array, "B 1 1 C"]:
    """Computes m w m for the mean m of each channel."""
    mean = y.mean(axis=(1, 2), keepdims=True)
    return mean * self.slow(y.shape[3:])[None, None, None, :, 0] * mean


class HyperInteract(nnx.Module):
  """Scores of channels times scores of pixels."""

  def __init__(
    self,
    channels: int,
    size: int,
    *,
    width: int,
    score_width: int,
    omega0: float,
    rngs: nnx.Rngs,
  ):
    self.channel = HyperChannelInteract(channels, width=width, omega0=omega0, rngs=rngs)
    self.slow = SlowNet(1, size=size, width=score_width, omega0=omega0, rngs=rngs)

  def __call__(
    self, y: Float[Array, "B H W C"], x: Float[Array, "B H W C"]
  ) -> Float[Array, "B H W C"]:
    """Multiplies x by the scores of y."""
    mean = y.mean(axis=3, keepdims=True)
    pixels = mean * self.slow(y.shape[1:3])[None] * mean
    return x * jax.nn.sigmoid(pixels * self.channel.score(y))


class LocalConv(nnx.Module):
  """A generated kernel's convolution, then a channel mix, a standardisation and GELU.

  There is no bias: the official code has one before and one after the mix, but the
  standardisation cancels both.
  """

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.mix = pointwise(channels, channels, bias=False, rngs=rngs)

  def __call__(
    self,
    kernel: Float[Array, "k k C"],
    x: Float[Array, "B H W C"],
    pool: Pool = of_batch,
  ) -> Float[Array, "B H W C"]:
    """Returns the local features."""
    return _gelu(batch(self.mix(operator.local(kernel, x)), pool))


class MultiBranch(nnx.Module):
  """Global, local and channel branches of x, concatenated and projected.

  Args:
    channels: C of x.
    outputs: channels of the result.
    size: pixels a side of the position biases.
    kernels: sides of the four local kernels.
    slow_width: m of the slow net of the global kernel.
    slow_depth: hidden layers of that slow net; all other slow nets have 2.
    local_width: m of the slow nets of the local kernels and of the channels; the
      channels' slow net in `HyperInteract` has half of it.
    score_width: m of the slow net of the pixels' scores.
    omega0: as in `SlowNet`, for all slow nets.
    extras: number of earlier maps that are concatenated.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    channels: int,
    outputs: int,
    *,
    size: int,
    kernels: Sequence[int] = (3, 9, 5, 7),
    slow_width: int = 64,
    slow_depth: int = 2,
    local_width: int = 32,
    score_width: int = 64,
    omega0: float = 2000.0,
    extras: int = 0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    if len(kernels) != 4:
      raise ValueError(f"kernels {tuple(kernels)}: there are four local branches")
    self.slow = SlowNet(
      channels,
      size=size,
      width=slow_width,
      depth=slow_depth,
      omega0=omega0,
      rngs=rngs,
    )
    self.locals = nnx.List(
      LocalSlowNet(channels, kernel=k, width=local_width, omega0=omega0, rngs=rngs)
      for k in kernels
    )
    self.convs = nnx.List(LocalConv(channels, rngs=rngs) for _ in kernels)
    self.mix = pointwise(channels, channels, bias=False, rngs=rngs)
    self.gated, self.gated_weights = (RGU(channels, size, rngs=rngs) for _ in range(2))
    self.channel = HyperChannelInteract(
      channels, width=local_width, omega0=omega0, rngs=rngs
    )
    self.interact = HyperInteract(
      channels,
      size,
      width=max(local_width // 2, 1),
      score_width=score_width,
      omega0=omega0,
      rngs=rngs,
    )
    self.impl = impl
    wide = (BRANCHES + extras) * channels
    self.narrow = pointwise(wide, outputs, bias=False, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B H W C"],
    earlier: Sequence[Float[Array, "B H W _"]] = (),
    pool: Pool = of_batch,
  ) -> tuple[Float[Array, "B H W E"], Float[Array, "H W C"]]:
    """Returns (features, slow kernel); `earlier` maps are tiled to C channels."""
    kernel = self.slow(x.shape[1:3])
    tiled = [_tiled(y, x.shape[3]) for y in earlier]
    weights = x * kernel[None]
    fast = instance(self.gated_weights(weights) + self.gated(x))
    mixed, channel = instance(self.mix(x)), instance(self.channel(x))
    out, out_mixed, out_channel = (
      operator.attend(z, kernel, x, impl=self.impl) for z in (fast, mixed, channel)
    )
    sources, targets = (x, channel, mixed, x), (channel, x, x, mixed)
    near = [
      conv(net(source, pool), target, pool)
      for net, conv, source, target in zip(self.locals, self.convs, sources, targets)
    ]
    branches = [out, near[1], *tiled[:1], fast, out_mixed, near[0]]
    branches += [jax.nn.sigmoid(out) * out, near[2], out_channel, near[3], *tiled[1:]]
    branches += [self.interact(out, x)]
    return self.narrow(jnp.concatenate(branches, axis=-1)), kernel


def _gelu(x):
  return jax.nn.gelu(x, approximate=False)


def _tiled(y, channels):
  if channels % y.shape[3]:
    raise ValueError(f"earlier map {y.shape}: its channels must divide {channels}")
  return jnp.tile(y, channels // y.shape[3])
