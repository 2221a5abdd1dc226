"""What a kernel is compiled for: all that is known before it runs."""

import dataclasses
from typing import Any

import triton


@dataclasses.dataclass(frozen=True)
class Width:
  """A head's size as one or two powers of two: 80 is 64 and 16, 128 is itself.

  Only the rest that is no power of two is padded, and only inside the kernels.
  """

  size: int
  first: int
  second: int

  @classmethod
  def of(cls, size: int) -> "Width":
    """The widths of a head; tensor cores want at least 16."""
    first = max(16, 1 << (size.bit_length() - 1))
    rest = size - first
    second = max(16, triton.next_power_of_2(rest)) if rest > 0 else 0
    return cls(size, first, second)

  @property
  def padded(self) -> int:
    """The columns of both parts."""
    return self.first + self.second


@dataclasses.dataclass(frozen=True)
class Form:
  """Constants of a kernel: none of the batch or of a length, so that all share one.

  Attributes:
    N: heads of queries.
    K: heads of keys.
    h: of a head of queries and keys.
    v: of a head of values.
    scale: of q . k.
    score, seen, keep: the program's functions, or None.
    block_q: queries of a tile.
    block_k: keys of a tile.
    masked: the length of the walked side where a mask applies.
    steps: tiles to a block of the schedule, without a mask.
    masked_steps: and with one.
    masked_stages: tiles in flight there, if not as many as elsewhere; or None.
    precision: of products of float32.
    ragged: whether the last block of what is walked goes beyond its end.
    even: whether a row of a table (T, S) begins at a multiple of 16 numbers.
    pull, start, finish: the functions of the operands' gradients, or None.
    own_b, own_n: whether tables have their own gradient for each example and head.
    want_k, want_v: which gradients the keys' kernel makes.
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
    """Whether the scale is one with the base's logarithm."""
    return self.score is None and self.scale > 0

  @property
  def unit(self) -> float:
    """What a score is multiplied by to be an exponent of 2."""
    log2e = 1.4426950408889634
    return self.scale * log2e if self.folded else log2e
