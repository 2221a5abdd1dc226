"""The ContMix block of one map, and the block of large convolutions."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.nn import running, transformer
from attnjax.nn.norms import BatchNorm
from attnjax.variants.local.overlock import frame
from attnjax.variants.local.overlock.contmix import ContMix
from attnjax.variants.local.overlock.large_kernel import LargeKernel
from attnjax.variants.local.overlock.parts import (
  EPSILON,
  Excitation,
  Feed,
  depthwise,
)


class ContMixBlock(nnx.Module):
  """ContMix of the norm of x + convolve(x), and an MLP, each with a residual.

  Args:
    dim: D.
    heads: as in `ContMix`, like the next three.
    window: side of the large windows.
    small_window: side of the small windows.
    regions: of the map on each axis.
    mlp_ratio: hidden width of the MLP, in D.
    layer_scale: with which the scales of the residuals start; there are none if 0.
    scale_input: whether the inputs are scaled, not what is added to them.
    drop: the share of examples whose residuals are left out in training.
    norm: as in `ContMix`.
    impl: as in `mix`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    dim: int,
    *,
    heads: int = 2,
    window: int = 7,
    small_window: int = 5,
    regions: int = 7,
    mlp_ratio: float = 4.0,
    layer_scale: float = 0.0,
    scale_input: bool = False,
    drop: float = 0.0,
    norm: str = "batch",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    self.mixer = ContMix(
      dim,
      heads=heads,
      window=window,
      small_window=small_window,
      regions=regions,
      norm=norm,
      spread=0.02,
      impl=impl,
      rngs=rngs,
    )
    self.norm = transformer.layer_norm(dim, EPSILON, rngs=rngs)
    sums = {"scale_input": scale_input, "drop": drop}
    self.frame = frame.Frame(dim, int(dim * mlp_ratio), layer_scale, sums, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B H W D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the block's output, and new statistics; `key` turns dropping on."""
    del index  # equal at every depth
    carry = running.Carry(self, stats, train)
    x = self.frame.begun(x)
    return carry.result(self.frame(x, carry(self.mixer, self.norm(x)), key))

  def weights(
    self, x: Float[Array, "B H W D"], *, index: int = 0, stats: Any = None
  ) -> list[Array]:
    """Returns the weights (B, N, T, T) of all windows."""
    del index
    carry = running.Carry(self, stats, False)
    return [frame.weights(carry, self.mixer, self.norm(self.frame.begun(x)))]


class ConvBlock(nnx.Module):
  """A large depthwise convolution and an MLP in one residual, as in the first stages.

  z = x + convolve(x); then z + feed(excite(batch norm(large kernel(norm(z))))).

  Args:
    dim: D.
    window: side of the large kernel.
    mlp_ratio: hidden width of the MLP, in D.
    layer_scale: as in `ContMixBlock`, like the next two.
    scale_input: whether the input is scaled.
    drop: the share of examples whose residual is left out in training.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    dim: int,
    *,
    window: int = 7,
    mlp_ratio: float = 4.0,
    layer_scale: float = 0.0,
    scale_input: bool = False,
    drop: float = 0.0,
    rngs: nnx.Rngs,
  ):
    self.convolve = depthwise(dim, rngs=rngs)
    self.norm = transformer.layer_norm(dim, EPSILON, rngs=rngs)
    self.local = LargeKernel(dim, window, rngs=rngs)
    self.local_norm, self.excite = BatchNorm(dim), Excitation(dim, rngs=rngs)
    self.feed = Feed(dim, int(dim * mlp_ratio), rngs=rngs)
    self.sum = frame.Residual(dim, layer_scale, scale_input=scale_input, drop=drop)

  def __call__(
    self,
    x: Float[Array, "B H W D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the block's output, and new statistics; `key` turns dropping on."""
    del index
    carry = running.Carry(self, stats, train)
    x = x + self.convolve(x)
    y = carry(self.local_norm, carry(self.local, self.norm(x)))
    return carry.result(self.sum(x, self.feed(self.excite(y)), key))
