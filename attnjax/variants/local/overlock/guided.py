"""The ContMix block of the Focus-Net, whose kernels a context guides."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.nn import running, transformer
from attnjax.nn.norms import BatchNorm
from attnjax.variants.local.overlock import frame
from attnjax.variants.local.overlock.contmix import ContMix
from attnjax.variants.local.overlock.parts import (
  EPSILON,
  ResponseNorm,
  Scale,
  depthwise,
  gelu,
  linear,
)


class GuidedContMixBlock(nnx.Module):
  """A ContMix block whose windows' weights are made of a context beside the features.

  The map has the features x (D) and then the context h (E). Queries are made of the
  norm of all of it, at the channels of x, the regions' keys at those of h, values and
  gate of both fused to D. The block changes x and h.

    h = scale(h) + scale(context)              not in the first block
    z = [x, h] + convolve([x, h]);  n = norm(z)
    f = respond(linear(gelu(batch norm(convolve(n)))))

  Args:
    dim: D.
    context_dim: E.
    first: whether the context is not added to h.
    heads: as in `ContMix`, like the next three.
    window: side of the large windows.
    small_window: side of the small windows.
    regions: of the context on each axis.
    mlp_ratio: hidden width of the MLP, in D.
    layer_scale: as in `ContMixBlock`, like the next two.
    scale_input: whether the inputs are scaled.
    drop: the share of examples whose residuals are left out in training.
    impl: as in `mix`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    dim: int,
    context_dim: int,
    *,
    first: bool = False,
    heads: int = 2,
    window: int = 7,
    small_window: int = 5,
    regions: int = 7,
    mlp_ratio: float = 4.0,
    layer_scale: float = 0.0,
    scale_input: bool = False,
    drop: float = 0.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    both = dim + context_dim
    self.scales = nnx.List(Scale(context_dim, 1.0) for _ in range(0 if first else 2))
    self.norm = transformer.layer_norm(both, EPSILON, rngs=rngs)
    self.fuse = _Fusion(both, dim, rngs=rngs)
    self.mixer = ContMix(
      dim,
      context_dim=context_dim,
      out_dim=both,
      valued=False,
      heads=heads,
      window=window,
      small_window=small_window,
      regions=regions,
      impl=impl,
      rngs=rngs,
    )
    sums = {"scale_input": scale_input, "drop": drop}
    self.frame = frame.Frame(both, int(dim * mlp_ratio), layer_scale, sums, rngs=rngs)
    self.dim = dim

  def __call__(
    self,
    x: Float[Array, "B H W M"],
    *,
    context: Float[Array, "B H W E"],
    index: int = 0,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the map of both, M = D + E, and new statistics; a `key` drops."""
    del index
    carry = running.Carry(self, stats, train)
    x = self._joined(x, context)
    y = carry(self.mixer, *self._parts(carry, x))
    return carry.result(self.frame(x, y, key))

  def weights(
    self,
    x: Float[Array, "B H W M"],
    *,
    context: Float[Array, "B H W E"],
    index: int = 0,
    stats: Any = None,
  ) -> list[Array]:
    """Returns the weights (B, N, T, T) of all windows."""
    del index
    carry = running.Carry(self, stats, False)
    parts = self._parts(carry, self._joined(x, context))
    return [frame.weights(carry, self.mixer, *parts)]

  def _joined(self, x, context):
    """Returns the map whose context is refreshed, after the first convolution."""
    if self.scales:
      own, raw = self.scales
      h = own(x[..., self.dim :]) + raw(context)
      x = jnp.concatenate([x[..., : self.dim], h], axis=-1)
    return self.frame.begun(x)

  def _parts(self, carry, x):
    """Returns the maps of values, of queries and of the context."""
    n = self.norm(x)
    return carry(self.fuse, n), n[..., : self.dim], n[..., self.dim :]


class _Fusion(nnx.Module):
  """A convolution, a norm, GELU, a linear map and a response norm."""

  def __init__(self, below: int, dim: int, *, rngs: nnx.Rngs):
    self.convolve, self.norm = depthwise(below, rngs=rngs), BatchNorm(below)
    self.linear, self.respond = linear(below, dim, rngs=rngs), ResponseNorm(dim)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    x = gelu(carry(self.norm, self.convolve(x)))
    return carry.result(self.respond(self.linear(x)))
