"""The arguments of `dot_product_attention`, checked and as a `Scores`."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from attnjax.core import captured
from attnjax.core import scores as scores_of
from attnjax.core.masks import And, Causal, Dense, Lengths, Mask, Window
from attnjax.core.scores import Scores


def four_axes(query, key, value):
  """(the batch axes, then query, key and value with one batch axis)."""
  lead = query.shape[:-3]
  for name, x in (("query", query), ("key", key), ("value", value)):
    if x.ndim < 3 or x.shape[:-3] != lead:
      raise ValueError(
        f"{name} has the shape {x.shape}; it must be (*B, T, N, H) with *B = {lead}"
      )
  return lead, *(x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))


def mask(given, shape, causal: bool, window) -> Mask:
  """The mask from an array or a Mask, causality and a local window."""
  parts: tuple[Mask, ...] = (Causal(),) if causal else ()
  if window is not None:
    left, right = (window, window) if isinstance(window, int) else window
    parts += (Window(left, right),)
  if isinstance(given, Mask):
    given.check(shape)
    parts += given.conjuncts()
  elif given is not None:
    array = jnp.asarray(given)
    if array.dtype != bool:
      raise ValueError(f"mask has the type {array.dtype}; it must be boolean")
    parts += (Dense(broadcastable("mask", array, shape)),)
  return And(parts)


def lengths(what: Scores, shape, queries, keys) -> Mask:
  """The mask of per-example numbers of queries and of keys, int (B,)."""
  B, _, *sizes = shape
  parts: list[Mask] = []
  for axis, (name, number) in enumerate(
    (("query_seq_lengths", queries), ("key_value_seq_lengths", keys))
  ):
    if number is None:
      continue
    if number.shape != (B,) or not jnp.issubdtype(number.dtype, jnp.integer):
      raise ValueError(
        f"{name} is {number.dtype} {number.shape}; it must be integers, ({B},)"
      )
    if (what.query_positions, what.key_positions)[axis] is None:
      last = number + what.start[axis]
      parts.append(Lengths(queries=last) if axis == 0 else Lengths(keys=last))
    else:  # lengths count places, whatever the positions there are
      inside = jnp.arange(sizes[axis]) < number[:, None]
      ends = (slice(None), None, slice(None), None)
      parts.append(Dense(inside[ends] if axis == 0 else inside[:, None, None, :]))
  return And(tuple(parts))


def bias(given, shape):
  """The bias with four axes, or None."""
  if given is None:
    return None
  array = jnp.asarray(given)
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise ValueError(f"bias has the type {array.dtype}; it must be floating point")
  return broadcastable("bias", array, shape)


def broadcastable(name, array, shape):
  """`array` with four axes that broadcast to (B, N, T, S)."""
  if array.ndim > 4:
    raise ValueError(f"{name} has the shape {array.shape}; it may have four axes")
  array = array.reshape((1,) * (4 - array.ndim) + array.shape)
  if not all(a in (1, w) for a, w in zip(array.shape, shape)):
    raise ValueError(f"{name} {array.shape} does not broadcast to (B, N, T, S) {shape}")
  return array


def positioned(shape, queries, keys, aligned: int, *, softcap, **given) -> Scores:
  """Scores with the positions of queries and keys."""
  if not softcap >= 0:
    raise ValueError(f"softcap = {softcap}; it must be 0 (none) or more")
  B, _, T, S = shape
  aligned = aligned if queries is None else 0
  first, query = _positions("query_positions", queries, B, T, aligned)
  start, key = _positions("key_positions", keys, B, S, 0)
  return Scores(
    query_positions=query,
    key_positions=key,
    start=(first, start),
    softcap=float(softcap),
    **given,
  )


def _positions(name, given, B, length, default):
  """(what positions begin with, None), or (0, their array (B|1, length))."""
  if given is None or isinstance(given, int | np.integer):
    return int(default if given is None else given), None
  if given.ndim <= 1 and given.shape in ((), (1,), (B,)):
    given = given.reshape(-1, 1) + jnp.arange(length)
  if given.ndim != 2 or given.shape[0] not in (1, B) or given.shape[1] != length:
    raise ValueError(
      f"{name} has the shape {given.shape}; it must be (), ({B},) or ({B}|1, {length})"
    )
  return 0, given.astype(jnp.int32)


def with_function(what: Scores, function: Callable, dtype) -> Scores:
  """The scores with a function of one's own."""
  traced, consts = captured.trace(function, dtype)
  return dataclasses.replace(what, function=traced, consts=tuple(consts))


def with_dropout(what: Scores, shape, key, rate: float, broadcast: bool) -> Scores:
  """The scores with a dropout of the weights."""
  if not 0 <= rate < 1:
    raise ValueError(f"dropout_rate = {rate}; it must be in [0, 1)")
  if key is None:
    raise ValueError(f"dropout_rate = {rate} needs a dropout_rng, a random key")
  seeds = scores_of.seeds(key, *((1, 1) if broadcast else shape[:2]))
  seeds = jnp.broadcast_to(seeds, shape[:2])
  return dataclasses.replace(what, seeds=seeds, rate=float(rate))
