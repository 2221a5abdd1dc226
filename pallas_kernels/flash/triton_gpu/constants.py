"""Compile-time constants of the kernels."""

import dataclasses
from typing import Any

import triton


@dataclasses.dataclass(frozen=True)
class Width:
  """A head's size as one or two powers of two: 80 is 64 and 16, 128 is 128 alone.

  Only a remainder that is no power of two is padded, and only inside the kernels.
  """

  size: int
  first: int
  second: int

  @classmethod
  def of(cls, size: int) -> "Width":
    """Splits the size of a head into widths of at least 16, for tensor cores."""
    first = max(16, 1 << (size.bit_length() - 1))
    rest = size - first
    second = max(16, triton.next_power_of_2(rest)) if rest > 0 else 0
    return cls(size, first, second)

  @property
  def padded(self) -> int:
    """Returns the columns of both parts, with padding."""
    return self.first + self.second


@dataclasses.dataclass(frozen=True)
class Form:
  """Constants of a kernel, without batch or lengths, so that all of these share it.

  Attributes:
    N: heads of queries.
    K: heads of keys.
    h: width of a head of queries and keys.
    v: width of a head of values.
    scale: what q . k is multiplied by.
    score, seen, keep: the program's functions, or None.
    block_q: queries of a tile.
    block_k: keys of a tile.
    masked: size of the walked side of a tile where a mask applies.
    steps: tiles of a block of the schedule where no mask applies.
    masked_steps: tiles of a block of the schedule where a mask applies.
    masked_stages: pipeline stages where a mask applies, if they differ; or None.
    precision: of products, as Triton's `input_precision`.
    ragged: whether the walked length ends within a block.
    even: whether each row of a table (T, S) begins at a multiple of 16 elements.
    pull, start, finish: the functions of the operands' gradients, or None.
    own_b, own_n: whether tables have a gradient for each example, for each head.
    want_k, want_v: whether the keys' kernel computes dk, dv.
  """

  N: int
  K: int
  h: Width
  v: Width
  scale: float
  score: Any
  seen: Any
  keep: Any
  block_q: int
  block_k: int
  masked: int
  steps: int
  masked_steps: int
  masked_stages: int | None
  precision: str
  ragged: bool
  even: bool
  pull: Any = None
  start: Any = None
  finish: Any = None
  own_b: bool = True
  own_n: bool = True
  want_k: bool = True
  want_v: bool = True

  @property
  def folded(self) -> bool:
    """Returns whether the scale is folded into log2(e), the factor for base 2."""
    return self.score is None and self.scale > 0

  @property
  def unit(self) -> float:
    """Returns the factor from a kernel's score to an exponent of 2."""
    log2e = 1.4426950408889634
    return self.scale * log2e if self.folded else log2e
