"""One contract around every fused form: what it is given, and its derivatives.

A form is two functions, of a Program and a Schedule (`attnjax.core.scores`,
`attnjax.core.masks`):

  forward(q, k, v, sinks, program, schedule, scale=)           -> out, lse
  backward(q, k, v, g, lse, delta, program, schedule, scale=)  -> dq, dk, dv, doperands

with delta = sum_v g out - (lse's cotangent), so that the gradient of a score is
weight (keep g.v - delta).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core import derivatives
from attnjax.core.scores import Program
from attnjax.core.softmax.definition import wide


@dataclasses.dataclass(frozen=True)
class Form:
  """A fused implementation.

  Attributes:
    forward: as above.
    backward: as above.
    tangent: ((x, data, (out, lse)), dx) to their tangents, or what raises.
  """

  forward: Callable
  backward: Callable
  tangent: Callable


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

  def forward(x, data):
    q, k, v, sinks, floats = x
    own = join(program, floats, data[0])
    return form.forward(q, k, v, sinks, own, data[1][0], scale=scale)

  def tangent(known, dx):
    x, data, y = known
    own = join(whole, x[4], data[2])
    return form.tangent(x[:4], own, y, dx, scale=scale)

  @jax.custom_jvp
  def transposed(known, cotangents):
    (q, k, v, sinks, floats), data, (out, lse) = known
    g, dlse = cotangents
    own = join(program, floats, data[0])
    delta = (g.astype(wide(g)) * out.astype(wide(g))).sum(axis=-1) - dlse
    delta = jnp.where(lse == -jnp.inf, 0.0, delta)
    g = g.astype(out.dtype)
    dq, dk, dv, doperands = form.backward(
      q, k, v, g, lse, delta, own, data[1][1], scale=scale
    )
    dfloats = tuple(
      d.astype(x.dtype) for d, x in zip((doperands[i] for i in places(program)), floats)
    )
    dsinks = None
    if sinks is not None:
      weight = jnp.exp(sinks.astype(lse.dtype) - lse)
      dsinks = -(weight * delta).sum(axis=(0, 1)).astype(sinks.dtype)
    return dq, dk, dv, dsinks, dfloats

  @transposed.defjvp
  def _(primals, tangents):
    def slowly(known, cotangents):
      x = known[0]
      return jax.linear_transpose(lambda dx: tangent(known, dx), x)(cotangents)[0]

    return jax.jvp(slowly, primals, tangents)

  return derivatives.differentiable(forward, tangent, transposed)(x, data)


def places(program: Program) -> list[int]:
  """Which operands have gradients."""
  return [
    i for i, x in enumerate(program.operands) if jnp.issubdtype(x.dtype, jnp.floating)
  ]


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
