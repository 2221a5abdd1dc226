"""The function, with derivatives, around any implementation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import derivatives
from attnjax.core.scan.state import LOWEST, State, combine, finite
from attnjax.core.softmax import wide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
  """The powers whose exponentials weigh values; LOWEST stands for -inf.

  Attributes:
    scores: (B, T, N), twice LOWEST where a token does not count.
    lse: (B, T, N).
    before: (B, T, N), lse of the token before; of the initial state at the first.
    first: int32, (B, T), where the token's document begins, -1 if it goes on from the
      initial state; None for one document.
  """

  scores: Any
  lse: Any
  before: Any
  first: Any


@dataclasses.dataclass(frozen=True)
class Form:
  """An implementation.

  Attributes:
    normaliser: (scores, before, initial (B, N), first) to lse.
    forward: (weights, values, start (B, N, E)) to out in the values' type and, wide,
      the last row of it.
    backward: (weights, values, g, delta, A (B, N, E), b (B, N)) to dscores and, in the
      values' type, dvalues, and (A, b) before the first token.
    tangent: raises, or None: then forward may be differentiated.
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
  """(out in the values' type, lse, the state after the last token), differentiable.

  Args:
    scores: s; -inf for a token that does not count.
    values: v.
    form: how, of `FORMS` for plain JAX.
    initial: the state before the first token; it belongs to the first document.
    segment_ids: a document is a run of equal ids; each starts from no tokens.

  Raises:
    ValueError: if shapes do not fit.
  """
  check(scores, values, initial)
  (B, _, N), E = scores.shape, values.shape[3]
  dtype = jnp.promote_types(wide(scores), wide(values))
  start = State.empty((B, N, E), dtype) if initial is None else initial
  s, before, start = (x.astype(dtype) for x in (scores, start.lse, start.out))
  first = None if segment_ids is None else beginnings(segment_ids)
  # Powers of small numbers keep their digits; no result depends on this shift.
  top = jax.lax.stop_gradient(jnp.maximum(s.max(axis=1), before))
  top = jnp.where(jnp.isfinite(top), top, 0)
  out, lse, last = derivatives.differentiable(
    functools.partial(_run, form),
    functools.partial(_tangent, form),
    functools.partial(_transposed, form),
  )((s - top[:, None], values, before - top, start), first)
  lse = finite(lse) + top[:, None]
  return out, lse, State(lse[:, -1], last)


def across(scores, values, axis: str, *, form: Form):
  """`prefix` of a sequence whose pieces, in order, lie along a mapped axis.

  Every piece scans its own tokens; the states, N (E + 1) numbers each, are gathered.
  To be called under `jax.shard_map` or `jax.vmap(axis_name=...)`.

  Returns:
    (out, lse) of this piece's tokens, and the state after this piece.
  """
  out, lse, own = prefix(scores, values, form=form)
  pieces = jax.lax.all_gather(own, axis)
  earlier = jnp.arange(pieces.lse.shape[0]) < jax.lax.axis_index(axis)
  lses = jnp.where(earlier[:, None, None], pieces.lse, -jnp.inf)
  before = State.empty(own.out.shape, own.out.dtype)
  for piece in range(lses.shape[0]):
    before = combine(before, State(lses[piece], pieces.out[piece]))
  wide_rows = State(lse, out.astype(own.out.dtype))
  rows = combine(jax.tree.map(lambda x: x[:, None], before), wide_rows)
  return rows.out.astype(out.dtype), rows.lse, combine(before, own)


def check(scores, values, initial=None) -> None:
  """Raises ValueError, naming the argument, if shapes do not fit."""
  if scores.ndim != 3 or not scores.shape[1]:
    raise ValueError(f"scores {scores.shape} must be (B, T, N) with T of at least 1")
  if values.ndim != 4 or values.shape[:3] != scores.shape:
    raise ValueError(f"values {values.shape} must be (B, T, N, E), B, T, N as scores")
  (B, _, N), E = scores.shape, values.shape[3]
  if initial is not None:
    if initial.lse.shape != (B, N):
      raise ValueError(f"initial.lse {initial.lse.shape} must be (B, N) = {(B, N)}")
    if initial.out.shape != (B, N, E):
      raise ValueError(f"initial.out {initial.out.shape} must be {(B, N, E)}")


def beginnings(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
  """Where each token's run of equal ids begins; -1 in the first run."""
  new = segment_ids[:, 1:] != segment_ids[:, :-1]
  place = jnp.arange(1, segment_ids.shape[1], dtype=jnp.int32)
  starts = jnp.where(new, place, -1)
  starts = jnp.pad(starts, ((0, 0), (1, 0)), constant_values=-1)
  return jax.lax.cummax(starts, axis=1)


def _weights(s, initial, first, lse) -> Weights:
  """The weights; lse is a function of the lowest scores, or its result."""
  s, initial = jnp.maximum(s, 2 * LOWEST), jnp.maximum(initial, LOWEST)
  lse = lse(s, initial, first) if callable(lse) else lse
  before = jnp.concatenate([initial[:, None], lse[:, :-1]], axis=1)
  return Weights(s, lse, before, first)


def _run(form, x, first):
  s, values, initial, start = x
  weights = _weights(s, initial, first, form.normaliser)
  start = jnp.where(initial[..., None] > LOWEST / 2, start, 0)
  out, last = form.forward(weights, values, start)
  return out, weights.lse, last


def _tangent(form, known, dx):
  """The weighted means of dv + ds v - ds out, and of ds."""
  if form.tangent is not None:
    return form.tangent()
  (s, values, initial, start), first, (out, lse, last) = known
  ds, dvalues, dinitial, dstart = dx
  ds, dinitial = (
    jnp.where(x > LOWEST / 2, dx, 0)[..., None]
    for x, dx in ((s, ds), (initial, dinitial))
  )
  moved = dvalues.astype(ds.dtype) + ds * values.astype(ds.dtype)
  sums, end = form.forward(
    _weights(s, initial, first, lse),
    jnp.concatenate([moved, ds], axis=-1),
    jnp.concatenate([dstart + dinitial * start, dinitial], axis=-1),
  )
  dlse, dend = sums[..., -1:], end[..., -1:]
  dout = sums[..., :-1] - dlse * out.astype(ds.dtype)
  return dout.astype(out.dtype), dlse[..., 0], end[..., :-1] - dend * last


def _transposed(form, known, cotangents):
  (s, values, initial, start), first, (out, lse, last) = known
  g, dlse, dlast = cotangents
  delta = (g.astype(dlse.dtype) * out.astype(dlse.dtype)).sum(axis=-1) - dlse
  delta = jnp.where(lse > LOWEST / 2, delta, 0)
  weights = _weights(s, initial, first, lse)
  ds, dvalues, a, b = form.backward(
    weights, values, g, delta, dlast, (dlast * last).sum(axis=-1)
  )
  some = initial > LOWEST / 2
  a = jnp.where(some[..., None], a, 0)
  dinitial = jnp.where(some, (start * a).sum(axis=-1) - b, 0)
  return jnp.where(s > LOWEST / 2, ds, 0), dvalues, dinitial, a
