"""Large depthwise kernels, trained as sums of dilated ones and merged afterwards.

Xiaohan Ding et al. UniRepLKNet. arXiv:2311.15599, the dilated reparam block.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core import depthwise
from attnjax.nn import running
from attnjax.nn.depthwise import Depthwise
from attnjax.nn.norms import BatchNorm
from attnjax.variants.local.overlock.parts import INIT

# Side of the kernel -> (side, dilation) of the kernels that are added to it.
BRANCHES = {
  5: ((3, 1), (3, 2)),
  7: ((5, 1), (3, 1), (3, 2), (3, 3)),
  9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
  11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
  13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
  15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
  17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
  19: ((5, 1), (7, 1), (9, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


def dilated(
  x: Float[Array, "B H W D"], kernel: Float[Array, "k k D"], dilation: int
) -> Float[Array, "B H W D"]:
  """Returns a dilated depthwise convolution, with zeros beyond the border.

  Pixels whose coordinates have equal remainders by the dilation form separate maps.
  """
  if dilation == 1:
    return depthwise.depthwise(x, kernel)
  B, H, W, D = x.shape
  around = ((0, 0), (0, -H % dilation), (0, -W % dilation), (0, 0))
  y = jnp.pad(x, around)
  rows, columns = (side // dilation for side in y.shape[1:3])
  y = y.reshape(B, rows, dilation, columns, dilation, D).transpose(0, 2, 4, 1, 3, 5)
  y = depthwise.depthwise(y.reshape(-1, rows, columns, D), kernel)
  y = y.reshape(B, dilation, dilation, rows, columns, D).transpose(0, 3, 1, 4, 2, 5)
  return y.reshape(B, rows * dilation, columns * dilation, D)[:, :H, :W]


class LargeKernel(nnx.Module):
  """The sum of depthwise convolutions with one large kernel and with BRANCHES.

  Each has a batch norm behind it, or none has. Training with batch norm computes each
  convolution; elsewhere the kernels are merged to one first.

  Args:
    dim: D.
    size: side of the large kernel, a key of BRANCHES.
    normed: whether there are batch norms.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(self, dim: int, size: int, *, normed: bool = True, rngs: nnx.Rngs):
    if size not in BRANCHES:
      raise ValueError(f"a kernel with the side {size}: it must be in {[*BRANCHES]}")
    self.size = size
    self.kernels = nnx.List(
      nnx.Param(INIT(rngs.params(), (side, side, dim))) for side, _ in self.plan
    )
    # One norm has the channels of all branches: each channel is normed by itself.
    self.norm = BatchNorm(len(self.plan) * dim) if normed else None

  @property
  def plan(self) -> tuple[tuple[int, int], ...]:
    """Returns (side, dilation) of all kernels, the large one first."""
    return (self.size, 1), *BRANCHES[self.size]

  def __call__(
    self, x: Float[Array, "B H W D"], *, stats: Any = None, train: bool = False
  ) -> Any:
    """Returns the convolved map, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    if self.norm is None or not train:
      kernel, bias = self.merged(stats)
      y = depthwise.depthwise(x, kernel) + bias.astype(x.dtype).reshape(1, 1, 1, -1)
      return carry.result(y)
    kernels = zip(self.kernels, self.plan)
    parts = [dilated(x, kernel[...], rate) for kernel, (_, rate) in kernels]
    y = carry(self.norm, jnp.concatenate(parts, axis=-1))
    return carry.result(y.reshape(*x.shape[:3], len(parts), -1).sum(axis=3))

  def merged(self, stats: Any = None) -> tuple[Array, Array]:
    """Returns the kernel (size, size, D) and the bias (D,) of the whole sum.

    Args:
      stats: the running statistics, where there is batch norm.
    """
    shape = len(self.plan), 1, 1, self.kernels[0].shape[2]
    factors, bias = jnp.ones(shape), jnp.zeros(shape[-1])
    if self.norm is not None:
      own = stats["norm"]
      factor = self.norm.scale[...] / jnp.sqrt(own.var + self.norm.epsilon)
      factors = factor.reshape(shape)
      bias = (self.norm.bias[...] - own.mean * factor).reshape(shape).sum((0, 1, 2))
    total = jnp.zeros(self.kernels[0].shape)
    for kernel, factor, (side, rate) in zip(self.kernels, factors, self.plan):
      edge = self.size // 2 - rate * (side // 2)
      around = edge, edge, rate - 1
      kernel = kernel[...] * factor
      zero = jnp.zeros((), kernel.dtype)
      total += jax.lax.pad(kernel, zero, (around, around, (0, 0, 0)))
    return total, bias


def fuse(module: Any, stats: Any) -> tuple[Any, Any]:
  """Returns a copy of a module whose large kernels are merged, and its statistics.

  Each `LargeKernel` with batch norms is then a `nn.depthwise.Depthwise`: evaluation
  gives equal results, and no more is trained through the sum.

  Args:
    module: any layer, block or network.
    stats: its running statistics.
  """
  module = nnx.clone(module)
  return module, _fused(module, stats)


def _fused(module, stats):
  kept = {}
  for name, own in stats.items():
    holder, place = _place(module, name)
    part = holder[place] if isinstance(place, int) else getattr(holder, place)
    if isinstance(part, BatchNorm):
      kept[name] = own
    elif not isinstance(part, LargeKernel):
      kept[name] = _fused(part, own)
    elif isinstance(place, int):
      holder[place] = _plain(part, own)
    else:
      setattr(holder, place, _plain(part, own))
  return {name: own for name, own in kept.items() if own != {}}


def _place(module, name: str) -> tuple[Any, str | int]:
  """Returns what holds the part of a name in statistics, and its place in there."""
  holder, (*path, last) = module, name.split("/")
  for step in path:
    holder = holder[int(step)] if step.isdigit() else getattr(holder, step)
  return holder, int(last) if last.isdigit() else last


def _plain(part: LargeKernel, stats: Any) -> Depthwise:
  """Returns the merged convolution."""
  kernel, bias = part.merged(stats)
  made = Depthwise(kernel.shape[2], part.size, rngs=nnx.Rngs(0))
  made.kernel, made.bias = nnx.Param(kernel), nnx.Param(bias)
  return made
