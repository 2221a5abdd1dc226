"""Interventions on sinks: the norm of an MLP's result, its absence, an added direction.

Each is an `attnjax.contract.trace.Edits`, for `model.trace(tokens, edit=...)`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax.contract.trace import Edits


def rescale(
  y: Float[Array, "*B T D"],
  reference: Float[Array | np.ndarray, "D"],
  *,
  norm: Any = 100.0,
  threshold: float = 0.98,
  first: int = 3,
) -> Float[Array, "*B T D"]:
  """Rescales the rows of y that point along a direction to a fixed norm.

    y[j] <- norm y[j] / |y[j]|    where cos(y[j], reference) > threshold and j >= first

  The cosine is signed here, other than in the detection.

  Args:
    y: results of an MLP.
    reference: that of the primary sink.
    norm: a number, or a scalar array.
    threshold: of the cosine.
    first: the positions before it stay as they are.
  """
  length = jnp.linalg.norm(y, axis=-1, keepdims=True)
  safe = jnp.where(length == 0, 1, length)
  own = reference / jnp.linalg.norm(reference)
  cosine = (y * own).sum(axis=-1, keepdims=True) / safe
  late = (jnp.arange(y.shape[-2]) >= first)[:, None]
  return jnp.where((cosine > threshold) & late, y * (norm / safe), y)


def rescale_mlp(
  layer: int,
  norm: Any,
  reference: Float[Array | np.ndarray, "D"],
  *,
  threshold: float = 0.98,
  first: int = 3,
) -> Edits:
  """Returns the intervention that applies `rescale` to the MLP of a layer."""
  how = {"norm": norm, "threshold": threshold, "first": first}

  def feed(index, y):
    return rescale(y, reference, **how) if index == layer else y

  return Edits(feed=feed)


def ablate_mlp(layer: int, token: Any) -> Edits:
  """Returns the intervention that zeroes the result of a layer's MLP at tokens.

  Args:
    layer: its number.
    token: a position, or booleans (B, T).
  """

  def feed(index, y):
    return jnp.where(_at(token, y), 0, y) if index == layer else y

  return Edits(feed=feed)


def inject_direction(
  layer: int, token: Any, beta: Any = 1.0, *, primary: int = 0, direction: Any = None
) -> Edits:
  """Returns the intervention that adds the primary sink's stream to tokens.

    h[j] <- h[j] + beta |h[b]| direction    after the layer; direction h[b] / |h[b]|

  Args:
    layer: its number.
    token: a position, or booleans (B, T).
    beta: a number, or a scalar array.
    primary: the position b.
    direction: (D,), a unit vector in place of the primary sink's own.
  """

  def hidden(index, h):
    if index != layer:
      return h
    added = h[:, primary][:, None]
    if direction is not None:
      added = jnp.linalg.norm(added, axis=-1, keepdims=True) * direction
    return h + jnp.where(_at(token, h), beta * added, 0)

  return Edits(hidden=hidden)


def _at(token, y):
  """Returns where the tokens are, (B|1, T, 1)."""
  if jnp.ndim(token) == 0:
    return (jnp.arange(y.shape[1]) == token)[None, :, None]
  return jnp.asarray(token)[..., None]
