"""Prefix softmax with custom derivatives around the passes of any implementation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from attnjax.core import derivatives, devices
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence.prefix.state import State, combine

# The names, for `jax.checkpoint_policies`, of what need not be recomputed.
SAVED = tuple(f"prefix_softmax_{name}" for name in ("out", "top", "total", "state"))

# The labels of the axes by which devices divide the passes (`attnjax.core.devices`).
_ROWS, _LAST = P("batch", None, "heads"), P("batch", "heads")
_INPUTS, _OUTPUTS = ((_ROWS, _ROWS, _LAST), P("batch")), (_ROWS, _ROWS, _ROWS, _LAST)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
  """The weights of values: exp(scores_c - top_r) / total_r of token c in row r.

  Attributes:
    scores: (B, T, N), -inf where a token does not count.
    top: (B, T, N), the greatest score up to each token, of its document; finite.
    total: (B, T, N), the sum of exp(score - top) up to each token; 0 if none counts.
    before: (top, total) of the token before; for the first, of the initial state.
    first: int32, (B, T), where the token's document begins, -1 if it goes on from the
      initial state; None for one document.
  """

  scores: Any
  top: Any
  total: Any
  before: Any
  first: Any

  @property
  def share(self) -> jax.Array:
    """Returns 1 / total, (B, T, N); 0 if no token counts."""
    return jnp.where(self.total > 0, 1 / jnp.where(self.total > 0, self.total, 1), 0)


@dataclasses.dataclass(frozen=True)
class Form:
  """An implementation of the passes of `prefix`.

  Attributes:
    normaliser: (scores, (top, total) (B, N) of the initial state, first) to (top,
      total) (B, T, N), top being -inf for no tokens.
    forward: (weights, values, start (B, N, E)) to out in the values' type and, wide,
      the last row of it.
    backward: (weights, values, g, delta, A (B, N, E), b (B, N)) to dscores and, in the
      values' type, dvalues, and (A, b) before the first token.
    tangent: None if JAX may differentiate `forward`, else a function that raises.
  """

  normaliser: Callable
  forward: Callable
  backward: Callable
  tangent: Callable | None = None


def prefix(
  scores: Float[Array, "B T N"],
  values: Float[Array, "B T N E"],
  *,
  form: Form,
  initial: State | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T N E"], Float[Array, "B T N"], State]:
  """Computes prefix softmax; returns (out, lse, the state after the last token).

  out has the values' type; all results are differentiable.

  Args:
    scores: s; -inf for a token that does not count, whatever its value is.
    values: v.
    form: the implementation; `FORMS` has those in plain JAX.
    initial: the state before the first token; it belongs to the first document.
    segment_ids: a document is a run of equal ids; each starts from no tokens.

  Raises:
    ValueError: if shapes do not fit.
  """
  check(scores, values, initial)
  rows, last = _rows(scores, values, form, initial, segment_ids)
  return rows.out, rows.lse, last


def _rows(scores, values, form: Form, initial, segment_ids) -> tuple[State, State]:
  """Returns (each token's state, `out` in the values' type; the last state, wide)."""
  (B, T, N), E = scores.shape, values.shape[3]
  dtype = jnp.promote_types(accumulator_dtype(scores), accumulator_dtype(values))
  start = State.empty((B, N, E), dtype) if initial is None else initial
  s, start = jax.tree.map(lambda x: x.astype(dtype), (scores, start))
  if not B * T:
    return State(s, s, values), start
  first = None if segment_ids is None else beginnings(segment_ids)
  (s, values, start), first = devices.aligned(((s, values, start), first), _INPUTS)
  x = s, jnp.where(s[..., None] > -jnp.inf, values, 0), start
  run = derivatives.differentiable(*_passes(form, x, first), saved=SAVED)
  out, top, total, last = run(x, first)
  return State(top, total, out), State(top[:, -1], total[:, -1], last)


def _passes(form: Form, x, first) -> tuple[Callable, Callable, Callable]:
  """Returns (the value, the tangents, the cotangents) as functions of x and first.

  Where explicit axes of a mesh divide x, each device runs value and cotangents on its
  part, and neither has a derivative: a loop's carry has no sharding of its own.
  """
  run, tangent, transposed = (
    functools.partial(function, form) for function in (_run, _tangent, _transposed)
  )
  if not devices.divided((x, first), _INPUTS):
    return run, tangent, transposed
  given = *_INPUTS, _OUTPUTS, _OUTPUTS

  def pulled(*arrays):
    return transposed(*arrays, None)

  each = devices.per_device(pulled, given, _INPUTS[0])
  run = devices.per_device(run, _INPUTS, _OUTPUTS)
  return run, tangent, lambda *arrays: each(*arrays[:-1])


def across(scores, values, axis: str, *, form: Form):
  """Computes `prefix` of a sequence whose pieces lie, in order, on a mapped axis.

  Every piece scans its own tokens; the states, N (E + 2) elements each, are gathered.
  To be called under `jax.shard_map` or `jax.vmap(axis_name=...)`.

  Returns:
    (out, lse) of this piece's tokens, and the state after this piece.
  """
  check(scores, values)
  own_rows, own = _rows(scores, values, form, None, None)
  pieces = jax.lax.all_gather(own, axis)
  earlier = jnp.arange(pieces.top.shape[0]) < jax.lax.axis_index(axis)
  before = State.empty(own.out.shape, own.out.dtype)
  for piece, counts in enumerate(earlier):
    state = jax.tree.map(lambda x, i=piece: x[i], pieces)
    top, total = jnp.where(counts, state.top, -jnp.inf), state.total * counts
    before = combine(before, State(top, total, state.out))
  rows = combine(
    jax.tree.map(lambda x: x[:, None], before),
    State(own_rows.top, own_rows.total, own_rows.out.astype(own.out.dtype)),
  )
  return rows.out.astype(values.dtype), rows.lse, combine(before, own)


def check(scores, values, initial=None) -> None:
  """Raises ValueError, naming the argument, if shapes do not fit."""
  if scores.ndim != 3:
    raise ValueError(f"scores {scores.shape} must be (B, T, N)")
  if values.ndim != 4 or values.shape[:3] != scores.shape:
    raise ValueError(f"values {values.shape} must be (B, T, N, E), B, T, N as scores")
  (B, _, N), E = scores.shape, values.shape[3]
  if initial is not None:
    for name in ("top", "total"):
      shape = getattr(initial, name).shape
      if shape != (B, N):
        raise ValueError(f"initial.{name} {shape} must be (B, N) = {(B, N)}")
    if initial.out.shape != (B, N, E):
      raise ValueError(f"initial.out {initial.out.shape} must be {(B, N, E)}")


def beginnings(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
  """Returns where each token's run of equal ids begins; -1 in the first run."""
  new = segment_ids[:, 1:] != segment_ids[:, :-1]
  place = jnp.arange(1, segment_ids.shape[1], dtype=jnp.int32)
  starts = jnp.where(new, place, -1)
  starts = jnp.pad(starts, ((0, 0), (1, 0)), constant_values=-1)
  return jax.lax.cummax(starts, axis=1)


def _weights(s, start: State, first, known) -> Weights:
  """Returns the Weights; `known` is (top, total) of the scores, or computes them."""
  total = jnp.where(start.top > -jnp.inf, start.total, 0)
  top, totals = known(s, (start.top, total), first) if callable(known) else known
  before, top = (jnp.where(x > -jnp.inf, x, 0) for x in (start.top, top))
  before = (
    jnp.concatenate([x[:, None], rows[:, :-1]], axis=1)
    for x, rows in ((before, top), (total, totals))
  )
  return Weights(s, top, totals, tuple(before), first)


def _run(form, x, first):
  s, values, start = x
  top, total = form.normaliser(s, (start.top, start.total), first)
  weights = _weights(s, start, first, (top, total))
  out, last = form.forward(weights, values, _counting(start.out, start))
  return out, top, total, last


def _counting(x, start: State):
  """Returns x, shaped as a state's `out`, or 0 where the state has no tokens."""
  return jnp.where((start.total > 0)[..., None], x, 0)


def _tangent(form, x, first, y, dx):
  """Returns the tangents of (out, top, total, last state).

  They are made of the weighted means of dv + ds v and of ds.
  """
  if form.tangent is not None:
    return form.tangent()
  (s, values, start), (out, top, total, last) = x, y
  ds, dvalues, dstart = derivatives.filled(x, dx)
  ds = jnp.where(s > -jnp.inf, ds, 0)[..., None]
  some = start.total > 0
  dlse = dstart.top + dstart.total / jnp.where(some, start.total, 1)
  dlse = jnp.where(some, dlse, 0)[..., None]
  moved = dvalues.astype(ds.dtype) + ds * values.astype(ds.dtype)
  sums, end = form.forward(
    _weights(s, start, first, (top, total)),
    jnp.concatenate([moved, ds], axis=-1),
    jnp.concatenate([_counting(dstart.out + dlse * start.out, start), dlse], axis=-1),
  )
  dlse, dend = sums[..., -1:], end[..., -1:]
  dout = sums[..., :-1] - dlse * out.astype(ds.dtype)
  dtotal = dlse[..., 0] * total
  dlast = end[..., :-1] - dend * last
  return dout.astype(out.dtype), jnp.zeros_like(top), dtotal, dlast


def _transposed(form, x, first, y, cotangents, wanted):
  del wanted
  (s, values, start), (out, top, total, last) = x, y
  g, _, dtotal, dlast = cotangents
  delta = (g.astype(total.dtype) * out.astype(total.dtype)).sum(axis=-1)
  delta = jnp.where(total > 0, delta - total * dtotal, 0)
  weights = _weights(s, start, first, (top, total))
  ds, dvalues, a, b = form.backward(
    weights, values, g, delta, dlast, (dlast * last).sum(axis=-1)
  )
  some = start.total > 0
  a = _counting(a, start)
  dlse = jnp.where(some, (start.out * a).sum(axis=-1) - b, 0)
  dstart = State(dlse, dlse / jnp.where(some, start.total, 1), a)
  return jnp.where(s > -jnp.inf, ds, 0), dvalues, dstart
