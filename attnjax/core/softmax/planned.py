"""From arguments to a Form: programs, schedules and the devices' shares."""

import functools
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P

from attnjax.core import devices, masks
from attnjax.core import scores as scores_of
from attnjax.core.scores import Scores
from attnjax.core.softmax import fused
from attnjax.core.softmax.definition import wide
from attnjax.core.softmax.fused import Form

_ARRAYS = P("batch", None, "heads")  # (B, T, N, H), (B, T, N)
_OPERANDS = P("batch", "heads")


def attend(
  form: Form,
  q,
  k,
  v,
  scores: Scores,
  *,
  sinks,
  scale,
  blocks,
  local: bool = True,
):
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
    local: False where XLA divides the form over devices as well.
  """
  q, k, v, sinks, scores, scale = devices.vary((q, k, v, sinks, scores, scale))
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
    else form.prepared(masks.schedule(scores.mask, shape, *sides, *begins), q, k)
    for sides in blocks
  )
  q, k, v, sinks, program, whole, schedules = devices.aligned(
    (q, k, v, sinks, program, whole, schedules),
    (*[_ARRAYS] * 3, P("heads"), *[_OPERANDS] * 3),
  )
  own = Form(
    _shared(form.forward, _ARRAYS, local),
    _shared(form.backward, (*(_ARRAYS,) * 3, _OPERANDS), local),
    form.tangent,
  )
  return fused.attend(own, q, k, v, sinks, program, schedules, whole, scale=scale)


def _shared(function: Callable, outputs, local: bool):
  """A pass on each device's batches and heads."""

  def run(*arguments, scale):
    labels = [_ARRAYS] * (len(arguments) - 2) + [_OPERANDS] * 2
    if outputs is _ARRAYS:  # the forward pass
      labels[3] = P("heads")  # sinks
    if not isinstance(scale, jax.Array):
      own = functools.partial(function, scale=scale)
      return devices.per_device(own, labels, outputs, local=local)(*arguments)

    def scaled(scale, *arguments):
      return function(*arguments, scale=scale)

    call = devices.per_device(scaled, [P(), *labels], outputs, local=local)
    return call(scale, *arguments)

  return run
