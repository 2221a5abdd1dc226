"""Batch norm whose running statistics are an argument and a result.

Sergey Ioffe, Christian Szegedy. Batch Normalization. arXiv:1502.03167, algorithms 1
and 2. For each channel, over all other axes,

  y = scale (x - mean) / sqrt(var + epsilon) + bias

with the mean and variance of the batch in training, and with running ones afterwards.
No module stores a statistic: an optimizer would train it, and `jax.jit` would lose its
change. `attnjax.nn.running` hands them through modules that have batch norm inside.

Inside `jax.shard_map` a batch is what one device has; under `jax.jit` alone it is the
whole batch, however it is sharded.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.exported import serializable


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stats:
  """Running statistics of a batch norm, or of several that are stacked, in float32.

  Attributes:
    mean: (*R, D).
    var: (*R, D).
  """

  mean: Any
  var: Any


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
  """The count, mean and variance of the rows measured so far, in float32.

  Attributes:
    count: (*R,), the number of rows measured.
    mean: (*R, D), 0 if no row was measured.
    var: (*R, D), the mean square of the distance to the mean.
  """

  count: Any
  mean: Any
  var: Any


class BatchNorm(nnx.Module):
  """A norm of each channel over the batch and all places: x (*S, D).

  As in PyTorch, a batch is normalised by its mean square distance to the mean, and the
  running variance moves to the unbiased estimate, n / (n - 1) times as large; one row
  has the variance 0. A batch without rows moves nothing.

  Args:
    dim: D.
    momentum: share of the running statistics that a step keeps; PyTorch counts what it
      takes of the batch, 1 - momentum.
    epsilon: added to the variance.
  """

  def __init__(self, dim: int, *, momentum: float = 0.9, epsilon: float = 1e-5):
    if not 0 <= momentum <= 1:
      raise ValueError(f"momentum = {momentum}: a share is from 0 to 1")
    if not epsilon > 0:
      raise ValueError(f"epsilon = {epsilon}: it must be above 0")
    self.scale = nnx.Param(jnp.ones(dim))
    self.bias = nnx.Param(jnp.zeros(dim))
    self.momentum, self.epsilon = momentum, epsilon

  def init_stats(self) -> Stats:
    """Returns the initial running statistics: mean 0 and variance 1."""
    shape = self.scale.shape
    return Stats(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32))

  def __call__(
    self,
    x: Float[Array, "*S D"],
    stats: Stats | Moments | None = None,
    *,
    mask: Bool[Array, "..."] | None = None,
    train: bool = False,
  ) -> tuple[Float[Array, "*S D"], Stats | Moments]:
    """Returns (y, statistics); it computes in float32, y has the type of x.

    Args:
      x: the rows to normalise.
      stats: the running statistics, which training moves and evaluation uses; or, in
        training, Moments, to which those of x are added. They take no gradient.
      mask: True at the rows that count. The others are read as zeros and not measured.
      train: whether x is normalised by its own statistics, through which its gradient
        flows.

    Raises:
      ValueError: without `stats`, and for Moments or a mask that do not fit.
    """
    if not isinstance(stats, (Stats, Moments)):
      raise ValueError(rule(self))
    if not (train or isinstance(stats, Stats)):
      raise ValueError("Moments are of training: evaluation takes the running Stats")
    kind, x = x.dtype, x.astype(accumulator_dtype(x))
    if mask is not None:
      if mask.shape != x.shape[:-1]:
        raise ValueError(f"mask {mask.shape}: one of each row, {x.shape[:-1]}")
      x = jnp.where(mask[..., None], x, 0)
    stats = jax.lax.stop_gradient(stats)
    used: Any = _measured(x, mask) if train else stats
    if train:
      stats = self.after(stats, jax.lax.stop_gradient(used))
    factor = self.scale[...].astype(x.dtype) * jax.lax.rsqrt(used.var + self.epsilon)
    mean, factor, bias = (
      y.astype(x.dtype).reshape((1,) * (x.ndim - 1) + y.shape)
      for y in (used.mean, factor, self.bias[...])
    )
    return ((x - mean) * factor + bias).astype(kind), stats

  def after(self, stats: Stats | Moments, moments: Moments) -> Any:
    """Returns the statistics moved by the batch's moments; or both moments combined.

    Args:
      stats: running statistics, which move; or Moments, which are combined.
      moments: of the batch.
    """
    if isinstance(stats, Moments):
      return _joined(stats, moments)
    count = moments.count[..., None]
    var = moments.var * (count / jnp.maximum(count - 1, 1))
    kept = jnp.where(count > 0, self.momentum, 1)

    def move(old, new):
      return (kept * old + (1 - kept) * new).astype(old.dtype)

    return Stats(move(stats.mean, moments.mean), move(stats.var, var))


def rule(module: Any) -> str:
  """Returns the error message for missing statistics."""
  return f"{type(module).__name__} has batch norm: pass stats=layer.init_stats()"


def _measured(x: Float[Array, "*S D"], mask: Bool[Array, "*S"] | None) -> Moments:
  """Returns the moments of the rows of x, which is 0 where the mask is False."""
  axes = tuple(range(x.ndim - 1))
  real = None if mask is None else mask[..., None]
  count = math.prod(x.shape[:-1]) if mask is None else jnp.sum(mask)
  count = jnp.asarray(count, x.dtype)
  mean = jnp.sum(x, axes) / jnp.maximum(count, 1)
  # Not a difference of squares, which cancels where the mean is large.
  square = jnp.square(x - mean.reshape((1,) * len(axes) + mean.shape))
  square = square if real is None else jnp.where(real, square, 0)
  return Moments(count, mean, jnp.sum(square, axes) / jnp.maximum(count, 1))


def _joined(a: Moments, b: Moments) -> Moments:
  """Returns the moments of both sets of rows, by the law of total variance."""
  count = a.count + b.count.astype(a.count.dtype)
  share = (b.count / jnp.maximum(count, 1))[..., None]
  apart = b.mean - a.mean
  var = a.var + (b.var - a.var) * share + apart**2 * share * (1 - share)
  return Moments(
    count, (a.mean + apart * share).astype(a.mean.dtype), var.astype(a.var.dtype)
  )
