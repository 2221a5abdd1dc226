"""Normalisations without parameters, over pixels and over the batch."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

EPSILON = 1e-5
GROUPS = 12
# Maps a mean over the batch to the mean that is used.
Pool = Callable[[Array], Array]


class Statistics:
  """The recorded statistics of a batch, or their replay in the recorded order.

  A plain object of one trace: a function returns `seen`, which is passed as `held` in
  another call of that network.
  """

  def __init__(self, held: Sequence[Array] | None = None):
    self.held, self.seen = held, []

  def __call__(self, mean: Array) -> Array:
    """Returns `mean`, or the held statistic in its place."""
    if self.held is not None:
      mean = self.held[len(self.seen)]
    self.seen.append(mean)
    return mean


def of_batch(mean: Array) -> Array:
  """Returns `mean`: the official code's pool takes the statistics of this batch."""
  return mean


def instance(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
  """Normalises each image's channel to mean 0 and variance 1."""
  mean = x.mean(axis=(1, 2), keepdims=True)
  variance = jnp.square(x - mean).mean(axis=(1, 2), keepdims=True)
  return (x - mean) / jnp.sqrt(variance + EPSILON)


def batch(x: Float[Array, "B H W C"], pool: Pool = of_batch) -> Array:
  """Normalises each channel of the batch to mean 0 and variance 1."""
  mean = x.mean(axis=(0, 1, 2))
  variance = jnp.square(x - mean[None, None, None]).mean(axis=(0, 1, 2))
  mean, variance = (pool(y)[None, None, None] for y in (mean, variance))
  return (x - mean) / jnp.sqrt(variance + EPSILON)


def gibs(x: Float[Array, "B H W C"], pool: Pool = of_batch) -> Array:
  """Normalises even groups of channels as `batch`, odd groups as `instance`.

  Channel c is in the group floor(GROUPS c / C), for any C.
  """
  C = x.shape[-1]
  even = np.arange(C) * GROUPS // C % 2 == 0
  return jnp.where(even[None, None, None], batch(x, pool), instance(x))
