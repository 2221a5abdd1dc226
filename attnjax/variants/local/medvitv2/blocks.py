"""The paper's local and global blocks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax import contract
from attnjax.nn import drop_path, running, transformer
from attnjax.nn.norms import BatchNorm
from attnjax.variants.local.medvitv2.kan import FasterKAN
from attnjax.variants.local.medvitv2.layer import Layer
from attnjax.variants.local.medvitv2.layers import Embed, Feed, Pooled

_INIT = nnx.initializers.truncated_normal(0.02)


class LFP(nnx.Module):
  """Local feature perception: neighbourhood attention, then `Feed`.

  Args:
    below: channels of x.
    dim: D.
    stride: 2 halves the map first.
    window: of the attention.
    dilation: as in `Layer`.
    kernel: side of the depthwise convolution.
    head_dim: H.
    expand: of `Feed`.
    drop: the share of examples whose attention is left out in training.
    layout_bug: reads maps as the published weights' code does, see the module.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    below: int,
    dim: int,
    *,
    stride: int = 1,
    window: int = 7,
    dilation: int = 1,
    kernel: int = 3,
    head_dim: int = 32,
    expand: int = 3,
    drop: float = 0.0,
    layout_bug: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    self.embed = Embed(below, dim, stride, rngs=rngs)
    self.norms = nnx.List(BatchNorm(dim) for _ in range(2))
    options = {"window": window, "dilation": dilation, "impl": impl}
    self.mix = Layer(dim, heads=dim // head_dim, rngs=rngs, **options)
    self.feed = Feed(dim, expand=expand, kernel=kernel, rngs=rngs)
    self.drop, self.layout_bug = drop, layout_bug

  def __call__(
    self,
    x: Float[Array, "B R C D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> tuple[Float[Array, "B r c E"], Any]:
    """Returns (the block's output, new statistics).

    `key` turns dropping on, `index` goes to the attention.
    """
    carry = running.Carry(self, stats, train)
    x = carry(self.embed, x)
    y = self.mix(self._read(carry(self.norms[0], x)), index=index)
    if self.layout_bug:
      y = jnp.moveaxis(y.reshape(x.shape[0], x.shape[3], *x.shape[1:3]), 1, 3)
    x = x + drop_path.drop(y, self.drop, key)
    return carry.result(x + carry(self.feed, carry(self.norms[1], x)))

  def weights(
    self, x: Float[Array, "B R C D"], *, index: int = 0, stats: Any = None
  ) -> list[Array]:
    """Returns the weights (B, N, T, T) of the neighbourhood attention."""
    carry = running.Carry(self, stats, False)
    y = self._read(carry(self.norms[0], carry(self.embed, x)))
    return [contract.weights(self.mix, y, index=index)]

  def _read(self, y):
    return jnp.moveaxis(y, 3, 1).reshape(y.shape) if self.layout_bug else y


class GFP(nnx.Module):
  """Global feature perception: pooled attention beside a convolution, then the KAN.

  Args:
    below: channels of x.
    dim: D.
    stride: 2 halves the map first.
    ratio: of `Pooled`.
    share: of the channels that attention makes, rounded to multiples of 32.
    expand: width of the KAN, in D.
    head_dim: H, and the width of the convolution's groups.
    drop: the share of examples that the KAN leaves out in training; the attention
      leaves out `share` of it, the convolution the rest.
    layout_bug: reads maps as the published weights' code does, see the module.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    below: int,
    dim: int,
    *,
    stride: int = 1,
    ratio: int = 1,
    share: float = 0.75,
    expand: float = 2.0,
    head_dim: int = 32,
    drop: float = 0.0,
    layout_bug: bool = False,
    rngs: nnx.Rngs,
  ):
    first = rounded(int(share * dim))
    rest = dim - first
    if rest < head_dim or rest % head_dim:
      raise ValueError(
        f"dim = {dim}: attention makes {first} channels, and of the {rest} that are"
        f" left there must be groups of {head_dim}"
      )
    self.embed = Embed(below, first, stride, rngs=rngs)
    self.mix = Pooled(first, head_dim=head_dim, ratio=ratio, rngs=rngs)
    self.project = Embed(first, rest, rngs=rngs)
    self.convolve = nnx.Conv(
      rest,
      rest,
      (3, 3),
      padding=((1, 1), (1, 1)),
      feature_group_count=rest // head_dim,
      use_bias=False,
      kernel_init=_INIT,
      rngs=rngs,
    )
    self.linear = nnx.Linear(rest, rest, use_bias=False, kernel_init=_INIT, rngs=rngs)
    self.norms = nnx.List(BatchNorm(width) for width in (first, rest, dim))
    self.kan = FasterKAN((dim, int(dim * expand), dim), rngs=rngs)
    self.drops = share * drop, (1 - share) * drop, drop
    self.layout_bug = layout_bug

  def __call__(
    self,
    x: Float[Array, "B R C D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> tuple[Float[Array, "B r c E"], Any]:
    """Returns (the block's output, new statistics); `key` turns dropping on."""
    del index  # the same at every depth
    carry = running.Carry(self, stats, train)
    parts = list(zip(self.drops, transformer.keys(key, 3)))
    x = carry(self.embed, x)
    y = carry(self.mix, carry(self.norms[0], x))
    x = x + drop_path.drop(y, *parts[0])
    z = carry(self.project, x)
    y = self.linear(jax.nn.relu(carry(self.norms[1], self.convolve(z))))
    z = z + drop_path.drop(y, *parts[1])
    x = jnp.concatenate([x, z], axis=-1)
    y = self._feed(carry(self.norms[2], x))
    return carry.result(x + drop_path.drop(y, *parts[2]))

  def weights(
    self, x: Float[Array, "B R C D"], *, index: int = 0, stats: Any = None
  ) -> list[Array]:
    """Returns the weights (B, N, T, S) of the pooled attention; S = means of tokens."""
    del index
    carry = running.Carry(self, stats, False)
    y = carry(self.norms[0], carry(self.embed, x))
    return [self.mix.weights(y, stats=carry.of(self.mix))]

  def _feed(self, y):
    if not self.layout_bug:
      return self.kan(y)
    B, R, C, D = y.shape
    rows = self.kan(jnp.moveaxis(y, 3, 1).reshape(-1, D))
    return jnp.moveaxis(rows.reshape(B, D, R, C), 1, 3)


def rounded(width: int, step: int = 32) -> int:
  """Returns the nearest multiple of `step`, at least 0.9 of the width."""
  near = max(step, int(width + step / 2) // step * step)
  return near + step if near < 0.9 * width else near
