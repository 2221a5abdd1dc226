"""The derivative of a part's scores, with keys down the sublanes."""

import math

import jax
import jax.numpy as jnp

LOG2E = math.log2(math.e)


def differentiate(part, masked, q, k, v, g, lse, delta):
  """(keep weight, slope, {operand: its slope}) of a part, keys down the sublanes."""
  plan = part.plan
  queries, keys = part.rows, part.columns
  raw = plan.product(k[keys, :], q[queries, :], 1, 1)
  change = plan.product(v[keys, :], g[queries, :], 1, 1)
  ragged = plan.T % plan.block_q or plan.S % plan.block_k
  counts = part.seen() if masked else None
  if ragged and (plan.score or plan.keep):
    inside = (part.queries() < plan.T) & (part.keys() < plan.S)
    counts = inside if counts is None else counts & inside

  def only(tile):
    return tile if counts is None else jnp.where(counts, tile, 0.0)

  pull = pull_keep = None
  if plan.score is None:
    weight = jnp.exp2(raw * (plan.scale * LOG2E) - lse[:, queries])
  else:
    score, pull = _linear(part, plan.score, raw * plan.scale)
    weight = jnp.exp(score - lse[:, queries])
  weight = only(weight)
  kept, seen_change = weight, change
  if plan.keep is not None:
    keep, pull_keep = _linear(part, plan.keep)
    kept, seen_change = only(weight * keep), only(change * keep)
  slope = weight * (seen_change - delta[:, queries])
  pulled = {}
  if pull is not None:
    (slope, *_), pulled = pull(slope)
    slope = only(slope)
  if pull_keep is not None:
    _, more = pull_keep(weight * change)
    pulled |= {o: pulled[o] + t if o in pulled else t for o, t in more.items()}
  return kept, slope, {number: only(tile) for number, tile in pulled.items()}


def _linear(part, function, *first):
  """A function's value, and its pull: cotangent -> (of first, {operand: tile})."""
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
