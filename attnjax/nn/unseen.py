"""Isolation of padding: every layer first sets unseen tokens to zero.

A token that is padding, or has a negative segment id, is seen by no token. Its values,
NaN and infinity too, are zeros to the layer: the results at the other tokens, the
caches and the gradients are those of zeros at the padding, and the gradient by the
padding is 0. The results at the padding itself are finite, and of no use.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from attnjax.core import masks


def blank(
  x: Array,
  segment_ids: Int[Array, "B T"] | None = None,
  valid: Bool[Array, "B T"] | None = None,
) -> tuple[Array, Int[Array, "B T"] | None]:
  """Returns (x, ids) with zeros, and the segment -1, at the tokens that nobody sees.

  Args:
    x: (B, T, D), or with more axes if nothing else is given.
    segment_ids: negative where nobody sees a token.
    valid: True at the real tokens.
  """
  ids = masks.segments(segment_ids, valid, x.shape[:2])
  return (x if ids is None else jnp.where((ids >= 0)[..., None], x, 0)), ids


def told(
  ids: Int[Array, "B T"] | None, segment_ids: Int[Array, "B T"] | None
) -> dict[str, Array]:
  """Returns the option `valid` or `segment_ids` that tells a function of `ids`.

  Padding alone (`valid`) costs such a function less than documents.

  Args:
    ids: the segments that `blank` returns.
    segment_ids: the argument of `blank`.
  """
  if ids is None:
    return {}
  return {"valid": ids >= 0} if segment_ids is None else {"segment_ids": ids}


def nothing(layer: Callable[[Array], Array], x: Array) -> Array:
  """Returns the empty result of a layer for an x without examples or tokens."""
  some = jax.ShapeDtypeStruct([size or 1 for size in x.shape], x.dtype)
  y = jax.eval_shape(layer, some)
  shape = [size if given else 0 for given, size in zip(x.shape, y.shape)]
  return jnp.zeros(shape, y.dtype)
