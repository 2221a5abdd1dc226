"""The TPU kernels' common parts: layout of heads, products, and a chunk's decays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels import calling
from pallas_kernels.flash.mosaic_tpu.operands import across, spread


@dataclasses.dataclass(frozen=True)
class Plan:
  """The compile-time constants of a kernel.

  Attributes:
    chunk, heads, inner: of the kernel's Tile.
    chunks: of the sequence.
    group: query heads that read the same key head.
    H, E: sizes of a head of keys and of values.
    scale: multiplies the output.
    exact: whether products of float32 are computed in float32, not in bfloat16.
  """

  chunk: int
  heads: int
  inner: int
  chunks: int
  group: int
  H: int
  E: int
  scale: float
  exact: bool

  @property
  def key_heads(self) -> int:
    """Returns the number of key heads of a grid step."""
    return max(1, self.heads // self.group)

  def key_head(self, h: int) -> int:
    """Returns which of the step's key heads query head h of the step reads."""
    return h * self.key_heads // self.heads

  def spec(self, heads: int, size: int, where) -> pl.BlockSpec:
    """Returns a spec of chunks of heads of a packed array.

    Args:
      heads: of a grid step.
      size: of a head.
      where: (*grid) to (batch entry, group of heads, chunk).
    """
    block = None, heads, self.chunk, size
    return pl.BlockSpec(block, lambda *grid: (*where(*grid), 0))

  def product(self, a, b, left: int, right: int) -> jax.Array:
    """Returns the float32 product, summed over axis `left` of a and `right` of b."""
    return jax.lax.dot_general(
      a,
      b,
      (((left,), (right,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST if self.exact else None,
      preferred_element_type=jnp.float32,
    )

  def cost(self, heads: int, inside: float, outside: int, arrays) -> pl.CostEstimate:
    """Returns a kernel's cost, for XLA's scheduler and for profiles.

    Args:
      heads: batch entries times query heads.
      inside: pairs of products of queries with keys and scores with values.
      outside: products with a state.
      arrays: the arrays that are read or written, or their shapes.
    """
    tokens = heads * self.chunks * self.chunk
    seen = (self.chunk + self.inner) / 2
    products = inside * seen * (self.H + self.E) + outside * self.H * self.E
    return calling.cost(2 * tokens * products, tokens * seen * inside, arrays)

  def scaled(self, x: jax.Array) -> jax.Array:
    """Returns x times the scale."""
    return x if self.scale == 1 else x * self.scale

  def parts(self):
    """Returns slices of the chunk, `inner` tokens each."""
    return [slice(i, i + self.inner) for i in range(0, self.chunk, self.inner)]


@dataclasses.dataclass(frozen=True)
class Decays:
  """A head's decays in a chunk; an array is None if there are no decays or documents.

  Attributes:
    plan: of the kernel.
    line: the high and the low part, (1, chunk) each, of sums of log2 decays from the
      chunk's start.
    column: the sums of `line` down the sublanes, (chunk, 128) each.
    documents: (1, chunk) int32.
    places: the documents down the sublanes, (chunk, 128).
    before: the document of the state before the chunk.
    last: the document of the chunk's last token.
  """

  plan: Plan
  line: Any
  column: Any
  documents: Any
  places: Any
  before: Any
  last: Any

  def inside(self, keys: slice, queries: slice, keys_down: bool) -> jax.Array | None:
    """Returns the tile of D for these keys and queries, or None if it is all 1.

    Args:
      keys: of the chunk.
      queries: of the chunk, none before the first of the keys.
      keys_down: whether the rows are keys.
    """
    rows, columns = (keys, queries) if keys_down else (queries, keys)
    size = rows.stop - rows.start, columns.stop - columns.start
    seen = None
    if queries.start < keys.stop:  # the diagonal
      down, along = (jax.lax.broadcasted_iota(jnp.int32, size, a) for a in (0, 1))
      first = rows.start - columns.start
      seen = along >= down + first if keys_down else down + first >= along
    if self.documents is not None:
      same = across(self.places[rows], size[1]) == self.documents[:, columns]
      seen = same if seen is None else seen & same
    if self.line is None:
      return None if seen is None else jnp.where(seen, 1.0, 0.0)
    exponent = None
    for down, along in zip(self.column, self.line):
      down, along = across(down[rows], size[1]), along[:, columns]
      part = along - down if keys_down else down - along
      # The difference of the high parts is exact.
      exponent = part if exponent is None else exponent + part
    return jnp.exp2(exponent if seen is None else jnp.where(seen, exponent, -jnp.inf))

  def reading(self) -> jax.Array | None:
    """Returns each token's weight of the state before the chunk: (chunk, 128)."""
    return self._power(None if self.line is None else sum(self.column), self.before)

  def writing(self) -> jax.Array | None:
    """Returns each token's weight in the state after the chunk: (chunk, 128)."""
    if self.line is None:
      return self._power(None, self.last)
    parts = (line[:, -1:] - column for line, column in zip(self.line, self.column))
    return self._power(sum(parts), self.last)

  def keeping(self) -> jax.Array | None:
    """Returns the decay of the state over the whole chunk: (1, 1)."""
    power = None
    if self.line is not None:
      power = jnp.exp2(sum(line[:, -1:] for line in self.line))
    if self.documents is None:
      return power
    power = jnp.ones((1, 1), jnp.float32) if power is None else power
    return jnp.where(self.before == self.last, power, 0.0)

  def _power(self, exponent, document):
    if self.documents is None:
      return None if exponent is None else jnp.exp2(exponent)
    same = self.places == document
    if exponent is None:
      return jnp.where(same, 1.0, 0.0)
    return jnp.exp2(jnp.where(same, exponent, -jnp.inf))


def added(total: jax.Array | None, x: jax.Array) -> jax.Array:
  """Returns total + x, or x if total is None."""
  return x if total is None else total + x


def times(x: jax.Array, column: jax.Array | None) -> jax.Array:
  """Returns x (rows, n), each row times its entry of the column (rows, 128)."""
  return x if column is None else x * across(column, x.shape[1])


def decays(plan: Plan, h: int, b, i, sums, documents, places, ends) -> Decays:
  """Returns the decays of head h of a grid step.

  Args:
    plan: of the kernel.
    h: the head in the step.
    b: batch entry.
    i: chunk.
    sums: (heads or 1, 2, chunk) in fast memory, or None.
    documents: (1, chunk) int32 in fast memory, or None.
    places: the documents down the sublanes, (chunk, 128), computed once a step.
    ends: in scalar memory, for each batch entry: the documents before each chunk, and
      that of the last token.
  """
  line = column = None
  if sums is not None:
    own = sums[h if sums.shape[0] > 1 else 0]
    line = own[:1], own[1:]
    column = tuple(spread(part) for part in line)
  if documents is None:
    return Decays(plan, line, column, None, None, None, None)
  at = b * (plan.chunks + 1) + i
  return Decays(plan, line, column, documents[...], places, ends[at], ends[at + 1])
