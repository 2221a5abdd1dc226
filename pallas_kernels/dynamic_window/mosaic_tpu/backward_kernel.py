"""The TPU kernel of the backward pass: grid (lane blocks, tiles down, tiles across).

The gradients of keys, bias and distances stay in fast memory for all tiles of a lane
block, that of the values for a tile; tiles and pixels follow each other.
"""

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.dynamic_window.mosaic_tpu import parts
from pallas_kernels.dynamic_window.mosaic_tpu.plan import LANES, Plan


def backward(plan: Plan, q, keys, bias, relative, v, g, lse, delta, *rest):
  """Computes the gradients of a tile, and adds to those that tiles share."""
  dq, dkeys, dbias, drelative, dv, slopes, wide = rest
  values = parts.widened(plan, v, wide)
  shared = dkeys, dbias, drelative

  @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
  def _():
    for ref in shared:
      ref[...] = jnp.zeros(ref.shape, ref.dtype)

  @pl.loop(0, plan.rows.halo)
  def _(row):
    dv[row] = jnp.zeros(dv.shape[1:], dv.dtype)

  def pixel(place):
    query, slope = (parts.spread(x[place.row, place.column]) for x in (q, g))
    column = pl.ds(place.column, 1)
    log, less = lse[place.row, column, :], delta[place.row, column, :]
    at = pl.ds(place.left, plan.taps)

    def change(row, _):
      logit = parts.logits(plan, place, row, query, keys, bias, relative)
      weight = jnp.exp(logit - log)
      near = parts.near(plan, place, row, values)
      slopes[row] = weight * ((slope * near).sum(axis=0) - less)
      dv[place.top + row, :, at, :] += weight[None] * slope

    # In two loops: the registers do not hold what is added to by both.
    parts.each_row(plan, change, None)

    def add(row, by_query):
      by_logit = slopes[row]
      dbias[row] += by_logit
      drelative[place.down + row, pl.ds(place.right, plan.taps), :] += by_logit
      dkeys[row] += query * by_logit[None]
      return by_query + by_logit[None] * keys[row]

    zeros = jnp.zeros((plan.d, plan.taps, LANES), jnp.float32)
    by_query = parts.each_row(plan, add, zeros)
    dq[place.row, place.column] = by_query.sum(axis=1).astype(dq.dtype)

  parts.each_pixel(plan, pixel)
