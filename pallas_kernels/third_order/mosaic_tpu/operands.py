"""The operands of the TPU kernels: their arrays, and the blocks that a step reads."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from attnjax.core.third_order import Sight, folded
from pallas_kernels.third_order.mosaic_tpu.plan import LANES, Plan, ceil, visited


@dataclasses.dataclass(frozen=True)
class Specs:
  """The blocks that a grid step reads or writes.

  Attributes:
    plan: of the kernel.
    of_keys: whether the second grid axis is that of the first stream.
  """

  plan: Plan
  of_keys: bool = False

  def _rows(self, n, at, start):
    if not self.of_keys:
      return n
    return jnp.minimum(visited(at, self.plan.rows(n, start)), self.plan.blocks - 1)

  def _keys(self, n, at, to, start, stream: int):
    if self.of_keys and stream == 0:
      return n
    row, step = self._rows(n, at, start), (at, to)[stream]
    last = -(-self.plan.S // self.plan.sizes[stream]) - 1
    return jnp.minimum(visited(step, self.plan.keys(row, start, stream)), last)

  def rows(self, width: int):
    """Returns the spec of rows (U, R, width)."""

    def place(u, n, at, to, start):
      return u, self._rows(n, at, start[0]), 0

    return pl.BlockSpec((None, self.plan.tiles.rows, width), place)

  def line(self, heads: int = 1):
    """Returns the spec of a line (U, 1, R), or (B, 1, R) of so many heads each."""

    def place(u, n, at, to, start):
      return jax.lax.div(u, heads), 0, self._rows(n, at, start[0])

    return pl.BlockSpec((None, 1, self.plan.tiles.rows), place)

  def keys(self, width: int, stream: int, heads: int = 1):
    """Returns the spec of keys (U, S, width), or (B, S, width)."""

    def place(u, n, at, to, start):
      return jax.lax.div(u, heads), self._keys(n, at, to, start[0], stream), 0

    return pl.BlockSpec((None, self.plan.sizes[stream], width), place)

  def ids(self):
    """Returns the specs of the ids of rows, and of the keys of both streams."""
    heads = self.plan.heads
    if not self.plan.packed:
      return None, None, None

    def place(u, n, at, to, start):
      return jax.lax.div(u, heads), 0, self._keys(n, at, to, start[0], 1)

    second = pl.BlockSpec((None, 1, self.plan.tiles.second), place)
    return self.line(heads), self.keys(LANES, 0, heads), second


def start(sight: Sight, data):
  """Returns the position of the first query, int32, (1,)."""
  offset = sight.offset if data[1] is None else data[1]
  return jnp.asarray(offset, jnp.int32).reshape(1)


def arrays(plan: Plan, q, k1, k2, v1, v2):
  """Returns rows and keys, padded; those of the first stream are float32 and scaled."""
  dtype = jnp.float32 if plan.exact else jnp.bfloat16
  first = k1.astype(jnp.float32) * plan.sight.scale, v1.astype(jnp.float32)
  k1, v1 = (_end(folded(x, plan.heads), plan.tiles.first) for x in first)
  k2, v2 = (
    _end(folded(x.astype(dtype), plan.heads), plan.tiles.second) for x in (k2, v2)
  )
  return _end(folded(q.astype(dtype), plan.heads), plan.tiles.rows), k1, k2, v1, v2


def lines(plan: Plan, lines):
  """Returns g as rows, and top, share and delta as lines (U, 1, R); padding has 0."""
  g, *rest = lines
  dtype = jnp.float32 if plan.exact else jnp.bfloat16
  g = _end(folded(g.astype(dtype), plan.heads), plan.tiles.rows)
  rest = (_end(folded(x, plan.heads)[..., None], plan.tiles.rows, 1) for x in rest)
  return g, *(x.swapaxes(1, 2).astype(jnp.float32) for x in rest)


def ids(plan: Plan, data):
  """Returns the ids of rows (B, 1, R), and of keys (B, S, 128) and (B, 1, S)."""
  if data[0] is None:
    return None, None, None
  own, others = data[0]
  own = jnp.repeat(own, plan.group, axis=1)[..., None]
  own = _end(own, plan.tiles.rows, 1, -1).swapaxes(1, 2)
  first = _end(others[..., None], plan.tiles.first, 1, -1)
  second = _end(others[..., None], plan.tiles.second, 1, -1).swapaxes(1, 2)
  return own, jnp.broadcast_to(first, (*first.shape[:2], LANES)), second


def _end(x, size: int, width: int = LANES, fill=0):
  """Pads the last axes (S, H) at their ends to multiples of `size` and `width`."""
  rows, columns = (ceil(n, unit) - n for n, unit in zip(x.shape[1:], (size, width)))
  return jnp.pad(x, ((0, 0), (0, rows), (0, columns)), constant_values=fill)
