"""Normalisations without parameters, over pixels and over the batch."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

EPSILON = 1e-5
GROUPS = 12
# (a mean over the batch) -> what is used for it.
Pool = Callable[[Array], Array]


class Statistics:
  """Keeps the statistics of a batch, or gives those kept before, in their order.

  A plain object of one trace: `seen` is what a function returns, to be given as `held`
  in another call of the same network.
  """

  def __init__(self, held: Sequence[Array] | None = None):
    self.held, self.seen = held, []

  def __call__(self, mean: Array) -> Array:
    """`mean`, or what was held in its place."""
    if self.held is not None:
      mean = self.held[len(self.seen)]
    self.seen.append(mean)
    return mean


def of_batch(mean: Array) -> Array:
  """The pool of the official code: the statistics are those of this batch."""
  return mean


def instance(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
  """Mean 0 and variance 1 of each image's channel."""
  mean = x.mean(axis=(1, 2), keepdims=True)
  variance = jnp.square(x - mean).mean(axis=(1, 2), keepdims=True)
  return (x - mean) / jnp.sqrt(variance + EPSILON)


def batch(x: Float[Array, "B H W C"], pool: Pool = of_batch) -> Array:
  """Mean 0 and variance 1 of each channel of the batch."""
  mean = x.mean(axis=(0, 1, 2))
  variance = jnp.square(x - mean[None, None, None]).mean(axis=(0, 1, 2))
  mean, variance = (pool(y)[None, None, None] for y in (mean, variance))
  return (x - mean) / jnp.sqrt(variance + EPSILON)


def gibs(x: Float[Array, "B H W C"], pool: Pool = of_batch) -> Array:
  """GROUPS of channels, those of even number like `batch`, the others `instance`.

  Channel c is in the group floor(GROUPS c / C), so that any C will do.
  """
  C = x.shape[-1]
  even = np.arange(C) * GROUPS // C % 2 == 0
  return jnp.where(even[None, None, None], batch(x, pool), instance(x))
