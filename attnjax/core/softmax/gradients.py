"""The derivatives of softmax attention around the passes of any implementation.

An implementation is two functions, of a Program (`attnjax.core.scores`) and a Schedule
(`attnjax.core.masks`):

  forward(q, k, v, sinks, program, schedule)                    -> out, top, total
  backward(q, k, v, g, top, total, delta, program, schedule)
                                                    -> dq, dk, dv, doperands

  top    the row's greatest score, or a number near and not below it
  total  sum_s exp(score - top) [+ exp(sink - top)], before dropout; 0 for an empty row
  weight = exp(min(score - top, 0)) / total

with delta = sum_v g out - total (the cotangent of total), so that the gradient of a
score is weight (keep g.v - delta).

No weight is computed from lse = top + log(total): at a score of -1e9 that sum has lost
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
from jax.sharding import PartitionSpec as P

from attnjax.core import derivatives, devices
from attnjax.core.dtypes import accumulator_dtype

# What `jax.checkpoint` may save by name, so that no forward pass runs twice:
# jax.checkpoint_policies.save_only_these_names(*SAVED).
SAVED = ("attention_out", "attention_top", "attention_total")

_ARRAYS = P("batch", None, "heads")  # (B, T, N, H), (B, T, N)
_OPERANDS = P("batch", "heads")
# The labels of the axes of what passes take and of what they give, by which devices
# divide them (`attnjax.core.devices`).
FORWARD = (*[_ARRAYS] * 3, P("heads"), *[_OPERANDS] * 2), _ARRAYS
BACKWARD = (*[_ARRAYS] * 7, *[_OPERANDS] * 2), (*[_ARRAYS] * 3, _OPERANDS)


@dataclasses.dataclass(frozen=True)
class Passes:
  """The passes of an implementation of softmax attention.

  Attributes:
    forward: as above.
    backward: as above; None for the gradients of operands that are not floats.
    tangent: computes the tangents of (out, lse) from (x, y, dx) for the arguments
      x = (q, k, v, sinks, program), the results y = (out, top, total) and all tangents
      dx; or what raises.
  """

  forward: Callable
  backward: Callable
  tangent: Callable


def arguments(q, k, v, sinks, program, schedules) -> tuple[tuple[Any, ...], Any]:
  """Returns what `differentiable`'s function takes, of types that fit each other.

  See `attnjax.core.devices.aligned`.
  """
  inputs, given = FORWARD[0], (q, k, v, sinks, program, schedules)
  *x, schedules = devices.aligned(given, inputs)
  return tuple(x), schedules


def differentiable(passes: Passes) -> Callable:
  """Returns the function ((q, k, v, sinks, program), schedules) to (out, top, total).

  It has derivatives by q (B, T, N, H), k (B, S, K, H), v (B, S, K, V), sinks (N,) or
  None, and the program's operands that are floats. `schedules` are those of the forward
  and of the backward pass, None for passes that need none.
  """

  def forward(x, schedules):
    *arrays, program = x
    return passes.forward(*arrays, program.scheduled, schedules[0])

  def tangent(x, schedules, y, dx):
    del schedules
    dout, dlse = passes.tangent(x, y, derivatives.filled(x, dx))
    # lse = top + log(total): top stands still, total takes all of the change.
    return dout, jnp.zeros_like(y[1]), dlse * y[2]

  def transpose(x, schedules, y, cotangents, wanted):
    del wanted
    (q, k, v, sinks, program), (out, top, total), (g, _, dtotal) = x, y, cotangents
    delta = (g.astype(accumulator_dtype(g)) * out.astype(accumulator_dtype(g))).sum(
      axis=-1
    ) - dtotal * total
    delta = jnp.where(total == 0, 0.0, delta)
    given = q, k, v, g.astype(out.dtype), top, total, delta
    *found, slopes = passes.backward(*given, program.scheduled, schedules[1])
    slopes, lists = iter(slopes), program.lists
    of_all = (
      None if i in lists else next(slopes) for i, _ in enumerate(program.operands)
    )
    dsinks = None
    if sinks is not None:
      dsinks = -(sink_weight(sinks, top, total) * delta).sum(axis=(0, 1))
    return *found, dsinks, dataclasses.replace(program, operands=tuple(of_all))

  return derivatives.differentiable(forward, tangent, transpose, saved=SAVED)


def logarithm(top, total):
  """Returns lse, the logarithm of the softmax's denominator; -inf for an empty row."""
  some = total != 0
  top = jax.lax.stop_gradient(top)
  return jnp.where(some, top + jnp.log(jnp.where(some, total, 1)), -jnp.inf)


def sink_weight(sinks, top, total):
  """Returns the weights of sinks (N,), of the shape of total (B, T, N)."""
  some = total != 0
  logit = sinks.astype(total.dtype) - jnp.where(some, jax.lax.stop_gradient(top), 0)
  weight = jnp.exp(jnp.where(some, logit, 0)) / jnp.where(some, total, 1)
  return jnp.where(some, weight, 0)


def with_sinks(out, top, total, sinks):
  """Adds logits (N,) to the denominator of (out, top, total), or nothing if None."""
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
