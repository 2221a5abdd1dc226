"""The blocks: a filter or attention, an MLP, and one residual or two."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import check_known
from attnjax.nn import drop_path
from attnjax.nn.transformer import Block, Feed, layer_norm
from attnjax.variants.mixers.spectformer.layer import Layer
from attnjax.variants.softmax import dot_product

# Sides of the depthwise convolutions in the MLPs of the styles.
KERNELS = {"vanilla": 0, "hierarchical": 3}
STYLES = tuple(KERNELS)
EPSILON = 1e-6  # of the norms
# The variance is 2 over the entries of a channel's kernel.
_CONVOLVED = nnx.initializers.normal((2 / 9) ** 0.5)


class SpectralBlock(nnx.Module):
  """A block with a filter in place of attention, of one style.

    vanilla       x + MLP(norm(filter(norm x)))            as in GFNet
    hierarchical  y = x + filter(norm x),  y + MLP(norm y)

  Args:
    dim: D.
    style: one of STYLES; the MLP of the hierarchical one has a convolution.
    hidden: width of the MLP.
    grid: the filter's grid, or one number for both sides.
    drop: the share of examples whose residual is left out in training.
    method: as in `spectral_gate`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    style: str = "vanilla",
    hidden: int,
    grid: int | tuple[int, int] = 14,
    drop: float = 0.0,
    method: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("style", style, STYLES)
    if not 0 <= drop < 1:
      raise ValueError(f"drop = {drop}: it must be from 0 to below 1")
    self.norm = layer_norm(dim, EPSILON, rngs=rngs)
    self.filter = Layer(dim, form="image", grid=grid, method=method, rngs=rngs)
    self.feed_norm = layer_norm(dim, EPSILON, rngs=rngs)
    self.feed = Feed(dim, hidden, kernel=KERNELS[style], rngs=rngs)
    _redraw(self.feed, rngs)
    self.style, self.drop = style, drop

  def __call__(
    self,
    x: Float[Array, "B h w D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B h w D"]:
    """Returns the block's output; `key` turns dropping on."""
    y = self.filter(self.norm(x), index=index)
    if self.style == "vanilla":
      return x + drop_path.drop(self.feed(self.feed_norm(y)), self.drop, key)
    first, second = (None, None) if key is None else jax.random.split(key)
    x = x + drop_path.drop(y, self.drop, first)
    return x + drop_path.drop(self.feed(self.feed_norm(x)), self.drop, second)


def attention_block(
  dim: int, style: str, *, hidden: int, drop: float, rngs: nnx.Rngs, **options: Any
) -> Block:
  """Returns a block of softmax attention, whose projections have biases.

  Args:
    dim: D.
    style: one of STYLES; only the MLPs differ.
    hidden: width of the MLP.
    drop: as in `SpectralBlock`.
    rngs: for the parameters.
    **options: of the attention, `heads` and `impl`.
  """
  biases: dict[str, Any] = {"qkv_bias": True, "out_bias": True, "rope_theta": 0.0}
  mixer: Callable = partial(dot_product.Layer, dim, form="image", **biases, **options)
  own: dict[str, Any] = {"hidden": hidden, "kernel": KERNELS[style], "drop": drop}
  block = Block(dim, mixer, epsilon=EPSILON, **own, rngs=rngs)
  _redraw(block.feed, rngs)
  return block


def _redraw(feed: Any, rngs: nnx.Rngs) -> None:
  """Draws the convolution of an MLP, if it has one, as the official code does."""
  if feed.convolution is not None:
    kernel = feed.convolution.kernel
    kernel[...] = _CONVOLVED(rngs.params(), kernel.shape)
