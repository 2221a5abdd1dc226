"""The derivative of the scores of a part, with keys down the sublanes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.flash.mosaic_tpu import unseen


class Found(NamedTuple):
  """The derivative of a part: tiles with keys down the sublanes.

  Attributes:
    kept: the softmax's weights after dropout.
    slope: cotangent of the products of queries and keys.
    pulled: {operand: its cotangent}.
  """

  kept: Any
  slope: Any
  pulled: dict


class Arrays(NamedTuple):
  """Queries, keys, values and cotangents: of a grid step, or the rows of a part."""

  q: Any
  k: Any
  v: Any
  g: Any

  def of(self, part) -> "Arrays":
    """Returns the rows of a part."""
    rows, columns = part.rows, part.columns
    q, k, v, g = self
    return Arrays(q[rows, :], k[columns, :], v[columns, :], g[rows, :])

  def without(self, part, seen) -> "Arrays":
    """Zeroes the rows of a part that nobody sees; products with v are masked anyway."""
    q, g = unseen.queries(part, seen, self.q, self.g)
    (k,) = unseen.keys(part, seen, self.k)
    return Arrays(q, k, self.v, g)


def differentiate(part, counts, finite: bool, arrays: Arrays, lines) -> Found:
  """Computes the derivative of a part.

  Args:
    part: the part of the tile.
    counts: mask of the scores that count, or None if all do.
    finite: whether a weight of 0 gives a slope of 0 where there is no program.
    arrays: rows of the part.
    lines: top, 1 / total and delta of the tile's queries.
  """
  plan = part.plan
  queries = part.rows
  raw = plan.product(arrays.k, arrays.q, 1, 1)
  change = plan.product(arrays.v, arrays.g, 1, 1)
  ragged = plan.T != plan.queries or plan.S != plan.keys
  if ragged and (plan.score or plan.keep):
    inside = (part.queries() < plan.T) & (part.keys() < plan.S)
    counts = inside if counts is None else counts & inside

  def only(tile):
    return tile if counts is None else jnp.where(counts, tile, 0.0)

  top, share, delta = (line[:, queries] for line in lines)
  pull = pull_keep = None
  if plan.score is None:
    score = part.score(raw)
  else:
    score, pull = _linear(part, plan.score, raw * plan.scale)
  if counts is not None:
    score = jnp.where(counts, score, -jnp.inf)
  weight = plan.power(jnp.minimum(score - top, 0.0)) * share
  kept, seen_change = weight, change
  if plan.keep is not None:
    keep, pull_keep = _linear(part, plan.keep)
    kept, seen_change = only(weight * keep), change * keep
  slope = weight * (seen_change - delta)
  slope = slope if finite and plan.keep is None else only(slope)
  pulled = {}
  if pull is not None:
    (slope, *_), pulled = pull(slope)
    slope = only(slope)
  if pull_keep is not None:
    _, more = pull_keep(weight * change)
    pulled |= {o: pulled[o] + t if o in pulled else t for o, t in more.items()}
  tiles = {number: only(tile) for number, tile in pulled.items()}
  return Found(kept, slope, tiles)


def _linear(part, function, *first):
  """Returns a function's value and its vjp: cotangent -> (dfirst, {operand: tile})."""
  described = part.plan.operands
  smooth = [o for o in function.operands if described[o].differentiable]
  fixed = {o: part.tile(o) for o in function.operands if o not in smooth}
  tiles = [jnp.broadcast_to(part.tile(o), part.shape) for o in smooth]
  queries, keys = part.queries(), part.keys()

  def value(first, tiles):
    given = fixed | dict(zip(smooth, tiles))
    result = function(*first, queries, keys, *(given[o] for o in function.operands))
    return jnp.broadcast_to(result, part.shape)

  result, pull = jax.vjp(value, first, tiles)

  def pulled(cotangent):
    first, tiles = pull(cotangent)
    return first, dict(zip(smooth, tiles))

  return result, pulled
