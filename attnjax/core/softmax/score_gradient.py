"""A program's score with its derivatives, on a tile or on whole matrices."""

import jax
import jax.numpy as jnp

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.softmax.unseen import clean


def score_and_pull(part, raw, places, operands):
  """Returns (score, pull), the result of an Elementwise of scores and its VJP.

  pull(dscore) is (draw, the gradients of the operands by their number in the program).

  Args:
    part: the Elementwise.
    raw: scores before it, with the axes of the operands.
    places: indices of the queries and of the keys, which broadcast to raw.
    operands: the operands that `part` reads, which broadcast to raw.
  """
  floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in operands]
  floating = [x.astype(accumulator_dtype(raw)) for x, f in zip(operands, floats) if f]

  def score(raw, *floating):
    left = iter(floating)
    whole = [next(left) if f else x for x, f in zip(operands, floats)]
    return jnp.broadcast_to(part(raw, *places, *whole), raw.shape)

  # A derivative reads cleaned operands: where they are NaN or infinite, either nobody
  # sees the score, or it is -inf, without weight, or all of its row is NaN.
  value = score(raw, *floating)
  _, vjp = jax.vjp(score, raw, *map(clean, floating))

  def pull(dscore):
    draw, *parts = vjp(dscore)
    return draw, dict(zip((p for p, f in zip(part.operands, floats) if f), parts))

  # Rounded, as the greatest score is: a product that the compiler fuses with the
  # subtraction of the maximum differs by half an ulp of the score, which may be large.
  return jax.lax.optimization_barrier(value), pull
