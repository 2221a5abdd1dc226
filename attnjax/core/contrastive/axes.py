"""InfoNCE inside `jax.shard_map`: rows of both sides are divided over mesh axes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core import devices
from attnjax.core.contrastive.gradients import Passes

# Bytes of the other side's rows that a device gathers at once. More go round in a ring.
GATHERED = 256 << 20


@dataclasses.dataclass(frozen=True)
class Axes:
  """The mesh axes over which rows are divided; none where all are here.

  Attributes:
    names: of the axes, the slowest first.
  """

  names: tuple[str, ...] = ()

  @classmethod
  def of(cls, axis: str | Sequence[str] | None) -> "Axes":
    """Returns the axes of an argument of a public function."""
    return cls(() if axis is None else (axis,) if isinstance(axis, str) else (*axis,))

  @property
  def size(self) -> int:
    """Returns the number of parts that rows are divided into."""
    return jax.lax.axis_size(self.names) if self.names else 1

  def first(self, count: int):
    """Returns the number of this device's first row, where each device has `count`."""
    return count * jax.lax.axis_index(self.names) if self.names else 0

  def sum(self, x):
    """Returns the sum of all devices' arrays."""
    return jax.lax.psum(x, self.names) if self.names else x

  def gathered(self, tree: Any) -> Any:
    """Returns the rows of all devices."""
    if not self.names:
      return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, self.names, tiled=True), tree)

  def spread(self, passes: Passes) -> Passes:
    """Returns the passes of this device's rows against all devices' columns."""
    if not self.names:
      return passes

    def turned(mask):
      mask = jax.lax.all_to_all(mask, self.names, 1, 0, tiled=True)
      return passes.turned(mask)

    return dataclasses.replace(
      passes,
      forward=self._against_all(passes.forward, _merged),
      backward=self._against_all(passes.backward, jnp.add),
      turned=turned,
      greatest=lambda x: jax.lax.pmax(passes.greatest(x), self.names),
    )

  def _against_all(self, function: Callable, merge: Callable) -> Callable:
    """Returns a pass against all devices' columns, gathered or one after another."""

    def run(x, y, scale, rows, columns, mask, *slopes, **options):
      own, others = slopes if slopes else (None, None)
      given = y, columns, others

      def one(held, mask):
        y, columns, others = held
        more = (own, others) if slopes else ()
        return function(x, y, scale, rows, columns, mask, *more, **options)

      if y.size * y.dtype.itemsize * self.size <= GATHERED:
        return one(self.gathered(given), mask)
      return self._ring(one, merge, given, mask, y.shape[0])

    return run

  def _ring(self, function, merge, held, mask, count: int):
    """Returns the results merged while blocks of columns go round."""
    n = self.size
    pairs = [(i, (i - 1) % n) for i in range(n)]

    def part(step):
      if mask is None:
        return None
      block = (jax.lax.axis_index(self.names) + step) % n
      return jax.lax.dynamic_slice_in_dim(mask, block * count, count, 1)

    def turn(carry, step):
      held, found = carry
      held = jax.tree.map(lambda x: jax.lax.ppermute(x, self.names, pairs), held)
      return (held, merge(found, function(held, part(step)))), None

    first = devices.vary((held, function(held, part(0))))
    (_, found), _ = jax.lax.scan(turn, first, jnp.arange(1, n))
    return found


def _merged(one, other):
  """Returns the (top, total, positive score) of the columns of both."""
  tops = [jnp.where(total > 0, top, -jnp.inf) for top, total, _ in (one, other)]
  top = jnp.maximum(*tops)
  top = jnp.where(top == -jnp.inf, 0, top)
  factors = [jnp.exp(t - top) for t in tops]
  return top, one[1] * factors[0] + other[1] * factors[1], one[2] + other[2]
