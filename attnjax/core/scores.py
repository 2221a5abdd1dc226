"""What happens to a score between q . k and the softmax.

  score[t, s] = function(softcap(raw[t, s]) + bias[t, s], b, n, q, k)   raw = scale q.k
  softcap(x)  = cap tanh(x / cap)

where a mask says that it is seen, else -inf. The function is your own; it may read
arrays that it captures, which get gradients. Dropout multiplies the weights after the
softmax by 0 or 1 / (1 - rate), from a hash of (key, batch, head, q, k).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

from attnjax.core import captured, elementwise
from attnjax.core.masks import And, Mask, scheduled

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
  """All that is done to scores. Its float arrays (bias, consts) have gradients.

  Attributes:
    mask: which scores are seen.
    query_positions: int32, (B|1, T); None is `start` + 0, 1, 2, ...
    key_positions: int32, (B|1, S).
    bias: float, (B|1, N|1, T|1, S|1), or None.
    consts: the arrays that the score function captures.
    seeds: uint32, (B, N), of the dropout, or None.
    softcap: 0 is none.
    rate: of the dropout.
    function: a traced score function, or None.
    start: what the queries' and the keys' positions begin with if none are given.
  """

  mask: Mask = dataclasses.field(default_factory=lambda: And(()))
  query_positions: Any = None
  key_positions: Any = None
  bias: Any = None
  consts: Any = ()
  seeds: Any = None
  softcap: float = dataclasses.field(default=0.0, metadata=_STATIC)
  rate: float = dataclasses.field(default=0.0, metadata=_STATIC)
  function: Any = dataclasses.field(default=None, metadata=_STATIC)
  start: tuple[int, int] = dataclasses.field(default=(0, 0), metadata=_STATIC)

  def positions(self, T: int, S: int) -> tuple[Array, Array]:
    """The positions of the queries, (B|1, T), and of the keys, (B|1, S)."""
    given = (self.query_positions, self.key_positions)
    query, key = (
      jnp.arange(start, start + length, dtype=jnp.int32)[None] if x is None else x
      for x, start, length in zip(given, self.start, (T, S))
    )
    return query, key

  def begins(self) -> tuple[Any, Any]:
    """The positions as `masks.schedule` takes them: numbers where they are known."""
    return (
      self.start[0] if self.query_positions is None else self.query_positions,
      self.start[1] if self.key_positions is None else self.key_positions,
    )

  @property
  def plain(self) -> bool:
    """Whether scores are raw where they are seen."""
    return self.bias is None and self.function is None and not self.softcap

  def modified(self, raw, bias, consts, b, h, q, k):
    """The scores (b, n, t, s) of raw ones; bias is that tile's, or None."""
    score = raw
    if self.softcap:
      score = self.softcap * jnp.tanh(score / self.softcap)
    if bias is not None:
      score = score + bias
    if self.function is not None:
      score = captured.apply(self.function, consts, score, b, h, q, k)
    return score

  def kept(self, seeds: UInt[Array, "b n"], q, k):
    """The dropout's factors, (b, n, t, s), at the positions q (b, t) and k (b, s)."""
    return keep(
      seeds[:, :, None, None], q[:, None, :, None], k[:, None, None, :], self.rate
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Program:
  """The same for a kernel: scalar functions of a score, its place and operands.

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


def tested(mask: Mask, blocks) -> Mask:
  """The mask less the lists that the schedules of all those blocks express."""
  listed = [{id(part) for part in scheduled(mask, *block)[1]} for block in blocks]
  everywhere = set.intersection(*listed) if listed else set()
  return And(tuple(p for p in mask.conjuncts() if id(p) not in everywhere))


def program(
  scores: Scores, shape: tuple[int, int, int, int], blocks, dtype=jnp.float32
) -> Program:
  """The Program of `scores`.

  What the score function reads at (b), (n), (t) or (s) becomes an operand that is
  made outside; so does a table read at (t, s), which costs O(T S) memory.

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
    operands.append(_kernel_type(array))
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

  bias = None if scores.bias is None else new(scores.bias)
  inner, values = captured.hoisted(
    scores.function,
    scores.consts,
    (jnp.arange(B), jnp.arange(N)),
    *scores.positions(T, S),
  )
  hoisted = [new(v) for v in values]

  def score(raw, t, s, *given):
    x = raw
    if scores.softcap:
      x = scores.softcap * jnp.tanh(x / scores.softcap)
    if bias is not None:
      x = x + given[bias]
    if inner is not None:
      x = inner(x, *places(t, s, given), *(given[i] for i in hoisted))
    return x

  seeds = new(scores.seeds[:, :, None, None]) if scores.rate else -1

  def kept(t, s, *given):
    q, k = places(t, s, given)
    return keep(given[seeds], q, k, scores.rate)

  types = [_inside(a, dtype) for a in operands]
  at = [np.int32, np.int32]
  return Program(
    tuple(operands),
    None if scores.plain else elementwise.elementwise(score, [dtype, *at], types),
    elementwise.elementwise(seen, at, types) if mask.conjuncts() else None,
    elementwise.elementwise(kept, at, types) if scores.rate else None,
  )


def _kernel_type(array):
  cell = array.shape[2] > 1 and array.shape[3] > 1
  if array.dtype == bool:
    return array.astype(jnp.int8 if cell else jnp.int32)
  if jnp.issubdtype(array.dtype, jnp.signedinteger):
    return array.astype(jnp.int32)
  return jnp.asarray(array)


def _inside(array, dtype):
  return dtype if jnp.issubdtype(array.dtype, jnp.floating) else array.dtype


def keep(seed, q, k, rate: float) -> Float[Array, "..."]:
  """0 or 1 / (1 - rate): element (q, k) of a seed's infinite matrix of coins.

  The same in every tile, device and implementation, forward and backward. The hash is
  the finalizer of MurmurHash3 (Austin Appleby, public domain), once over the row and
  once over the element.
  """
  row = _mixed(seed ^ (q.astype(jnp.uint32) * np.uint32(0x9E3779B1)))
  bits = _mixed(row ^ (k.astype(jnp.uint32) * np.uint32(0x85EBCA77)))
  # The upper 24 bits as a float: comparisons of unsigned numbers are rare on TPUs.
  uniform = (bits >> np.uint32(8)).astype(jnp.int32).astype(jnp.float32)
  return jnp.where(
    uniform >= np.float32(rate * 2**24), np.float32(1 / (1 - rate)), np.float32(0)
  )


def seeds(key: Array, B: int, N: int) -> UInt[Array, "B N"]:
  """The dropout's seed of each batch and head."""
  return jax.random.bits(key, (B, N), jnp.uint32)


def _mixed(x):
  x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
  return x ^ (x >> np.uint32(16))
