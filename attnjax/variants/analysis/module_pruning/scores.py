"""Scores of weights: the share of a layer that goes when a weight goes."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax.contract import Case, check_known
from attnjax.core import definition

IMPLEMENTATIONS = ("reference", "xla")


def dimap_scores(w: Float[Array, "..."], *, impl: str = "auto") -> Float[Array, "..."]:
  """Computes w^2 over the sum of w^2 of all weights that are not smaller, float32.

  The largest weight of the layer has 1; of equal ones the first counts as larger. A
  layer of zeros has 0.

  Args:
    w: all weights of one layer, in any shape.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return reference_dimap_scores(w)
  size = jnp.square(w.astype(jnp.promote_types(w.dtype, jnp.float32))).ravel()
  order = jnp.argsort(-size, stable=True)
  sorted_size = size[order]
  total = jnp.cumsum(sorted_size)
  score = jnp.where(total > 0, sorted_size / jnp.where(total > 0, total, 1), 0)
  return jnp.zeros_like(size).at[order].set(score).reshape(w.shape)


def reference_dimap_scores(w):
  """Computes the definition: for each weight a sum over all that are not smaller."""
  size = jnp.square(definition.wide(w)).ravel()
  place = jnp.arange(size.size)
  first = (size[None] == size[:, None]) & (place[None] <= place[:, None])
  kept = (size[None] > size[:, None]) | first
  total = jnp.where(kept, size[None], 0).sum(axis=1)
  return jnp.where(total > 0, size / jnp.where(total > 0, total, 1), 0).reshape(w.shape)


def exact_scores(w: Any) -> Float[np.ndarray, "..."]:
  """Computes `dimap_scores` in float64 on the host, for layers of millions."""
  size = np.square(np.asarray(w, np.float64)).ravel()
  order = np.argsort(-size, kind="stable")
  total = np.cumsum(size[order])
  score = np.zeros_like(size)
  score[order] = np.divide(
    size[order], total, out=np.zeros_like(total), where=total > 0
  )
  return score.reshape(np.shape(w))


CASES = (
  Case("matrix", {"w": (13, 7)}, function="dimap_scores"),
  Case("one", {"w": (1, 1)}, function="dimap_scores"),
  Case("heads", {"w": (5, 3, 9)}, function="dimap_scores"),
)
