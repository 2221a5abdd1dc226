"""One contract around every fused form: what it is given, and its derivatives.

A form is two functions, of a Program and a Schedule (`attnjax.core.scores`,
`attnjax.core.masks`):

  forward(q, k, v, sinks, program, schedule, scale=)                -> out, top, total
  backward(q, k, v, g, top, total, delta, program, schedule, scale=)
                                                      -> dq, dk, dv, doperands

  top    the row's greatest score, or a number near and not below it
  total  sum_s exp(score - top) [+ exp(sink - top)], before dropout; 0 for an empty row
  weight = exp(min(score - top, 0)) / total

with delta = sum_v g out - total (the cotangent of total), so that the gradient of a
score is weight (keep g.v - delta).

No weight is made from lse = top + log(total): at a score of -1e9 that sum has lost
log(total), and more. The difference of two scores that are near each other is exact in
floating point, whatever their magnitude, so scores are subtracted first, in their own
units, and only the difference is multiplied by log2(e) or clamped. A whole row at -1e4
or at the least finite number then has the weights of a row at 0.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from attnjax.core import derivatives
from attnjax.core.scores import Program
from attnjax.core.softmax.definition import wide

# What `jax.checkpoint` may save by name, so that no forward pass is made twice:
# jax.checkpoint_policies.save_only_these_names(*SAVED).
SAVED = ("attention_out", "attention_top", "attention_total")


@dataclasses.dataclass(frozen=True)
class Form:
  """A fused implementation.

  Attributes:
    forward: as above.
    backward: as above.
    tangent: ((x, data, (out, top, total)), dx) to the tangents of (out, lse), or what
      raises.
    prepared: (schedule, q, k) to the schedule with what the passes need besides; it
      runs where static lists are still constants.
  """

  forward: Callable
  backward: Callable
  tangent: Callable
  prepared: Callable = lambda schedule, q, k: schedule


def attend(form: Form, q, k, v, sinks, program, schedules, whole, *, scale):
  """(out, lse) by a form, with derivatives by q, k, v, sinks and float operands.

  Args:
    form: how.
    q: (B, T, N, H).
    k: (B, S, K, H).
    v: (B, S, K, V).
    sinks: (N,) or None.
    program: what is done to scores, less what the schedules express.
    schedules: of the forward and of the backward pass.
    whole: the program with all of the mask, for the tangent map.
    scale: of q . k.
  """
  floats, rest = split(program)
  x = q, k, v, sinks, floats
  data = rest, schedules, split(whole)[1]
  # What outlives this trace, the functions below, may hold none of its arrays.
  program, whole = described(program), described(whole)

  def forward(x, data):
    q, k, v, sinks, floats = x
    own = join(program, floats, data[0])
    return form.forward(q, k, v, sinks, own, data[1][0], scale=scale)

  def tangent(known, dx):
    x, data, y = known
    own = join(whole, x[4], data[2])
    dout, dlse = form.tangent(x[:4], own, y, dx, scale=scale)
    # lse = top + log(total): top stands still, total takes all of the change.
    return dout, jnp.zeros_like(y[1]), dlse * y[2]

  @jax.custom_jvp
  def transposed(known, cotangents):
    (q, k, v, sinks, floats), data, (out, top, total) = known
    g, _, dtotal = cotangents
    own = join(program, floats, data[0])
    delta = (g.astype(wide(g)) * out.astype(wide(g))).sum(axis=-1) - dtotal * total
    delta = jnp.where(total == 0, 0.0, delta)
    g = g.astype(out.dtype)
    dq, dk, dv, doperands = form.backward(
      q, k, v, g, top, total, delta, own, data[1][1], scale=scale
    )
    dfloats = tuple(
      d.astype(x.dtype) for d, x in zip((doperands[i] for i in places(program)), floats)
    )
    dsinks = None
    if sinks is not None:
      weight = sink_weight(sinks, top, total)
      dsinks = -(weight * delta).sum(axis=(0, 1)).astype(sinks.dtype)
    return dq, dk, dv, dsinks, dfloats

  @transposed.defjvp
  def _(primals, tangents):
    def slowly(known, cotangents):
      x = known[0]
      return jax.linear_transpose(lambda dx: tangent(known, dx), x)(cotangents)[0]

    return jax.jvp(slowly, primals, tangents)

  y = derivatives.differentiable(forward, tangent, transposed, _named)(x, data)
  return y[0], logarithm(*y[1:])


def _named(y):
  return tuple(checkpoint_name(x, name) for x, name in zip(y, SAVED))


def logarithm(top, total):
  """The logarithm of the softmax's denominator; -inf for an empty row."""
  some = total != 0
  top = jax.lax.stop_gradient(top)
  return jnp.where(some, top + jnp.log(jnp.where(some, total, 1)), -jnp.inf)


def sink_weight(sinks, top, total):
  """The weights of sinks (N,), like total (B, T, N)."""
  some = total != 0
  logit = sinks.astype(total.dtype) - jnp.where(some, jax.lax.stop_gradient(top), 0)
  weight = jnp.exp(jnp.where(some, logit, 0)) / jnp.where(some, total, 1)
  return jnp.where(some, weight, 0)


def with_sinks(out, top, total, sinks):
  """(out, top, total) with logits (N,) in the denominator, or without if None."""
  if sinks is None:
    return out, top, total
  sinks = sinks.astype(total.dtype)
  empty = total == 0
  new = jnp.where(empty, sinks, jnp.maximum(top, sinks))
  pivot = jnp.where(new == -jnp.inf, 0, new)
  old = jnp.where(empty, 0, jnp.exp(jnp.where(empty, 0, top - pivot))) * total
  whole = old + jnp.exp(sinks - pivot)
  factor = jnp.where(empty, 0, old / jnp.where(whole == 0, 1, whole))
  return out * factor[..., None], pivot, whole


def places(program: Program) -> list[int]:
  """Which operands have gradients."""
  return [
    i for i, x in enumerate(program.operands) if jnp.issubdtype(x.dtype, jnp.floating)
  ]


def described(program: Program) -> Program:
  """The program with the shapes and types of its operands for them."""
  return jax.eval_shape(lambda: program)


def split(program: Program) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
  """(the float operands, the others)."""
  floats = places(program)
  operands = program.operands
  rest = tuple(x for i, x in enumerate(operands) if i not in floats)
  return tuple(operands[i] for i in floats), rest


def join(program: Program, floats, rest) -> Program:
  """The program with other values of its operands."""
  which, floats, rest = places(program), iter(floats), iter(rest)
  operands = tuple(
    next(floats) if i in which else next(rest) for i in range(len(program.operands))
  )
  return dataclasses.replace(program, operands=operands)
