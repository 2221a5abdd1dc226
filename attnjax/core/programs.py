"""From a `Scores` to a `Program`: what is done to scores, for passes over tiles.

A program is traced once a call. What a pass's lists of blocks express of the mask is
left out of it afterwards (`listed`), without another trace of the scores.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import dropout, scalar_functions, score_function
from attnjax.core.masks import And, Mask, schedule, scheduled
from attnjax.core.scores import Program, Scores, cap_of, capped

_PLACES = (np.int32, np.int32)


def program(
  scores: Scores, shape: tuple[int, int, int, int], dtype: Any = jnp.float32
) -> Program:
  """Returns the Program of `scores`, with all of the mask.

  What the score function reads at (b), (n), (t) or (s) becomes an operand that is
  computed outside of the tiles; so does a table read at (t, s), which costs O(T S)
  memory.

  Args:
    scores: over (B, N, T, S).
    shape: (B, N, T, S).
    dtype: of scores.

  Raises:
    NotImplementedError: for a function of scores that is not elementwise.
  """
  B, N, T, S = shape
  operands: list[Any] = []

  def new(array) -> int:
    operands.append(_kernel_type(array, dtype))
    return len(operands) - 1

  given = (scores.query_positions, scores.key_positions)
  slots = [
    None if x is None else new(x[:, None, :, None] if axis == 0 else x[:, None, None])
    for axis, x in enumerate(given)
  ]
  tests = [(new(x), x.dtype == bool) for x in And(scores.mask.conjuncts()).operands()]
  bias, factor = (None if x is None else new(x) for x in (scores.bias, scores.factor))
  cap = cap_of(scores.softcap)
  learned = None if cap is None or isinstance(cap, float) else new(cap)
  heads = jnp.arange(B), jnp.arange(N)
  inner, values = score_function.hoisted(
    scores.function, scores.consts, heads, *scores.positions(T, S), dtype
  )
  hoisted = [new(v) for v in values]

  def score(raw, t, s, *given):
    x = raw if factor is None else raw * given[factor]
    if cap is not None:
      x = capped(x, cap if learned is None else given[learned])
    if bias is not None:
      x = x + given[bias]
    if inner is not None:
      own = (given[i] for i in hoisted)
      x = inner(x, *_positions(scores, slots, t, s, given), *own)
    return x

  seeds = new(scores.seeds[:, :, None, None]) if scores.rate else -1

  def kept(t, s, *given):
    q, k = _positions(scores, slots, t, s, given)
    return dropout.keep(given[seeds], q, k, scores.rate)

  types = _types(operands, dtype)
  return Program(
    tuple(operands),
    None
    if scores.plain
    else scalar_functions.elementwise(score, [dtype, *_PLACES], types),
    _seen(scores, scores.mask, slots, tests, types),
    scalar_functions.elementwise(kept, _PLACES, types) if scores.rate else None,
  )


def tested(mask: Mask, blocks) -> Mask:
  """Returns the mask less the lists that the schedules of all those blocks express."""
  lists = [{id(part) for part in scheduled(mask, *block)[1]} for block in blocks]
  everywhere = set.intersection(*lists) if lists else set()
  return And(tuple(p for p in mask.conjuncts() if id(p) not in everywhere))


def listed(program: Program, scores: Scores, blocks, dtype: Any = jnp.float32):
  """Returns the program with a test of its own for passes over schedules.

  Args:
    program: of `scores`.
    scores: over (B, N, T, S).
    blocks: (block_q, block_k) of every schedule that the passes use.
    dtype: of scores.
  """
  parts, kept = scores.mask.conjuncts(), tested(scores.mask, blocks).conjuncts()
  if len(parts) == len(kept):
    return program
  given = (scores.query_positions, scores.key_positions)
  before = [x is not None for x in given]
  slots = [None if x is None else sum(before[:i]) for i, x in enumerate(given)]
  at, tests, left_out = sum(before), [], []
  for part in parts:
    for array in jax.eval_shape(part.operands):
      if any(part is one for one in kept):
        tests.append((at, array.dtype == bool))
      else:
        left_out.append(at)
      at += 1
  types = _types(program.operands, dtype)
  rest = _seen(scores, And(kept), slots, tests, types)
  return dataclasses.replace(program, rest=rest, lists=tuple(left_out))


def schedules(scores: Scores, shape: tuple[int, int, int, int], blocks) -> tuple:
  """Returns the mask's schedule for each (block_q, block_k), or None for None."""

  def one(block_q, block_k):
    return schedule(scores.mask, shape, block_q, block_k, *scores.begins())

  return tuple(None if sides is None else one(*sides) for sides in blocks)


def _seen(scores, mask: Mask, slots, tests, types):
  """Returns the mask's test of places, or None where it hides nothing.

  Args:
    scores: whose positions the mask is over.
    mask: the mask, or what is to be tested of it.
    slots: the operands that are positions of queries and keys, None for places.
    tests: the mask's operands, and whether they are booleans.
    types: of all operands inside of the tiles.
  """

  def seen(t, s, *given):
    own = [given[i] != 0 if flag else given[i] for i, flag in tests]
    return mask.seen(*_positions(scores, slots, t, s, given), *own)

  if not mask.conjuncts():
    return None
  return scalar_functions.elementwise(seen, _PLACES, types)


def _positions(scores, slots, t, s, given) -> Any:
  return [
    (x + np.int32(start) if start else x) if slot is None else given[slot]
    for x, start, slot in zip((t, s), scores.start, slots)
  ]


def _types(operands, dtype) -> list:
  floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in operands]
  return [dtype if f else x.dtype for x, f in zip(operands, floating)]


def _kernel_type(array, dtype):
  """Returns an operand in the type that kernels read; floats at most `dtype` wide."""
  if jnp.issubdtype(array.dtype, jnp.floating):
    narrow = jnp.finfo(array.dtype).bits <= jnp.finfo(dtype).bits
    return jnp.asarray(array if narrow else array.astype(dtype))
  cell = array.shape[2] > 1 and array.shape[3] > 1
  if array.dtype == bool:
    return array.astype(jnp.int8 if cell else jnp.int32)
  if jnp.issubdtype(array.dtype, jnp.signedinteger):
    return array.astype(jnp.int32)
  return jnp.asarray(array)
