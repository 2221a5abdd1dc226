"""Spherical k-means whose centroids are an argument and a result, never a parameter."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.exported import serializable

COMMITMENT = 1e-4
AVERAGED = ("sums", "means")


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Clusters:
  """Centroids and the moving averages they come from, float32 (or float64).

  Attributes:
    means: (N, c, H).
    counts: (N, c), number of tokens of a cluster in a batch, averaged over batches.
    sums: (N, c, H), the sum of a cluster's tokens, averaged over batches.
  """

  means: Any
  counts: Any
  sums: Any

  @classmethod
  def start(cls, means: Float[Array, "N c H"]) -> "Clusters":
    """Returns clusters whose averages are one token each, the centroid."""
    means = means.astype(accumulator_dtype(means))
    return cls(means, jnp.ones(means.shape[:2], means.dtype), means)

  def update(
    self,
    x: Float[Array, "B T N H"],
    real: Bool[Array, "B T"] | None = None,
    *,
    decay: float = 0.999,
    averaged: str = "sums",
    axis_name: str | None = None,
  ) -> "Clusters":
    """Returns the clusters after a batch: moving averages, counts smoothed (Laplace).

    A cluster without a token keeps its centroid. Smoothing alone would shrink it, and
    at length 0 it would be nearer than every centroid that points away from a token.

    Args:
      x: queries or keys, or both concatenated along T.
      real: True at the tokens that count.
      decay: of the averages. In bfloat16 0.999 would be 1: hence float32.
      averaged: "sums", counts and sums as in the official code; or "means", the
        centroids alone, see `follow`.
      axis_name: the axis of replicas, over which counts and sums are added.
    """
    check_known("averaged", averaged, AVERAGED)
    if averaged == "means":
      new = iterate(self.means, x, real, axis_name=axis_name)
      means = follow(self.means, [new], decay=decay)
      return dataclasses.replace(self, means=means)
    count, total = _sums(self.means, x, real, axis_name)
    counts = decay * self.counts + (1 - decay) * count
    sums = decay * self.sums + (1 - decay) * total
    whole = counts.sum(axis=1, keepdims=True)
    smooth = (counts + 1e-5) / (whole + counts.shape[1] * 1e-5) * whole
    means = jnp.where(count[..., None] > 0, sums / smooth[..., None], self.means)
    return Clusters(means, counts, sums)


def unit(x: Float[Array, "*R H"]) -> Float[Array, "*R H"]:
  """Scales vectors to length 1, in float32 (float64 for float64); 0 stays 0."""
  x = x.astype(accumulator_dtype(x))
  return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-24))


def affinity(
  x: Float[Array, "B T N H"], means: Float[Array, "N c H"]
) -> Float[Array, "B N c T"]:
  """Computes the affinity x . mu of unit vectors to the centroids; no gradient."""
  x, means = jax.lax.stop_gradient((unit(x), means))
  return jnp.einsum("btnh,nch->bnct", x, means.astype(x.dtype))


def assign(
  x: Float[Array, "B T N H"], means: Float[Array, "N c H"]
) -> Int[Array, "B N T"]:
  """Returns the index of the nearest centroid of each token."""
  return affinity(x, means).argmax(axis=2).astype(jnp.int32)


def commitment(
  x: Float[Array, "B T N H"],
  means: Float[Array, "N c H"],
  real: Bool[Array, "B T"] | None = None,
  *,
  weight: float = COMMITMENT,
) -> Float[Array, ""]:
  """Computes the mean of (x - mu)^2, mu the nearest centroid, times `weight`.

  Its gradient draws x to the centroids, which have no gradient.
  """
  means = jax.lax.stop_gradient(means)
  near = jax.vmap(lambda m, a: m[a], in_axes=(0, 1), out_axes=1)(
    means, assign(x, means)
  )
  error = ((unit(x) - near.swapaxes(1, 2)) ** 2).mean(axis=(2, 3))
  if real is None:
    return weight * error.mean()
  return weight * jnp.where(real, error, 0).sum() / jnp.maximum(real.sum(), 1)


def iterate(
  means: Float[Array, "N c H"],
  x: Float[Array, "B T N H"],
  real: Bool[Array, "B T"] | None = None,
  *,
  axis_name: str | None = None,
) -> Float[Array, "N c H"]:
  """Runs one iteration of spherical k-means on a batch; empty clusters stay."""
  count, total = _sums(means, x, real, axis_name)
  return jnp.where(count[..., None] > 0, unit(total), means)


def follow(
  means: Float[Array, "N c H"],
  new: Sequence[Float[Array, "N c H"]],
  *,
  decay: float = 0.999,
) -> Float[Array, "N c H"]:
  """Returns the centroids moved to the mean of new ones, not normalised again.

  Args:
    means: the centroids mu, which become decay mu + (1 - decay) mean(new).
    new: of each batch since they moved last, as from `iterate`.
    decay: of the moving average.
  """
  return decay * means + (1 - decay) * sum(new) / len(new)


def _sums(means, x, real, axis_name):
  x = jax.lax.stop_gradient(unit(x))
  hit = jax.nn.one_hot(assign(x, means), means.shape[1], dtype=x.dtype)  # (B, N, T, c)
  if real is not None:
    hit = hit * real[:, None, :, None]
  result = hit.sum(axis=(0, 2)), jnp.einsum("bntc,btnh->nch", hit, x)
  return result if axis_name is None else jax.lax.psum(result, axis_name)
