"""The normaliser of prefix softmax: running maxima and sums of exponentials."""

import math

import jax
import jax.numpy as jnp

from attnjax.core import devices
from attnjax.core.recurrence.chunking import split


def normaliser(scores, initial, first):
  """Computes (top, total) (B, T, N) by an associative scan."""
  new = jnp.zeros_like(scores, bool)
  if first is not None:
    start = first == jnp.arange(first.shape[1])
    new = jnp.broadcast_to(start[..., None], scores.shape)

  def join(left, right):
    (old, begun), (own, new) = left, right
    joined = (jnp.where(new, x, y) for x, y in zip(own, _joined(old, own)))
    return tuple(joined), begun | new

  start = _joined(initial, _each(scores[:, 0]))
  each = (x.at[:, 0].set(y) for x, y in zip(_each(scores), start))
  return jax.lax.associative_scan(join, (tuple(each), new), axis=1)[0]


def normaliser_in_two(scores, initial, first):
  """Computes (top, total) by two loops of sqrt(T) steps, in chunks and over chunks."""
  B, T, N = scores.shape
  size = math.isqrt(T - 1) + 1
  number = -(-T // size)

  def chunks(x, *fill, **more):
    """Splits (B, T, *N) into (token, chunk, B, *N)."""
    return jnp.moveaxis(split(x, number, size, *fill, **more), 2, 0)

  begin = (jnp.arange(number) * size)[:, None, None]  # chunk, B, N
  if first is None:
    since = jnp.full((size, number, 1, 1), -1)
  else:
    since = chunks(first, mode="edge")[..., None]

  def inside(carry, part):
    own, new = part
    joined = (jnp.where(new, x, y) for x, y in zip(own, _joined(carry, own)))
    return (tuple(joined),) * 2

  new = since == begin[None] + jnp.arange(size)[:, None, None, None]
  each = _each(chunks(scores, -jnp.inf))
  nothing = _each(jnp.full((number, B, N), -jnp.inf, scores.dtype))
  nothing, initial = devices.vary_like((nothing, initial), scores, first)
  _, rows = jax.lax.scan(inside, nothing, (each, new))
  seen = since < begin[None]

  def over(carry, part):
    own, seen = part
    joined = (jnp.where(seen, y, x) for x, y in zip(own, _joined(carry, own)))
    return tuple(joined), carry

  _, before = jax.lax.scan(over, initial, (tuple(x[-1] for x in rows), seen[-1]))
  joined = _joined([x[None] for x in before], rows)
  rows = (jnp.where(seen, y, x) for x, y in zip(rows, joined))
  whole = (jnp.moveaxis(x, 2, 0).swapaxes(1, 2) for x in rows)
  return tuple(x.reshape(B, number * size, N)[:, :T] for x in whole)


def _each(scores):
  """Returns (top, total) of each token alone."""
  return scores, (scores > -jnp.inf).astype(scores.dtype)


def _joined(first, second):
  """Combines (top, total) of two spans of tokens."""
  (a, b), (c, d) = first, second
  top = jnp.maximum(a, c)
  shift = jnp.where(top > -jnp.inf, top, 0)
  return top, jnp.exp(a - shift) * b + jnp.exp(c - shift) * d
