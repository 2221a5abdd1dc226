"""The derivatives of third-order attention around the passes of any implementation.

  forward(q, k1, k2, v1, v2, data)                            -> out, top, total
  backward(q, k1, k2, v1, v2, g, top, share, delta, data)     -> dq, dk1, dk2, dv1, dv2

  top    the row's greatest score, 0 for an empty row
  total  sum_jl exp(score - top); 0 for an empty row
  share  1 / total, or 0
  delta  sum_v g out - (the cotangent of total) total

with data = (ids, offset): ids the segments (of queries (B, T), of keys (B, S)) or None,
offset () int32, or None where the `Sight` has it. The gradient of a score is
exp(score - top) share (sum_v g v1 v2 - delta).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from attnjax.core import derivatives
from attnjax.core.dtypes import accumulator_dtype

# What `jax.checkpoint` may save by name, so that no forward pass runs twice.
SAVED = ("third_order_out", "third_order_top", "third_order_total")

_ROWS = P("batch", None, "heads")
_DATA = (P("batch"), P())
# The labels of the axes of what passes take and of what they give, by which devices
# divide them (`attnjax.core.devices`).
FORWARD = (*[_ROWS] * 5, _DATA), (_ROWS,) * 3
BACKWARD = (*[_ROWS] * 9, _DATA), (_ROWS,) * 5


@dataclasses.dataclass(frozen=True)
class Passes:
  """The passes of an implementation of third-order attention.

  Attributes:
    forward: as above.
    backward: as above.
    tangent: as `derivatives.differentiable` takes it, of (out, top, total); or what
      raises.
  """

  forward: Callable
  backward: Callable
  tangent: Callable


def differentiable(passes: Passes) -> Callable:
  """Returns the function ((q, k1, k2, v1, v2), data) to (out, lse)."""

  def forward(x, data):
    return passes.forward(*x, data)

  def transpose(x, data, y, cotangents, wanted):
    del wanted
    (out, top, total), (g, _, dtotal) = y, cotangents
    wide = accumulator_dtype(g)
    delta = (g.astype(wide) * out.astype(wide)).sum(axis=-1) - dtotal * total
    some = total != 0
    share = jnp.where(some, 1 / jnp.where(some, total, 1), 0)
    delta = jnp.where(some, delta, 0.0)
    return passes.backward(*x, g.astype(out.dtype), top, share, delta, data)

  run = derivatives.differentiable(forward, passes.tangent, transpose, saved=SAVED)

  def attend(x, data):
    out, top, total = run(x, data)
    return out, logarithm(top, total)

  return attend


def logarithm(top, total):
  """Returns lse, the logarithm of the softmax's denominator; -inf for an empty row."""
  some = total != 0
  top = jax.lax.stop_gradient(top)
  return jnp.where(some, top + jnp.log(jnp.where(some, total, 1)), -jnp.inf)
