"""The paper's block: an inverted bottleneck, windows, a grid."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax import contract
from attnjax.nn import drop_path, running, transformer
from attnjax.nn.mlp import GELU
from attnjax.nn.norms import BatchNorm
from attnjax.variants.local.maxvit.layer import Layer

_INIT = nnx.initializers.normal(0.02)


def norm(dim: int, momentum: float = 0.99) -> BatchNorm:
  """Returns a batch norm as TensorFlow's defaults are."""
  return BatchNorm(dim, momentum=momentum, epsilon=1e-3)


class MBConv(nnx.Module):
  """shortcut(x) + norm, expand, norm, GELU, depthwise 3 x 3, norm, GELU, SE, project.

  Mark Sandler et al. MobileNetV2. arXiv:1801.04381, with the norm first and a squeeze
  and excitation (SE) of a quarter of the outgoing channels. Strides pad as TensorFlow
  does: at the right and bottom only, where the side is even.

  Args:
    below: channels of x.
    dim: channels of the result.
    stride: 2 halves the map, rounded up.
    expand: width inside, in `dim`.
    squeeze: width of the squeeze, in `dim`.
    momentum: of the batch norms.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    below: int,
    dim: int,
    *,
    stride: int = 1,
    expand: float = 4.0,
    squeeze: float = 0.25,
    momentum: float = 0.99,
    rngs: nnx.Rngs,
  ):
    def linear(a, b, bias=True):
      return nnx.Linear(a, b, use_bias=bias, kernel_init=_INIT, rngs=rngs)

    hidden, small = int(expand * dim), int(squeeze * dim)
    self.shortcut = linear(below, dim) if below != dim else None
    widths = below, hidden, hidden
    self.norms = nnx.List(norm(width, momentum) for width in widths)
    self.first, self.last = linear(below, hidden, bias=False), linear(hidden, dim)
    self.kernel = nnx.Param(_INIT(rngs.params(), (3, 3, hidden)))
    self.squeeze, self.excite = linear(hidden, small), linear(small, hidden)
    self.stride = stride

  def __call__(
    self,
    x: Float[Array, "B R C D"],
    *,
    drop: float = 0.0,
    key=None,
    stats: Any = None,
    train: bool = False,
  ) -> tuple[Float[Array, "B r c E"], Any]:
    """Returns (output, new statistics); `key` turns on that residuals are dropped."""
    carry = running.Carry(self, stats, train)
    y = self.first(carry(self.norms[0], x))
    y = jax.nn.gelu(carry(self.norms[1], y))
    y = strided(y, self.kernel[...], self.stride)
    y = jax.nn.gelu(carry(self.norms[2], y))
    gate = self.excite(jax.nn.silu(self.squeeze(y.mean(axis=(1, 2)))))
    y = self.last(y * jax.nn.sigmoid(gate)[:, None, None])
    if self.stride > 1:
      sides = (self.stride,) * 2
      x = nnx.avg_pool(x, sides, sides, padding="SAME", count_include_pad=False)
    x = x if self.shortcut is None else self.shortcut(x)
    return carry.result(x + drop_path.drop(y, drop, key))


def strided(
  x: Float[Array, "B R C D"], kernel: Float[Array, "k k D"], stride: int
) -> Float[Array, "B r c D"]:
  """Returns a depthwise convolution, padded with zeros as TensorFlow's "same".

  It is written as shifts: grouped convolutions are slow on the CPU.
  """
  size, sides = kernel.shape[0], tuple(-(-n // stride) for n in x.shape[1:3])
  around = []
  for n, side in zip(x.shape[1:3], sides):
    missing = max((side - 1) * stride + size - n, 0)
    around.append((missing // 2, missing - missing // 2))
  x = jnp.pad(x, ((0, 0), *around, (0, 0)))
  rows, columns = (slice(0, (n - 1) * stride + 1, stride) for n in sides)
  kernel, y = kernel.astype(x.dtype), jnp.zeros((), x.dtype)
  for i in range(size):
    for j in range(size):
      y += x[:, i:, j:][:, rows, columns] * kernel[i, j]
  return y


class AttentionBlock(nnx.Module):
  """x + attend(norm x), then x + mlp(norm x).

  Args:
    dim: D.
    hidden: width of the MLP.
    rngs: for the parameters.
    options: of `Layer`.
  """

  def __init__(self, dim: int, *, hidden: int, rngs: nnx.Rngs, **options):
    self.norms = nnx.List(transformer.layer_norm(dim, rngs=rngs) for _ in range(2))
    self.mix = Layer(dim, rngs=rngs, **options)
    self.feed = GELU(dim, hidden, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B R C D"], *, drop: float = 0.0, key=None
  ) -> Float[Array, "B R C D"]:
    """Returns the block's output; `key` turns on that residuals are dropped."""
    first, second = transformer.keys(key, 2)
    x = x + drop_path.drop(self.mix(self.norms[0](x)), drop, first)
    return x + drop_path.drop(self.feed(self.norms[1](x)), drop, second)

  def weights(self, x: Float[Array, "B R C D"]) -> Float[Array, "B N T T"]:
    """Returns the weights of the attention."""
    return contract.weights(self.mix, self.norms[0](x))


class Block(nnx.Module):
  """MBConv, attention in windows, attention over a grid.

  Args:
    below: channels of x.
    dim: D, channels of the result.
    stride: of the convolution.
    window: rows and columns of a window, or one number for both.
    grid: the same of the grid.
    head_dim: H.
    mlp_ratio: width of the MLPs, in D.
    drop: the share of examples whose residual is left out in training.
    impl: as in `attend`.
    rngs: for the parameters.
    options: more of `MBConv`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    below: int,
    dim: int,
    *,
    stride: int = 1,
    window: int | tuple[int, ...] = 7,
    grid: int | tuple[int, ...] = 7,
    head_dim: int = 32,
    mlp_ratio: float = 4.0,
    drop: float = 0.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
    **options,
  ):
    self.convolve = MBConv(below, dim, stride=stride, rngs=rngs, **options)
    self.window, self.grid = (
      AttentionBlock(
        dim,
        hidden=int(mlp_ratio * dim),
        kind=kind,
        window=window,
        head_dim=head_dim,
        impl=impl,
        rngs=rngs,
      )
      for kind, window in (("window", window), ("grid", grid))
    )
    self.drop = drop

  def __call__(
    self,
    x: Float[Array, "B R C D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> tuple[Float[Array, "B r c E"], Any]:
    """Returns (output, new statistics); `key` turns the dropping of residuals on."""
    del index  # windows and grids are in every block
    carry = running.Carry(self, stats, train)
    parts = self.convolve, self.window, self.grid
    for part, own in zip(parts, transformer.keys(key, 3)):
      x = carry(part, x, drop=self.drop, key=own)
    return carry.result(x)

  def weights(
    self, x: Float[Array, "B R C D"], *, index: int = 0, stats: Any = None
  ) -> list[Array]:
    """Returns the weights (B, N, T, T) of the windows and of the grid."""
    del index
    x = running.Carry(self, stats, False)(self.convolve, x)
    return [self.window.weights(x), self.grid.weights(self.window(x))]
