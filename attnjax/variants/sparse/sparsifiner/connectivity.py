"""The predictor's mathematics: low-rank attention weights and the keys they choose."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax.core import resample, select
from attnjax.core.dtypes import accumulator_dtype


def reduced(
  k: Float[Array, "B S N h"], down: Float[Array, "S m"]
) -> Float[Array, "B m N h"]:
  """Computes the keys of m reduced tokens, sums of all tokens' keys."""
  return jnp.einsum("bsnh,sm->bmnh", k.astype(accumulator_dtype(k)), down)


def coefficients(
  q: Float[Array, "B T N h"], k: Float[Array, "B m N h"]
) -> Float[Array, "B N T m"]:
  """Computes the weights of each query on m reduced tokens; rows sum to 1.

  The scores are scaled by the number of heads to the power -1/2, not by the head size,
  as in the authors' code.
  """
  dtype = accumulator_dtype(q)
  score = jnp.einsum("btnh,bmnh->bntm", q.astype(dtype), k.astype(dtype))
  return jax.nn.softmax(score * q.shape[2] ** -0.5, axis=-1)


def sparse_coefficients(
  weight: Float[Array, "B N T m"], count: int
) -> Float[Array, "B N T m"]:
  """Returns the weights with all but the `count` greatest of each row set to 0."""
  return jnp.where(select.kept(weight, jnp.ones_like(weight, bool), count), weight, 0)


def sparse_basis(up: Float[Array, "m S"], threshold: float) -> Float[Array, "m S"]:
  """Returns |up| where it is above the threshold, 0 elsewhere."""
  return jnp.where(abs(up) > threshold, abs(up), 0)


def chosen(
  approximate: Float[Array, "B N R S"],
  rows: int,
  rate: float,
  valid: Bool[Array, "B S"] | None = None,
  *,
  whole: bool = False,
) -> Bool[Array, "B N T S"]:
  """Returns the keys of the ceil(rate S) greatest weights; of equal ones the first.

  Args:
    approximate: predicted weights of the last R of T = rows + R queries.
    rows: number of first queries that keep all keys.
    rate: the share of keys that is kept.
    valid: True at the tokens that may be kept.
    whole: whether the first queries keep also what is not valid.
  """
  S = approximate.shape[-1]
  real = jnp.ones((1, S), bool) if valid is None else valid
  real = real[:, None, None]
  kept = select.kept(approximate, real, count(rate, S))
  first = jnp.broadcast_to(real | whole, (*kept.shape[:2], rows, S))
  return jnp.concatenate([first, kept], axis=2)


def count(rate: float, S: int) -> int:
  """Returns ceil(rate S), at least 1, robust to the rounding of the product."""
  return min(S, max(1, math.ceil(rate * S - 1e-9)))


def dense_weights(
  q: Float[Array, "B T N H"], k: Float[Array, "B S N H"]
) -> Float[Array, "B N T S"]:
  """Computes softmax attention weights in at least float32, the predictor's target."""
  score = jnp.einsum(
    "btnh,bsnh->bnts", q, k, preferred_element_type=accumulator_dtype(q)
  )
  return jax.nn.softmax(q.shape[-1] ** -0.5 * score, axis=-1)


def reconstruction(
  approximate: Float[Array, "B N R S"], weights: Float[Array, "B N R S"]
) -> Float[Array, ""]:
  """Returns the sum of squared differences from the weights to be predicted."""
  return jnp.square(approximate - weights).sum()


def resized(
  table: Float[Array, "S m"], old: tuple[int, ...], new: tuple[int, ...], first: int
) -> Float[Array, "T m"]:
  """Resamples a table of a grid's tokens to another grid by linear interpolation.

  Sums over the tokens stay about equal.

  Args:
    table: of S = first + prod(old) tokens.
    old: sides of the table's grid.
    new: sides of the wanted grid.
    first: tokens before the grid, which stay as they are.
  """
  if len(old) != len(new):  # a sequence does not tell its grid
    old = (math.prod(old),)
  if old == new:
    return table
  x = table[first:].reshape(*old, -1) * (math.prod(old) / math.prod(new))
  for axis, (points, size) in enumerate(zip(old, new)):
    matrix = resample.linear(size, points)[0].astype(x.dtype)
    x = jnp.moveaxis(jnp.tensordot(matrix, x, (1, axis)), 0, axis)
  return jnp.concatenate([table[:first], x.reshape(-1, table.shape[1])])


@jax.custom_vjp
def also_minimise(y: Any, loss: Float[Array, ""]) -> Any:
  """Returns `y`, and adds the gradient of `loss` in the backward pass.

  So a layer has its own loss, whatever the model is trained on. Without a gradient the
  loss is not computed. Not for `jax.jvp`: this is not the derivative of y.
  """
  del loss
  return y


def _forward(y, loss):
  return y, jnp.ones_like(loss)


def _backward(one, dy):
  return dy, one


also_minimise.defvjp(_forward, _backward)
