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
from jaxtyping import Array, UInt

from attnjax.core import dropout, scalar_functions, score_function
from attnjax.core.masks import And, Mask

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

  def times(self, factor: Array) -> "Scores":
    """Returns the scores with q . k times an array: () or (B|1, N|1, T|1, S|1)."""
    factor = factor.reshape(1, 1, 1, 1) if factor.ndim == 0 else factor
    own = factor if self.factor is None else factor * self.factor
    return dataclasses.replace(self, factor=own)

  @property
  def plain(self) -> bool:
    """Returns whether no score that is seen is modified."""
    changed = (self.bias, self.factor, self.function, cap_of(self.softcap))
    return all(x is None for x in changed)

  def modified(self, raw, bias, consts, b, h, q, k):
    """Modifies the raw scores (b, n, t, s) of a tile; `bias` is the tile's, or None."""
    score = raw
    if self.factor is not None:
      score = score * self.factor.astype(raw.dtype)
    cap = cap_of(self.softcap)
    if cap is not None:
      score = capped(score, cap if isinstance(cap, float) else cap.astype(raw.dtype))
    if bias is not None:
      score = score + bias.astype(raw.dtype)
    if self.function is not None:
      score = score_function.apply(self.function, consts, score, b, h, q, k)
    return score

  def kept(self, seeds: UInt[Array, "b n"], q, k):
    """Returns the dropout's factors (b, n, t, s) at positions q (b, t) and k (b, s)."""
    return dropout.keep(
      seeds[:, :, None, None], q[:, None, :, None], k[:, None, None, :], self.rate
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Program:
  """`Scores` compiled for passes over tiles: scalar functions, and arrays they read.

  Attributes:
    operands: arrays (B|1, N|1, T|1, S|1): float32, bfloat16 or float16, which have
      gradients; int32, uint32, and int8 for booleans of every element.
    score: (raw float32, t, s, *operands) to the score; None is raw itself.
    seen: (t, s, *operands) to a boolean; None is True.
    keep: (t, s, *operands) to the weight's factor; None is 1.
    rest: as `seen`, of what the schedules of the passes do not express in their lists.
    lists: which operands only the test of what lists express reads.
  """

  operands: Any = ()
  score: scalar_functions.Elementwise | None = dataclasses.field(
    default=None, metadata=_STATIC
  )
  seen: scalar_functions.Elementwise | None = dataclasses.field(
    default=None, metadata=_STATIC
  )
  keep: scalar_functions.Elementwise | None = dataclasses.field(
    default=None, metadata=_STATIC
  )
  rest: scalar_functions.Elementwise | None = dataclasses.field(
    default=None, metadata=_STATIC
  )
  lists: tuple[int, ...] = dataclasses.field(default=(), metadata=_STATIC)

  @property
  def scheduled(self) -> "Program":
    """Returns the program for a pass whose schedule expresses the mask's lists."""
    if not self.lists:
      return self
    kept = [i for i in range(len(self.operands)) if i not in self.lists]

    def moved(part):
      if part is None:
        return None
      own = tuple(kept.index(i) for i in part.operands)
      return dataclasses.replace(part, operands=own)

    operands = tuple(self.operands[i] for i in kept)
    return Program(operands, moved(self.score), moved(self.rest), moved(self.keep))


def cap_of(softcap: Any) -> Any:
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
