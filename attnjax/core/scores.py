"""The modifications of a score between q . k and the softmax.

  score[t, s] = function(softcap(factor raw[t, s]) + bias[t, s], b, n, q, k)
  raw[t, s]   = scale q.k
  softcap(x)  = cap tanh(x / cap)

where a mask says that it is seen, else -inf. The function is custom; it may read arrays
that it captures, which get gradients, as the factor, the cap and the bias do. Dropout
multiplies the weights after the softmax, see `attnjax.core.dropout`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt

from attnjax.core import captured, dropout, elementwise
from attnjax.core.masks import And, Mask, scheduled

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
  """The mask and all modifications of scores. Its float arrays have gradients.

  Attributes:
    mask: which scores are seen.
    query_positions: int32, (B|1, T); None is `start` + 0, 1, 2, ...
    key_positions: int32, (B|1, S), or None.
    bias: float, (B|1, N|1, T|1, S|1), or None.
    factor: float, shaped as `bias`, multiplies q . k: a learned scale; None is 1.
    consts: the arrays that the score function captures.
    seeds: uint32, (B, N), of the dropout, or None.
    softcap: a number, or an array shaped as `bias`; 0 is none.
    rate: of the dropout.
    function: a traced score function, or None.
    start: the first position of queries and of keys, if no positions are given.
  """

  mask: Mask = dataclasses.field(default_factory=lambda: And(()))
  query_positions: Any = None
  key_positions: Any = None
  bias: Any = None
  factor: Any = None
  consts: Any = ()
  seeds: Any = None
  softcap: Any = 0.0
  rate: float = dataclasses.field(default=0.0, metadata=_STATIC)
  function: Any = dataclasses.field(default=None, metadata=_STATIC)
  start: tuple[int, int] = dataclasses.field(default=(0, 0), metadata=_STATIC)

  def positions(self, T: Any, S: Any) -> tuple[Array, Array]:
    """Returns the positions of the queries, (B|1, T), and of the keys, (B|1, S)."""
    given = (self.query_positions, self.key_positions)
    query, key = (
      jnp.arange(start, start + length, dtype=jnp.int32)[None]
      if x is None
      else jnp.asarray(x)
      for x, start, length in zip(given, self.start, (T, S))
    )
    return query, key

  def begins(self) -> tuple[Any, Any]:
    """Returns the positions for `masks.schedule`: ints where they are consecutive."""
    return (
      self.start[0] if self.query_positions is None else self.query_positions,
      self.start[1] if self.key_positions is None else self.key_positions,
    )

  @property
  def plain(self) -> bool:
    """Returns whether no score that is seen is modified."""
    changed = (self.bias, self.factor, self.function, _cap(self.softcap))
    return all(x is None for x in changed)

  def modified(self, raw, bias, consts, b, h, q, k):
    """Modifies the raw scores (b, n, t, s) of a tile; `bias` is the tile's, or None."""
    score = raw
    if self.factor is not None:
      score = score * self.factor.astype(raw.dtype)
    cap = _cap(self.softcap)
    if cap is not None:
      score = capped(score, cap if isinstance(cap, float) else cap.astype(raw.dtype))
    if bias is not None:
      score = score + bias.astype(raw.dtype)
    if self.function is not None:
      score = captured.apply(self.function, consts, score, b, h, q, k)
    return score

  def kept(self, seeds: UInt[Array, "b n"], q, k):
    """Returns the dropout's factors (b, n, t, s) at positions q (b, t) and k (b, s)."""
    return dropout.keep(
      seeds[:, :, None, None], q[:, None, :, None], k[:, None, None, :], self.rate
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Program:
  """`Scores` compiled for a kernel: three scalar functions and the arrays they read.

  Attributes:
    operands: arrays (B|1, N|1, T|1, S|1): float32, bfloat16 or float16, which have
      gradients; int32, uint32, and int8 for booleans of every element.
    score: (raw float32, t, s, *operands) to the score; None is raw itself.
    seen: (t, s, *operands) to a boolean; None is True.
    keep: (t, s, *operands) to the weight's factor; None is 1.
  """

  operands: Any = ()
  score: elementwise.Elementwise | None = dataclasses.field(
    default=None, metadata=_STATIC
  )
  seen: elementwise.Elementwise | None = dataclasses.field(
    default=None, metadata=_STATIC
  )
  keep: elementwise.Elementwise | None = dataclasses.field(
    default=None, metadata=_STATIC
  )


def _cap(softcap: Any) -> Any:
  """Returns the cap, a float or an array, or None where there is no cap."""
  if isinstance(softcap, int | float):
    return float(softcap) or None
  return softcap


def capped(score, cap):
  """Returns cap tanh(score / cap), or the score where the cap is 0."""
  if isinstance(cap, float):
    return cap * jnp.tanh(score / cap)
  some = cap != 0
  safe = jnp.where(some, cap, 1.0)
  return jnp.where(some, safe * jnp.tanh(score / safe), score)


def tested(mask: Mask, blocks) -> Mask:
  """Returns the mask without the lists that the schedules of all `blocks` express."""
  listed = [{id(part) for part in scheduled(mask, *block)[1]} for block in blocks]
  everywhere = set.intersection(*listed) if listed else set()
  return And(tuple(p for p in mask.conjuncts() if id(p) not in everywhere))


def program(
  scores: Scores, shape: tuple[int, int, int, int], blocks, dtype=jnp.float32
) -> Program:
  """Compiles `scores` to a Program.

  Terms of the score function that depend on (b), (n), (t) or (s) alone become operands,
  computed outside the kernel; so does a table read at (t, s), which costs O(T S)
  memory.

  Args:
    scores: over (B, N, T, S).
    shape: (B, N, T, S).
    blocks: (block_q, block_k) of every schedule that the kernels use.
    dtype: of scores.

  Raises:
    NotImplementedError: for a function of scores that is not elementwise.
  """
  B, N, T, S = shape
  mask = tested(scores.mask, blocks)
  operands: list[Array] = []

  def new(array) -> int:
    operands.append(_kernel_type(array, dtype))
    return len(operands) - 1

  given = (scores.query_positions, scores.key_positions)
  slots = [
    None if x is None else new(x[:, None, :, None] if axis == 0 else x[:, None, None])
    for axis, x in enumerate(given)
  ]
  own = [new(a) for a in mask.operands()]
  flags = [a.dtype == bool for a in mask.operands()]

  def places(t, s, given) -> Any:
    return [
      (x + np.int32(start) if start else x) if slot is None else given[slot]
      for x, start, slot in zip((t, s), scores.start, slots)
    ]

  def seen(t, s, *given):
    tests = [given[i] != 0 if flag else given[i] for i, flag in zip(own, flags)]
    return mask.seen(*places(t, s, given), *tests)

  bias, factor = (None if x is None else new(x) for x in (scores.bias, scores.factor))
  cap = _cap(scores.softcap)
  learned = None if cap is None or isinstance(cap, float) else new(cap)
  inner, values = captured.hoisted(
    scores.function,
    scores.consts,
    (jnp.arange(B), jnp.arange(N)),
    *scores.positions(T, S),
    dtype,
  )
  hoisted = [new(v) for v in values]

  def score(raw, t, s, *given):
    x = raw if factor is None else raw * given[factor]
    if cap is not None:
      x = capped(x, cap if learned is None else given[learned])
    if bias is not None:
      x = x + given[bias]
    if inner is not None:
      x = inner(x, *places(t, s, given), *(given[i] for i in hoisted))
    return x

  seeds = new(scores.seeds[:, :, None, None]) if scores.rate else -1

  def kept(t, s, *given):
    q, k = places(t, s, given)
    return dropout.keep(given[seeds], q, k, scores.rate)

  types = [_inside(a, dtype) for a in operands]
  at = [np.int32, np.int32]
  return Program(
    tuple(operands),
    None if scores.plain else elementwise.elementwise(score, [dtype, *at], types),
    elementwise.elementwise(seen, at, types) if mask.conjuncts() else None,
    elementwise.elementwise(kept, at, types) if scores.rate else None,
  )


def _kernel_type(array, dtype):
  """Casts an operand to a kernel's type; no float is wider than scores are."""
  if jnp.issubdtype(array.dtype, jnp.floating):
    narrow = jnp.finfo(array.dtype).bits <= jnp.finfo(dtype).bits
    return jnp.asarray(array if narrow else array.astype(dtype))
  cell = array.shape[2] > 1 and array.shape[3] > 1
  if array.dtype == bool:
    return array.astype(jnp.int8 if cell else jnp.int32)
  if jnp.issubdtype(array.dtype, jnp.signedinteger):
    return array.astype(jnp.int32)
  return jnp.asarray(array)


def _inside(array, dtype):
  return dtype if jnp.issubdtype(array.dtype, jnp.floating) else array.dtype
