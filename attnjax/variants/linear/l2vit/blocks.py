"""The paper's blocks, which take turns, and its model."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.nn import projections, running
from attnjax.nn.depthwise import Depthwise
from attnjax.variants.linear.l2vit.layer import EPSILON, Layer, norm

_INIT = nnx.initializers.truncated_normal(0.02)


class Feed(nnx.Module):
  """down(gelu(up x)), with the exact GELU."""

  def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
    self.up = nnx.Linear(dim, hidden, kernel_init=_INIT, rngs=rngs)
    self.down = nnx.Linear(hidden, dim, kernel_init=_INIT, rngs=rngs)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """The block's output; the residual is the caller's."""
    return self.down(jax.nn.gelu(self.up(x), approximate=False))


class GlobalBlock(nnx.Module):
  """The paper's enhanced LGA block: `Layer`, then an MLP; x (B, H, W, D).

  The options are those of `Layer`.
  """

  init_stats = running.init_stats

  def __init__(
    self, dim: int, *, hidden: int, norm: str = "batch", rngs: nnx.Rngs, **options
  ):
    self.mix = Layer(dim, form="image", norm=norm, rngs=rngs, **options)
    self.norm = nnx.LayerNorm(dim, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)
    self.feed = Feed(dim, hidden, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B H W D"], *, stats: Any = None, train: bool = False
  ) -> Any:
    """The block's output (B, H, W, D), and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    x = x + carry(self.mix, x)
    return carry.result(x + self.feed(self.norm(x)))


class WindowBlock(nnx.Module):
  """The paper's LWA block: softmax attention in windows, then an MLP.

  Windows do not overlap. A grid that they do not tile is padded at its right and bottom
  after the norm, and padded tokens are seen like others, as in the authors' code.
  """

  def __init__(
    self, dim: int, *, heads: int, hidden: int, window: int = 7, rngs: nnx.Rngs
  ):
    size = projections.head_size(dim, heads)
    self.positions = nnx.List(Depthwise(dim, 3, rngs=rngs) for _ in range(2))
    self.norms = nnx.List(
      nnx.LayerNorm(dim, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)
      for _ in "12"
    )
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=True, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.feed = Feed(dim, hidden, rngs=rngs)
    self.window = window

  def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
    """The block's output."""
    x = x + self.positions[0](x)
    x = x + self._attend(self.norms[0](x))
    x = x + self.positions[1](x)
    return x + self.feed(self.norms[1](x))

  def _attend(self, x):
    (B, H, W, D), w = x.shape, self.window
    y = jnp.pad(x, ((0, 0), (0, -H % w), (0, -W % w), (0, 0)))
    h, v = y.shape[1] // w, y.shape[2] // w
    y = y.reshape(B, h, w, v, w, D).swapaxes(2, 3).reshape(B * h * v, w * w, D)
    y = self.out(attention.attend(*self.qkv.heads(y))[0].astype(x.dtype))
    y = y.reshape(B, h, v, w, w, D).swapaxes(2, 3).reshape(B, h * w, v * w, D)
    return y[:, :H, :W]


class Model(nnx.Module):
  """The whole network: images (B, H, W, channels) to logits (B, classes).

  Two convolutions of stride 2; then stages, between them a norm and patches of 2 x 2.
  In a stage blocks of even number are `WindowBlock`, the others `GlobalBlock`.

  Args:
    channels: of the images.
    classes: number of logits.
    dims: width of each stage; dims[0] is even.
    depths: number of blocks of each stage.
    heads: of each stage.
    window: side of the windows.
    mlp_ratio: hidden width of the MLPs, in D.
    norm: of the first convolutions and of the concentration, "batch" or "layer".
    options: more of `Layer`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    channels: int,
    classes: int,
    *,
    dims: tuple[int, ...] = (96, 192, 384, 768),
    depths: tuple[int, ...] = (2, 2, 6, 2),
    heads: tuple[int, ...] = (3, 6, 12, 24),
    window: int = 7,
    mlp_ratio: float = 4.0,
    norm: str = "batch",
    rngs: nnx.Rngs,
    **options,
  ):
    if not len(dims) == len(depths) == len(heads):
      raise ValueError(f"dims {dims}, depths {depths}, heads {heads}: one a stage")
    self.stem = _Stem(channels, dims[0], norm, rngs=rngs)
    self.stages, self.merges = nnx.List([]), nnx.List([])
    for stage, (dim, depth, count) in enumerate(zip(dims, depths, heads)):
      if stage:
        self.merges.append(_Merge(dims[stage - 1], dim, rngs=rngs))
      shared = {"heads": count, "hidden": int(mlp_ratio * dim), "rngs": rngs}
      self.stages.append(
        nnx.List(
          GlobalBlock(dim, norm=norm, **shared, **options)
          if number % 2
          else WindowBlock(dim, window=window, **shared)
          for number in range(depth)
        )
      )
    self.norm = nnx.LayerNorm(
      dims[-1], epsilon=EPSILON, use_fast_variance=False, rngs=rngs
    )
    self.head = nnx.Linear(dims[-1], classes, kernel_init=_INIT, rngs=rngs)

  def __call__(
    self, images: Float[Array, "B H W C"], *, stats: Any = None, train: bool = False
  ) -> Any:
    """Logits of the classes, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    x = carry(self.stem, images)
    for stage, blocks in enumerate(self.stages):
      x = self.merges[stage - 1](x) if stage else x
      for block in blocks:
        x = carry(block, x)
    return carry.result(self.head(self.norm(x).mean(axis=(1, 2))))


def _convolution(below, dim, size, pad, rngs):
  return nnx.Conv(
    below,
    dim,
    (size, size),
    strides=2,
    padding=((pad, pad), (pad, pad)),
    kernel_init=_INIT,
    rngs=rngs,
  )


class _Stem(nnx.Module):
  def __init__(self, channels, dim, kind, *, rngs):
    self.first = _convolution(channels, dim // 2, 3, 1, rngs)
    self.second = _convolution(dim // 2, dim, 3, 1, rngs)
    self.norms = nnx.List(norm(kind, width, rngs=rngs) for width in (dim // 2, dim))
    self.last = nnx.LayerNorm(dim, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    x = jax.nn.relu(carry(self.norms[0], self.first(x)))
    return carry.result(self.last(carry(self.norms[1], self.second(x))))


class _Merge(nnx.Module):
  def __init__(self, below, dim, *, rngs):
    self.norm = nnx.LayerNorm(
      below, epsilon=EPSILON, use_fast_variance=False, rngs=rngs
    )
    self.project = _convolution(below, dim, 2, 0, rngs)

  def __call__(self, x):
    return self.project(self.norm(x))
