"""The slow neural loss in its two forms, and the Terminator's objective."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from attnjax.contract import check_known

REDUCTIONS = ("channel_sum", "tile")


def slow_neural_loss(
  kernels: Sequence[Float[Array, "H W _"]], reduce: str = "channel_sum"
) -> Float[Array, ""]:
  """Computes the distance of the blocks' slow kernels, summed over pairs of blocks.

  Args:
    kernels: (H, W, C_i) of each block, of one H and W.
    reduce: "channel_sum": mean((sum_c W_j - sum_c W_i)^2); "tile": mean((W_j tiled -
      W_i)^2), the earlier kernel's channels repeated to the number of the later's.

  Raises:
    ValueError: if `reduce` is unknown or channels do not divide.
  """
  check_known("reduce", reduce, REDUCTIONS)
  if reduce == "channel_sum":
    kernels = [kernel.sum(axis=-1, keepdims=True) for kernel in kernels]
  total = jnp.zeros(())
  for early, late in itertools.combinations(kernels, 2):
    if late.shape[-1] % early.shape[-1]:
      raise ValueError(f"kernels {early.shape} cannot be tiled to {late.shape}")
    tiled = jnp.tile(early, late.shape[-1] // early.shape[-1])
    total += jnp.square(tiled - late).mean()
  return total


def terminator_loss(
  logits: Float[Array, "B classes"],
  labels: Int[Array, "B"],
  kernels: Sequence[Float[Array, "H W _"]],
  *,
  smoothing: float = 0.09,
  weight: float = 1.0,
  reduce: str = "channel_sum",
) -> Float[Array, ""]:
  """Computes smoothed cross-entropy plus `weight` times the slow neural loss."""
  targets = optax.smooth_labels(jnp.eye(logits.shape[-1])[labels], smoothing)
  loss = optax.softmax_cross_entropy(logits, targets).mean()
  return loss + weight * slow_neural_loss(kernels, reduce)
