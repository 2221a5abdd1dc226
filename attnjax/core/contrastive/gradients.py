"""The derivatives of InfoNCE around the passes of any implementation.

  forward(x, y, scale, rows, columns, mask)                  -> top, total, positive
  backward(x, y, scale, rows, columns, mask, own, others)    -> sum_j dscore[i, j] y[j]

of rows x (R, D) against all columns y (C, D); rows and columns are `Marks`, own and
others `Slopes`, mask (R, C) or None. Results are of the accumulators' type.

  top       the row's greatest score, 0 for an empty row
  total     sum_j exp(score - top); 0 for an empty row
  positive  the score of the row's positive pair; 0 where it has none

The queries' pass and the items', with sides exchanged, give all sums; so do they all
gradients: dq = scale of the backward pass, and that of log(scale) is the sum of q . dq.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from attnjax.core import derivatives, devices
from attnjax.core.contrastive.marks import Marks, Slopes
from attnjax.core.devices.division import WHOLE

# What `jax.checkpoint` may save by name, so that no forward pass runs twice.
SAVED = tuple(
  f"contrastive_{name}" for name in ("top", "total", "positive", "tops", "totals")
)

_ROWS, _ALL, _MASK = P("batch"), P(WHOLE), P("batch", WHOLE)
# The labels of the axes of what passes take and of what they give, by which devices
# divide them (`attnjax.core.devices`): rows are divided, columns are gathered.
FORWARD = (_ROWS, _ALL, P(), _ROWS, _ALL, _MASK), (_ROWS,) * 3
BACKWARD = (*FORWARD[0], _ROWS, _ALL), _ROWS


class Data(NamedTuple):
  """The arrays without derivatives.

  Attributes:
    queries: the Marks of queries.
    items: the Marks of items.
    mask: (Nq, Ni) int8, 0 where a pair is not counted; or None.
  """

  queries: Marks
  items: Marks
  mask: Any = None


class Sums(NamedTuple):
  """The results: (top, total, positive) of queries, and (tops, totals) of items."""

  top: Any
  total: Any
  positive: Any
  tops: Any = None
  totals: Any = None


@dataclasses.dataclass(frozen=True)
class Passes:
  """The passes of an implementation.

  Attributes:
    forward: as above, with positive=, whether positive scores are computed.
    backward: as above, with uses=, whether the slopes of rows and of columns are used.
    tangent: as `derivatives.differentiable` takes it, of `Sums` as a tuple; or raises.
    turned: computes the mask of the items' rows from that of the queries'.
    greatest: computes the greatest element of an array, of all devices' parts.
  """

  forward: Callable
  backward: Callable
  tangent: Callable
  turned: Callable = jnp.transpose
  greatest: Callable = jnp.max


def composed(spread: Callable, forward, backward, tangent, **constants: Any) -> Passes:
  """Returns the Passes of an implementation on all devices.

  Args:
    spread: makes a function of arrays of (function, labels of its arrays, constants).
    forward: as above.
    backward: as above.
    tangent: see `Passes`.
    **constants: options of both passes.
  """

  def on_all(function, specs):
    def run(*arrays, **options):
      made = spread(function, specs, **options, **constants)
      return made(*devices.aligned(arrays, specs[0]))

    return run

  return Passes(on_all(forward, FORWARD), on_all(backward, BACKWARD), tangent)


def differentiable(passes: Passes, *, symmetric: bool) -> Callable:
  """Returns the function ((q, items, scale), Data) to Sums.

  Args:
    passes: of an implementation.
    symmetric: whether the sums of columns are computed.
  """

  def exchanged(data):
    mask = None if data.mask is None else passes.turned(data.mask)
    return Data(data.items, data.queries, mask)

  def forward(x, data):
    q, items, scale = x
    found = passes.forward(q, items, scale, *data, positive=True)
    if symmetric:
      sides = items, q, scale, *exchanged(data)
      found += tuple(passes.forward(*sides, positive=False)[:2])
    return tuple(found)

  def transpose(x, data, y, cotangents, wanted):
    q, items, scale = x
    unit = _unit(q, [passes.greatest(jnp.abs(c)) for c in cotangents[1:]])
    own, others = _slopes(items, y, [c / unit for c in cotangents], symmetric)
    wide, dq, ditems, dscale = own.top.dtype, None, None, None
    if wanted[0] or wanted[2]:
      given = q, items, scale, *data, own, others
      sums = passes.backward(*given, uses=(True, symmetric)).astype(wide) * unit
      dq, dscale = sums * scale.astype(wide), (q.astype(wide) * sums).sum()
    if wanted[1]:
      given = items, q, scale, *exchanged(data), others, own
      sums = passes.backward(*given, uses=(symmetric, True)).astype(wide) * unit
      ditems = sums * scale.astype(wide)
    return dq, ditems, dscale

  run = derivatives.differentiable(forward, passes.tangent, transpose, saved=SAVED)
  return lambda x, data: Sums(*run(x, data))


def _unit(x, greatest):
  """Returns what slopes are divided by, so that the largest fit well in float16."""
  if x.dtype != jnp.float16:
    return 1.0
  most = jnp.stack(greatest).max()
  # Three terms of at most 2^12 each are below the greatest float16.
  return jnp.where(most > 0, most, 1) * 2.0**-12


def _slopes(items, y, cotangents, symmetric: bool) -> tuple[Slopes, Slopes]:
  """Returns the Slopes of queries and of items."""
  own = Slopes(y[0], *cotangents[1:3])
  none = jnp.zeros(items.shape[0], own.top.dtype)
  return own, Slopes(y[3] if symmetric else none, cotangents[4] if symmetric else none,
                     none)  # fmt: skip


def logarithm(top, total):
  """Returns the log of the sum of exp(score); 0, without slope, of an empty row."""
  some = total > 0
  return jax.lax.stop_gradient(top) + jnp.log(jnp.where(some, total, 1))
