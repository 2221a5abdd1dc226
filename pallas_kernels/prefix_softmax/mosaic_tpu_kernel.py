"""The TPU kernels: grid (B, N, block of tokens), chunks of 128 tokens in a block.

The difference of a score and the greatest is exact; only it is multiplied by log2(e),
so that the exponential is 2^x. The state passes from chunk to chunk, in the backward
kernel from the last to the first; the products of a chunk do not wait for the state.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

SIZE = 128  # of a chunk
LOG2E = math.log2(math.e)


def forward(packed, s, top, share, before, sums, first, v, start, out, last, state):
  """Computes one block; if `packed`, rows see only their own document."""
  i = pl.program_id(2)

  @pl.when(i == 0)
  def _():
    state[...] = start[...]

  kept = state[...]
  for chunk in range(v.shape[0] // SIZE):
    part = pl.ds(chunk * SIZE, SIZE)
    begin = i * v.shape[0] + chunk * SIZE
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (SIZE, SIZE), d) for d in (0, 1))
    seen, goes_on = column <= row, None
    greatest, part_of = _spread(top[:, part]), _spread(share[:, part])
    if packed:
      since = _spread(first[:, part])
      seen &= since <= column + begin
      goes_on = since < begin
    weight = jnp.where(seen, _power(s[:, part] - greatest), 0.0)
    keep = _keep(before[:, part], sums[:, part], greatest, goes_on)
    rows = _product(weight, v[part, :]) + _across(keep, v.shape[1]) * kept
    rows *= _across(part_of, v.shape[1])
    out[part, :] = rows.astype(out.dtype)
    kept = rows[SIZE - 1 :]
  state[...] = kept

  @pl.when(i == pl.num_programs(2) - 1)
  def _():
    last[...] = kept


def backward(
  packed,
  s,
  top,
  share,
  before,
  sums,
  first,
  v,
  g,
  delta,
  a0,
  b0,
  ds,
  dv,
  a,
  b,
  state,
  total,
):
  """Computes one block; the last grid axis goes from the last block to the first."""
  i = pl.program_id(2)
  block = pl.num_programs(2) - 1 - i

  @pl.when(i == 0)
  def _():
    state[...] = a0[...]
    total[...] = b0[...]

  width = v.shape[1]
  own, sum_ = state[...], total[...]
  for chunk in reversed(range(v.shape[0] // SIZE)):
    part = pl.ds(chunk * SIZE, SIZE)
    begin = block * v.shape[0] + chunk * SIZE
    column, row = (jax.lax.broadcasted_iota(jnp.int32, (SIZE, SIZE), d) for d in (0, 1))
    seen, reaches, reaches_line, goes_on = column <= row, None, None, None
    line, part_of, slope = top[:, part], share[:, part], delta[:, part]
    end, part_of_end = line[:, SIZE - 1 :], part_of[:, SIZE - 1 :]
    if packed:
      since = first[:, part]
      seen &= since <= column + begin
      reaches = since[:, SIZE - 1 :] <= column + begin
      reaches_line = since[:, SIZE - 1 :] <= row[:1] + begin
      goes_on = since < begin
    power = _spread(s[:, part])
    # (column, row)
    weight = jnp.where(seen, _power(power - line), 0.0) * part_of
    tail = _where(reaches, _power(power - end)) * part_of_end
    into = _keep(before[:, part], sums[:, part], line, goes_on) * part_of
    grad, value = g[part, :], v[part, :]
    # The state's share takes a few more rows of this product.
    more = jnp.broadcast_to(into, (16, SIZE))
    product = _product(jnp.concatenate([weight, more]), grad)
    dvalue = product[:SIZE] + _across(tail, width) * own
    dv[part, :] = dvalue.astype(dv.dtype)
    terms = value.astype(jnp.float32) * dvalue
    terms = sum(terms[:, k : k + SIZE] for k in range(0, width, SIZE)) - weight * slope
    tail_line = _where(reaches_line, _power(s[:, part] - end)) * part_of_end
    ds[:, part] = terms.T.sum(axis=0, keepdims=True) - tail_line * sum_
    through = into[:, SIZE - 1 :]
    own = product[SIZE : SIZE + 1] + through * own
    sum_ = (into * slope).sum(axis=1, keepdims=True) + through * sum_
  state[...] = own
  total[...] = sum_

  @pl.when(i == pl.num_programs(2) - 1)
  def _():
    a[...] = own
    b[...] = sum_


def _power(distance):
  return jnp.exp2(LOG2E * distance)


def _keep(before, sums, top, goes_on):
  """Returns each row's weight of the state before the chunk, times the row's total."""
  # Where a row sees no state from before, `before` is no lower bound of top.
  power = _power(jnp.minimum(before[:, :1] - top, 0.0))
  return _where(goes_on, power * sums[:, :1])


def _where(condition, x):
  return x if condition is None else jnp.where(condition, x, 0.0)


def _product(weight, x):
  exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
  return jax.lax.dot(
    weight.astype(x.dtype), x, precision=exact, preferred_element_type=jnp.float32
  )


def _spread(line):
  """Returns a line (1, n) down the sublanes, broadcast to all lanes: (n, 128)."""
  return jnp.broadcast_to(line, (SIZE, line.shape[1])).T


def _across(columns, width: int):
  """Returns columns (n, 128), equal in all lanes, as (n, width)."""
  return columns if width == SIZE else jnp.tile(columns, (1, width // SIZE))
