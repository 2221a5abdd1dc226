"""From arguments to a Form: programs, schedules and the devices' shares."""

from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from attnjax import sharding
from attnjax.core import masks
from attnjax.core import scores as scores_of
from attnjax.core.scores import Scores
from attnjax.core.softmax import fused
from attnjax.core.softmax.definition import wide
from attnjax.core.softmax.fused import Form


def attend(form: Form, q, k, v, scores: Scores, *, sinks, scale, blocks):
  """(out, lse) by a form, on each device's share of batches and heads.

  Args:
    form: how.
    q: (B, T, N, H).
    k: (B, S, K, H).
    v: (B, S, K, V).
    scores: what is done to scores.
    sinks: (N,) or None.
    scale: of q . k.
    blocks: (block_q, block_k) of the forward and of the backward schedule; None for a
      form that takes no schedule.
  """
  shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
  given = [sides for sides in blocks if sides is not None]
  program = scores_of.program(scores, shape, given, wide(q))
  less = len(scores_of.tested(scores.mask, given).conjuncts())
  same = less == len(scores.mask.conjuncts())
  whole = program if same else scores_of.program(scores, shape, (), wide(q))
  begins = scores.begins()
  schedules = tuple(
    None
    if sides is None
    else masks.schedule(scores.mask, shape, sides[0], sides[1], begins[0], begins[1])
    for sides in blocks
  )
  own = Form(
    _shared(form.forward, q, k, forward=True),
    _shared(form.backward, q, k, forward=False),
    form.tangent,
  )
  return fused.attend(own, q, k, v, sinks, program, schedules, whole, scale=scale)


def _shared(function, q, k, *, forward: bool):
  """The function on each device's batches and heads, if there is a mesh."""
  batch = sharding.divides("data", q.shape[0])
  heads = sharding.divides("model", k.shape[2])
  if not sharding.shared():
    return function
  array = P(batch, None, heads, None)
  line = P(batch, None, heads)

  def operand(x):
    return P(batch if x.shape[0] > 1 else None, heads if x.shape[1] > 1 else None)

  def run(*arguments, scale):
    *arrays, program, schedule = arguments
    spec = [P(heads)] if forward and arrays[3] is not None else [None]
    own = [array] * 3 + (spec if forward else [array, line, line, line])
    trees = jax.tree.map(operand, (program, schedule))
    if forward:
      out: Any = (array, line, line)
    else:
      floats = fused.places(program)
      out = (
        (array,) * 3,
        tuple(
          operand(x) if i in floats else None for i, x in enumerate(program.operands)
        ),
      )

    def local(*arguments):
      if forward:
        return function(*arguments, scale=scale)
      *d, doperands = function(*arguments, scale=scale)
      summed = (_summed(d, operand(x)) for d, x in zip(doperands, program.operands))
      return tuple(d), tuple(summed)

    def _summed(d, spec):
      axes = [a for a in (batch, heads) if a is not None and a not in spec]
      return d if d is None or not axes else jax.lax.psum(d, tuple(axes))

    result = sharding.per_device(local, (*own, *trees), out)(*arguments)
    return result if forward else (*result[0], result[1])

  return run
