"""The operator with its convolutions, as a layer of images."""

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known, check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections
from attnjax.ops import window_attention
from attnjax.variants.local.msa_conv.attention import (
  BORDERS,
  IMPLEMENTATIONS,
  Pair,
  attend,
  pair,
)

FORMS = ("image",)
DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))
# U(-D^-0.5, D^-0.5), PyTorch's default.
_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MSAConv2d(nnx.Module):
  """relu(convolve(attend(x) + x)): (B, R, C, below) to (B, r, c, dim).

  Args:
    below: channels of x.
    dim: channels of the result.
    window: rows and columns of the attention's and of the convolution's kernel, or one
      number for both; odd.
    stride: of the convolution, one or two numbers.
    dilation: of the attention, one or two numbers.
    padding: zeros around the convolution's input, one or two numbers; window div 2
      if -1.
    heads: N, which divides `below`; as many as channels for the depthwise form.
    bias: whether the convolution has a bias.
    border: as in `attend`.
    shift: tokens by which the quarters of the channels are rolled; 0 is none.
    pooling: as in `attend`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    below: int,
    dim: int,
    *,
    window: Pair = 3,
    stride: Pair = 1,
    dilation: Pair = 1,
    padding: Pair = -1,
    heads: int = 1,
    bias: bool = False,
    border: str = "zero",
    shift: int = 0,
    pooling: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(border=(border, BORDERS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    if shift < 0 or (shift and below % len(DIRECTIONS)):
      raise ValueError(
        f"shift = {shift} of {below} channels: at least 0, and quarters of the channels"
      )
    projections.head_size(below, heads)
    sides = pair("window", window)
    around = (padding, padding) if isinstance(padding, int) else tuple(padding)
    around = [side // 2 if pad < 0 else pad for side, pad in zip(sides, around)]
    self.qkv = nnx.Linear(below, 3 * below, kernel_init=_INIT, rngs=rngs)
    self.convolve = nnx.Conv(
      below,
      dim,
      sides,
      strides=pair("stride", stride),
      padding=[(pad, pad) for pad in around],
      use_bias=bias,
      kernel_init=_INIT,
      rngs=rngs,
    )
    self.heads, self.shift = heads, shift
    self.options = (sides, pair("dilation", dilation), border, pooling, impl)

  def project(self, x: Float[Array, "B R C D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token, not yet rolled."""
    tokens = contexts.accept(x, context, form="image")
    q, k, v = map(self._heads, jnp.split(self.qkv(tokens.x), 3, axis=-1))
    return Heads(q, k, v, tokens)

  def mix(self, heads: Heads) -> Float[Array, "B R C N E"]:
    """Returns `attend` of the queries and the rolled keys and values."""
    window, dilation, border, pooling, impl = self.options
    return attend(
      heads.q,
      self._rolled(heads.k),
      self._rolled(heads.v),
      window=window,
      dilation=dilation,
      border=border,
      pooling=pooling,
      impl=impl,
    )

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B r c E"]:
    """Returns the rectified convolution of outputs plus input."""
    x = heads.tokens.x
    return jax.nn.relu(self.convolve(out.astype(x.dtype).reshape(x.shape) + x))

  def __call__(
    self, x: Float[Array, "B R C D"], **context: Unpack[Context]
  ) -> Float[Array, "B r c E"]:
    """Returns the convolution's output."""
    return contexts.run(self, x, context)

  def weights(self, x, **context: Unpack[Context]) -> Float[Array, "B N T T"]:
    """Returns the softmax weights before the convolution, row by row of the image.

    Weights on zeros beyond the image are left out, so rows may sum to less than 1.

    Raises:
      NotImplementedError: if quarters of one head are rolled differently.
    """
    if self.shift and self.heads % len(DIRECTIONS):
      raise NotImplementedError(
        f"weights with shift = {self.shift} and heads = {self.heads}: the channels of"
        " a head take different tokens unless 4 divides the heads"
      )
    heads = self.project(x, **context)
    eye = window_attention.identity(x.shape[1:3], x.shape[0], self.heads)
    out = self.mix(dataclasses.replace(heads, v=eye))
    return out.reshape(out.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)

  def _heads(self, y):
    return y.reshape(*y.shape[:3], self.heads, -1)

  def _rolled(self, y):
    """Rolls each quarter of all heads' channels in its direction."""
    if not self.shift:
      return y
    parts = jnp.split(y.reshape(*y.shape[:3], -1), len(DIRECTIONS), axis=-1)
    rolled = jnp.concatenate(
      [
        jnp.roll(part, (self.shift * rows, self.shift * columns), axis=(1, 2))
        for part, (rows, columns) in zip(parts, DIRECTIONS)
      ],
      axis=-1,
    )
    return rolled.reshape(y.shape)


class Layer(nnx.Module):
  """`MSAConv2d` of one width and stride 1, for hosts.

  Dropout of the weights, 0.1 in the code's training, is left to the host.

  Args:
    dim: D.
    form: "image".
    heads: N, which divides D.
    window: side of the kernels, odd.
    dilation: of the attention.
    border: as in `attend`.
    shift: tokens by which the quarters of the channels are rolled; 0 is none.
    pooling: as in `attend`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 1,
    window: int = 3,
    dilation: int = 1,
    border: str = "zero",
    shift: int = 0,
    pooling: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("form", form, FORMS)
    self.operator = MSAConv2d(
      dim,
      dim,
      heads=heads,
      window=window,
      dilation=dilation,
      border=border,
      shift=shift,
      pooling=pooling,
      impl=impl,
      rngs=rngs,
    )

  def project(self, x: Float[Array, "B R C D"], **context: Unpack[Context]) -> Heads:
    """Returns the operator's heads, see `MSAConv2d`."""
    return self.operator.project(x, **context)

  def mix(self, heads: Heads) -> Float[Array, "B R C N E"]:
    """Returns the operator's attention, before its convolution."""
    return self.operator.mix(heads)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B R C D"]:
    """Returns the operator's rectified convolution of outputs plus input."""
    return self.operator.merge(out, heads)

  def __call__(
    self, x: Float[Array, "B R C D"], **context: Unpack[Context]
  ) -> Float[Array, "B R C D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(self, x, **context: Unpack[Context]) -> Float[Array, "B N T T"]:
    """Returns the operator's softmax weights, see `MSAConv2d`."""
    return self.operator.weights(x, **context)
