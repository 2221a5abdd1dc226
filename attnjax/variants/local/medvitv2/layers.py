"""The layers of the blocks: merging of patches, convolutions, pooled attention."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnjax.attention import attend
from attnjax.core.depthwise import depthwise
from attnjax.core.grids import pooling
from attnjax.nn import projections, running
from attnjax.nn.norms import BatchNorm

_INIT = nnx.initializers.truncated_normal(0.02)


def h_sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Computes relu6(x + 3) / 6."""
  return jax.nn.relu6(x + 3) / 6


class Embed(nnx.Module):
  """Means of 2 x 2 with stride 2, then a linear map and a norm where anything changes.

  Args:
    below: channels of x.
    dim: of the result.
    stride: 1 or 2.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(self, below: int, dim: int, stride: int = 1, *, rngs: nnx.Rngs):
    if stride not in (1, 2):
      raise ValueError(f"stride = {stride}: it must be 1 or 2")
    changes = stride > 1 or below != dim

    def linear():
      return nnx.Linear(below, dim, use_bias=False, kernel_init=_INIT, rngs=rngs)

    self.linear = linear() if changes else None
    self.norm = BatchNorm(dim) if changes else None
    self.stride = stride

  def __call__(
    self, x: Float[Array, "B R C D"], *, stats: Any = None, train: bool = False
  ) -> Any:
    """Returns the map, perhaps smaller and of another width, and new statistics."""
    carry = running.Carry(self, stats, train)
    x = pooling.means(x, 2) if self.stride > 1 else x
    if self.linear is None or self.norm is None:
      return carry.result(x)
    return carry.result(carry(self.norm, self.linear(x)))


class Feed(nnx.Module):
  """z + an inverted residual convolution of z, with squeeze and excitation.

  Args:
    dim: D.
    expand: width inside, in D, and width of the squeeze.
    kernel: side of the depthwise convolution.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(self, dim: int, *, expand: int = 3, kernel: int = 3, rngs: nnx.Rngs):
    def linear(a, b, bias=False):
      return nnx.Linear(a, b, use_bias=bias, kernel_init=_INIT, rngs=rngs)

    hidden = expand * dim
    self.up, self.down = linear(dim, hidden), linear(hidden, dim)
    self.squeeze, self.excite = (
      linear(hidden, expand, bias=True),
      linear(expand, hidden, bias=True),
    )
    self.kernel = nnx.Param(_INIT(rngs.params(), (kernel, kernel, hidden)))
    self.norms = nnx.List(BatchNorm(width) for width in (hidden, hidden, dim))

  def __call__(
    self, z: Float[Array, "B R C D"], *, stats: Any = None, train: bool = False
  ) -> tuple[Float[Array, "B R C D"], Any]:
    """Returns (the sum, new statistics); the residual around it is the caller's."""
    carry = running.Carry(self, stats, train)
    y = carry(self.norms[0], self.up(z))
    y = y * h_sigmoid(y)
    y = carry(self.norms[1], depthwise(y, self.kernel[...]))
    y = y * h_sigmoid(y)
    gate = jax.nn.relu(self.squeeze(y.mean(axis=(1, 2))))
    y = y * h_sigmoid(self.excite(gate))[:, None, None]
    return carry.result(z + carry(self.norms[2], self.down(y)))


class Pooled(nnx.Module):
  """Attention to keys that are means along the flattened map.

  Args:
    dim: D.
    head_dim: H.
    ratio: a key is the mean of ratio^2 tokens; what is left at the end is dropped.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(self, dim: int, *, head_dim: int = 32, ratio: int = 1, rngs: nnx.Rngs):
    heads = dim // head_dim
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, head_dim, bias=True, init=_INIT, rngs=rngs
    )
    self.out = projections.output(
      heads, head_dim, dim, bias=True, init=_INIT, rngs=rngs
    )
    self.norm = BatchNorm(dim) if ratio > 1 else None
    self.ratio = ratio

  def __call__(
    self, x: Float[Array, "B R C D"], *, stats: Any = None, train: bool = False
  ) -> Any:
    """Returns the result, in the shape of x, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    y, _ = attend(*self._heads(carry, x))
    return carry.result(self.out(y.astype(x.dtype)).reshape(x.shape))

  def weights(self, x: Float[Array, "B R C D"], *, stats: Any = None) -> Array:
    """Returns the weights (B, N, T, S) of the S means."""
    q, k, v = self._heads(running.Carry(self, stats, False), x)
    out, _ = attend(q, k, projections.identity_values(v))
    return out.swapaxes(1, 2)

  def _heads(self, carry, x):
    """Returns queries of the tokens, keys and values of the means."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    few, size = flat, min(self.ratio**2, flat.shape[1])
    if self.norm is not None:
      few = flat[:, : flat.shape[1] // size * size]
      few = few.reshape(x.shape[0], -1, size, x.shape[-1]).mean(axis=2)
      few = carry(self.norm, few)
    return self.qkv.query(flat), self.qkv.key(few), self.qkv.value(few)
