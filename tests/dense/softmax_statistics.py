"""The passes of the kernels of softmax statistics, over whole matrices."""

import jax.numpy as jnp

from pallas_kernels.softmax_statistics.mosaic_tpu import backward
from tests.dense import flash

__all__ = ["backward", "forward"]


def forward(q, k, lse, program, schedule, *, which, scale, tiles):
  """Returns (columns,) or (argmax, entropy); columns by the lists of key blocks."""
  del tiles
  transposed = which == "columns"
  visible, score, _, _ = flash._scores(q, k, program, schedule, scale, transposed)
  lse = lse.swapaxes(1, 2)[..., None]
  score = jnp.where(visible, score, -jnp.inf)
  apart = score - jnp.where(lse == -jnp.inf, jnp.inf, lse)
  weight = jnp.exp(apart)
  if which == "columns":
    return (weight.sum(axis=2),)
  entropy = jnp.where(weight == 0, 0, -weight * apart).sum(axis=3)
  some = (score > -jnp.inf).any(axis=3)
  argmax = jnp.where(some, score.argmax(axis=3), -1).astype(jnp.int32)
  return argmax.swapaxes(1, 2), entropy.swapaxes(1, 2)
