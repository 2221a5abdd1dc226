"""The gradient by a chunk's decays, from intermediates of the backward kernel."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.decayed_linear.mosaic_tpu.plan import Plan, added
from pallas_kernels.flash.mosaic_tpu.operands import LANES


class Slope:
  """The accumulator of the gradients by a chunk's decays, for each part of the chunk.

  A decay's gradient is the sum of all terms that pass its token: written before it,
  read at it or after it. No term is added and subtracted again: the rounding of the
  largest, of whichever document, would be left in every token's gradient.

  Attributes:
    within: lines (1, inner) of the terms that are written and read in the part.
    ahead: lines of the terms that each token reads from before the part.
    kept: lines of the terms that each token writes and tokens after the part read.
    past: sums (1, 1) of the terms that pass the whole part.
  """

  def __init__(self, plan: Plan):
    self.plan = plan
    number = range(len(plan.parts()))
    self.within: list = [None for _ in number]
    self.ahead: list = [None for _ in number]
    self.kept: list = [None for _ in number]
    self.past: list = [jnp.zeros((1, 1), jnp.float32) for _ in number]

  def add_inside(self, keys: slice, rows: slice, products: jax.Array) -> None:
    """Adds the products of scores and their gradients, keys down the sublanes."""
    i, j = rows.start // self.plan.inner, keys.start // self.plan.inner
    products = self.plan.scaled(products)
    if i == j:
      self.within[i] = self._passing(products)
      return
    line = products.sum(axis=0, keepdims=True)
    self.ahead[i] = added(self.ahead[i], line)
    self.kept[j] = added(self.kept[j], _line(_fold(products)))
    for between in range(j + 1, i):
      self.past[between] += line.sum(axis=1, keepdims=True)

  def add_outside(self, query, dq, key, dk, before, kept) -> None:
    """Adds the terms with the states before and after the chunk."""
    reads, writes = _fold(query * dq), _fold(key * dk)
    through = _total(_fold(before * kept))
    for j, rows in enumerate(self.plan.parts()):
      self.ahead[j] = added(self.ahead[j], _line(reads[rows]))
      self.kept[j] = added(self.kept[j], _line(writes[rows]))
      self.past[j] += through
      if rows.stop < self.plan.chunk:
        self.past[j] += _total(reads[rows.stop :])
      if rows.start:
        self.past[j] += _total(writes[: rows.start])

  def lines(self) -> jax.Array:
    """Returns (within + past, ahead, kept), (3, chunk), which `passing` adds up."""
    within = [line + past for line, past in zip(self.within, self.past)]
    rows = within, self.ahead, self.kept
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows], axis=0)

  def _passing(self, products):
    """Returns a line: each token's sum over earlier keys and queries from it on."""
    key, token = (
      jax.lax.broadcasted_iota(jnp.int32, products.shape, a) for a in (0, 1)
    )
    if self.plan.exact:
      sums = self.plan.product(products, (key >= token).astype(jnp.float32), 1, 0)
    else:
      # Two bfloat16 terms of 8 bits each: the scores themselves have 8.
      ones = (key >= token).astype(jnp.bfloat16)
      high = products.astype(jnp.bfloat16)
      low = (products - high.astype(jnp.float32)).astype(jnp.bfloat16)
      sums = self.plan.product(high, ones, 1, 0) + self.plan.product(low, ones, 1, 0)
    return jnp.where(key < token, sums, 0.0).sum(axis=0, keepdims=True)


def passing(lines: jax.Array, inner: int) -> jax.Array:
  """Returns the gradients by decays (B, N, tokens), from `Slope.lines` of all chunks.

  Args:
    lines: (B, N, 3, tokens).
    inner: tokens of a part.
  """
  B, N, _, tokens = lines.shape
  parts = lines.reshape(B, N, 3, tokens // inner, inner)
  within, ahead, kept = (parts[:, :, i] for i in range(3))
  ahead = jnp.flip(jnp.flip(ahead, -1).cumsum(axis=-1), -1)
  kept = jnp.pad(kept[..., :-1], ((0, 0),) * 3 + ((1, 0),)).cumsum(axis=-1)
  return (within + ahead + kept).reshape(B, N, tokens)


def _line(columns: jax.Array) -> jax.Array:
  """Returns the sums over lanes of (n, 128), as a line (1, n)."""
  return columns.T.sum(axis=0, keepdims=True)


def _total(x: jax.Array) -> jax.Array:
  return x.sum(axis=0, keepdims=True).sum(axis=1, keepdims=True)


def _fold(x: jax.Array) -> jax.Array:
  """Returns (rows, 128) with the row sums of x (rows, n)."""
  if x.shape[1] % LANES:
    lane = jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], LANES), 1)
    return jnp.where(lane == 0, x.sum(axis=1, keepdims=True), 0.0)
  columns = [x[:, lane : lane + LANES] for lane in range(0, x.shape[1], LANES)]
  return functools.reduce(jnp.add, columns)
