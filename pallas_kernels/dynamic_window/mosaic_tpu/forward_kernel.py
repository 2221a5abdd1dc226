"""The TPU kernel of the forward pass: grid (lane blocks, tiles down, tiles across)."""

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.dynamic_window.mosaic_tpu import parts
from pallas_kernels.dynamic_window.mosaic_tpu.plan import LANES, LEAST, Plan

# Channels of a value that are summed up at the same time, in registers.
CHANNELS = 16


def forward(plan: Plan, q, keys, bias, relative, v, out, lse, weights, wide):
  """Computes a tile; `weights` holds those of a pixel, `wide` the halo in float32."""
  values = parts.widened(plan, v, wide)
  shape = plan.taps, LANES

  def pixel(place):
    query = parts.spread(q[place.row, place.column])

    def score(row, most):
      logit = parts.logits(plan, place, row, query, keys, bias, relative)
      weights[row] = logit
      return jnp.maximum(most, logit)

    most = parts.each_row(plan, score, jnp.full(shape, LEAST, jnp.float32))
    top = most.max(axis=0, keepdims=True)

    def weigh(row, total):
      weight = jnp.exp(weights[row] - top)
      weights[row] = weight
      return total + weight

    total = parts.each_row(plan, weigh, jnp.zeros(shape, jnp.float32))
    total = total.sum(axis=0, keepdims=True)
    share = 1 / total
    for begin in range(0, plan.c, CHANNELS):
      count = min(CHANNELS, plan.c - begin)

      def add(row, sums, begin=begin, count=count):
        near = parts.near(plan, place, row, values, begin, count)
        return sums + weights[row][None] * near

      sums = parts.each_row(plan, add, jnp.zeros((count, *shape), jnp.float32))
      found = (sums.sum(axis=1) * share).astype(out.dtype)
      out[place.row, place.column, begin : begin + count] = found
    lse[place.row, pl.ds(place.column, 1), :] = top + jnp.log(total)

  parts.each_pixel(plan, pixel)
