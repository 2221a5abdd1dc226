"""Slow nets: MLPs over coordinates, with sine filters, that generate kernels."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnjax.variants.mixers.hyperzzw.standardise import Pool, of_batch

KERNEL = nnx.initializers.lecun_uniform()
_ONES = nnx.initializers.ones
ALPHA, RENORMALISED = 6.0, 0.1


class PositionBias(nnx.Module):
  """A table of `size` points an axis, 0 at first; interpolated for other grids."""

  def __init__(self, size: int, axes: int):
    self.table = nnx.Param(jnp.zeros((size,) * axes))

  def __call__(self, grid: Sequence[int]) -> Float[Array, "*T 1"]:
    """Returns the table's values on the grid."""
    table = self.table[...]
    if table.shape != tuple(grid):
      table = jax.image.resize(table, tuple(grid), "linear")
    return table[..., None]


class SlowNet(nnx.Module):
  """Kernels of any grid from the coordinates of its points.

  Args:
    outputs: C, number of generated kernels.
    axes: number of the grid's axes, 1 or 2.
    size: points an axis of the position bias; its number of points scales the output.
    width: m.
    depth: L, hidden layers.
    omega0: scale of the filters' frequencies. The official 2000 gives almost random
      values at each point; smooth kernels need 30 or less.
    rngs: for the parameters.
  """

  def __init__(
    self,
    outputs: int,
    *,
    axes: int = 2,
    size: int,
    width: int,
    depth: int = 2,
    omega0: float = 2000.0,
    rngs: nnx.Rngs,
  ):
    frequencies = _frequencies(rngs.params(), (depth + 1, axes, width), omega0)
    self.filters = nnx.List(
      nnx.Linear(axes, width, kernel_init=lambda *_, f=f: f, rngs=rngs)
      for f in frequencies
    )
    self.hidden = nnx.List(
      nnx.Linear(width, width, kernel_init=KERNEL, bias_init=_ONES, rngs=rngs)
      for _ in range(depth)
    )
    self.position = PositionBias(size, axes)
    self.out = nnx.Linear(
      width, outputs, kernel_init=_scaled(size ** (-axes / 2)), rngs=rngs
    )

  def __call__(self, grid: Sequence[int]) -> Float[Array, "*T C"]:
    """Returns the kernels (*grid, C)."""
    points, place = coordinates(grid), self.position(grid)
    h = jnp.sin(self.filters[0](points))
    for sines, mix in zip(list(self.filters)[1:], self.hidden):
      h = jnp.sin(sines(points)) * mix(h) + place
    return self.out(h)


class LocalSlowNet(nnx.Module):
  """Small kernels (k, k, C) from coordinates and from pooled features.

  The features are averaged over the batch: all of its images share one kernel.
  """

  def __init__(
    self,
    channels: int,
    *,
    kernel: int,
    width: int,
    depth: int = 2,
    omega0: float = 2000.0,
    rngs: nnx.Rngs,
  ):
    self.net = SlowNet(
      channels, size=kernel, width=width, depth=depth, omega0=omega0, rngs=rngs
    )
    self.reduce = nnx.Linear(channels, width, kernel_init=KERNEL, rngs=rngs)
    self.feature = nnx.Linear(width, width, kernel_init=KERNEL, rngs=rngs)
    self.gates = nnx.List(
      nnx.Linear(width, width, kernel_init=KERNEL, bias_init=_ONES, rngs=rngs)
      for _ in range(depth)
    )
    self.kernel = kernel

  def __call__(
    self, x: Float[Array, "B H W C"], pool: Pool = of_batch
  ) -> Float[Array, "k k C"]:
    """Returns the kernel for the features x."""
    grid = (self.kernel, self.kernel)
    z = pool(self.reduce(adaptive_mean(x, self.kernel)).mean(axis=0))
    z = jax.nn.gelu(self.feature(z), approximate=False)
    points, place = coordinates(grid), self.net.position(grid)
    h = jnp.sin(self.net.filters[0](points))
    for sines, mix, gate in zip(
      list(self.net.filters)[1:], self.net.hidden, self.gates
    ):
      h = renormalise(jnp.sin(sines(points)) * mix(h) + place) * gate(z)
    return self.net.out(h)


def coordinates(grid: Sequence[int]) -> Float[Array, "*T A"]:
  """Returns the grid's coordinates, from -1 to 1 along each axis."""
  axes = [jnp.linspace(-1, 1, length) for length in grid]
  return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)


def adaptive_mean(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B k k C"]:
  """Averages x over size x size windows, which overlap if they do not divide it."""
  rows, columns = (_windows(length, size) for length in x.shape[1:3])
  return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, x)


def _windows(length, size):
  place = np.arange(length)
  start = np.arange(size)[:, None] * length // size
  stop = -(-(np.arange(size)[:, None] + 1) * length // size)
  inside = (place >= start) & (place < stop)
  return jnp.float32(inside / inside.sum(axis=1, keepdims=True))


def renormalise(h):
  """Returns h + 0.1 h / |h|, |h| over all points; only 0.1 h / |h| has a gradient."""
  square = jnp.sum(h * h, axis=(0, 1), keepdims=True)
  # The root of a zero has no gradient.
  length = jnp.sqrt(jnp.maximum(square, 1e-24))
  return jax.lax.stop_gradient(h) + RENORMALISED * h / length


def _frequencies(key, shape, omega0):
  """Draws W of the filters of all layers, (L + 1, A, m)."""
  direction, size = jax.random.split(key)
  bound = 1 / math.sqrt(shape[1])
  uniform = jax.random.uniform(direction, shape, minval=-bound, maxval=bound)
  alpha = ALPHA / jnp.arange(1.0, shape[0] + 1)[:, None, None]
  return 2 * math.pi * omega0 * jax.random.gamma(size, alpha, shape) * uniform


def _scaled(factor):
  def init(key, shape, dtype):
    return factor * KERNEL(key, shape, dtype)

  return init
