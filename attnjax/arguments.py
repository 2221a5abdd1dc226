"""The arguments of `dot_product_attention`, checked and turned into a `Scores`."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import dropout, score_function
from attnjax.core.masks import And, Causal, Dense, Mask, Window
from attnjax.core.masks.integers import asarray
from attnjax.core.scores import Scores


def four_axes(query, key, value, dtype=None):
  """Returns (the batch axes, then query, key and value with one batch axis)."""
  query, key, value = (jnp.asarray(x, dtype) for x in (query, key, value))
  lead = query.shape[:-3]
  for name, x in (("query", query), ("key", key), ("value", value)):
    if x.ndim < 3 or x.shape[:-3] != lead:
      raise ValueError(
        f"{name} has the shape {x.shape}; it must be (*B, T, N, H) with *B = {lead}"
      )
  return lead, *(x.reshape(math.prod(lead), *x.shape[-3:]) for x in (query, key, value))


def mask(given, shape, lead, causal: bool, window) -> Mask:
  """Returns the conjunction of an array or a Mask, causality and a local window."""
  parts: tuple[Mask, ...] = (Causal(),) if causal else ()
  if window is not None:
    parts += (Window(*_ends(window)),)
  if isinstance(given, Mask):
    given.check(shape)
    parts += given.conjuncts()
  elif given is not None:
    parts += (Dense(broadcastable("mask", _nonzero(given), shape, lead)),)
  return And(parts)


def _ends(window):
  """Returns (left, right) from one number, traced or not, or from two."""
  if not isinstance(window, tuple | list) and not np.ndim(window):
    return window, window
  if len(window) != 2:
    raise ValueError(f"local_window_size = {window}; it must be w or (left, right)")
  return tuple(window)


def _nonzero(given):
  """Returns the mask of elements other than 0, as flax and `astype(bool)` have it."""
  array = jnp.asarray(given)
  if array.dtype == bool:
    return array
  if not isinstance(array, jax.core.Tracer) and bool((array < 0).any()):
    raise ValueError(
      f"mask has the type {array.dtype} and numbers below 0: a mask is 0 where nothing"
      " is seen; what is to be added to the scores is a bias"
    )
  return array != 0


def bias(given, shape, lead):
  """Returns the bias with four axes, or None."""
  return None if given is None else _floats("bias", given, shape, lead)


def _floats(name, given, shape, lead=()):
  array = jnp.asarray(given)
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise ValueError(f"{name} has the type {array.dtype}; it must be floating point")
  return broadcastable(name, array, shape, lead)


def broadcastable(name, array, shape, lead=()):
  """Returns `array` with four axes that broadcast to (B, N, T, S).

  With several batch axes `lead` the array may have them all, or one of their product B.
  """
  given, axes = array.shape, max(1, len(lead))
  array = array.reshape((1,) * (3 - array.ndim) + array.shape)
  own, rest = array.shape[:-3], array.shape[-3:]
  if len(lead) > 1 and own != shape[:1] and len(own) <= axes:
    own = (1,) * (axes - len(own)) + own
    if all(a in (1, w) for a, w in zip(own, lead)) and any(a != 1 for a in own):
      array = jnp.broadcast_to(array.reshape(*own, *rest), (*lead, *rest))
      own = shape[:1]
  if len(own) > 1 and all(a == 1 for a in own):
    own = (1,)
  if len(own) > 1:
    raise ValueError(f"{name} has the shape {given}; it may have {axes + 3} axes")
  whole = (*own, *rest) if own else (1, *rest)
  if not all(a in (1, w) for a, w in zip(whole, shape)):
    raise ValueError(f"{name} {given} does not broadcast to (B, N, T, S) {shape}")
  return array.reshape(whole)


def number(name, given, shape, lead=()):
  """Returns a float, or an array with four axes that broadcast to (B, N, T, S)."""
  if isinstance(given, int | float | np.number):
    return float(given)
  array = asarray(given)
  if not array.ndim and not isinstance(array, jax.core.Tracer):
    return float(array)
  if 0 < array.ndim < 3:
    raise ValueError(
      f"{name} has the shape {array.shape}; it must be a number, or (N|1, T|1, S|1)"
    )
  if not jnp.issubdtype(array.dtype, jnp.floating):
    array = array.astype(jnp.float32)
  return _floats(name, array, shape, lead)


def softcap(given, shape, lead=()):
  """Returns the cap as `number` does; raises ValueError for a negative one."""
  cap = number("softcap", given, shape, lead)
  if isinstance(cap, float) and not cap >= 0:
    raise ValueError(f"softcap = {cap}; it must be 0 (none) or more")
  return cap


def scaled(what: Scores, scale, q, k) -> tuple[Scores, float]:
  """Returns (scores, a float): a scale that is an array becomes the scores' factor."""
  H = q.shape[-1]
  if scale is None:
    return what, H**-0.5 if H else 1.0
  shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
  scale = number("scale", scale, shape)
  if isinstance(scale, float):
    return what, scale
  return what.times(scale), 1.0


def nothing(q, k, v, scores, reference, *, sinks, scale):
  """Returns (out, lse) for empty axes; without keys they are 0 and -inf, or the sink.

  Without features all scores are 0: an empty H is computed as one feature that is 0.
  """
  (B, T, N, H), (S, _, V) = q.shape, v.shape[1:]
  if 0 in (B, T, N, S):
    out, wide = jnp.zeros((B, T, N, V), v.dtype), jnp.promote_types(q.dtype, "f4")
    lse = jnp.full((B, T, N), -jnp.inf, wide) if sinks is None else sinks.astype(wide)
    return out, jnp.broadcast_to(lse, (B, T, N))
  q, k, v = (
    x if size else jnp.zeros((*x.shape[:3], 1), x.dtype)
    for x, size in ((q, H), (k, H), (v, V))
  )
  out, lse = reference(q, k, v, scores, sinks=sinks, scale=scale)
  return out[..., :V], lse


def with_function(what: Scores, function: Callable, dtype) -> Scores:
  """Returns the scores with a custom score function."""
  traced, consts = score_function.trace(function, dtype)
  return dataclasses.replace(what, function=traced, consts=tuple(consts))


def with_dropout(what: Scores, shape, key, rate: float, broadcast: bool) -> Scores:
  """Returns the scores with dropout of the weights."""
  if not 0 <= rate < 1:
    raise ValueError(f"dropout_rate = {rate}; it must be in [0, 1)")
  if key is None:
    raise ValueError(f"dropout_rate = {rate} needs a dropout_rng, a random key")
  seeds = dropout.seeds(key, *((1, 1) if broadcast else shape[:2]))
  seeds = jnp.broadcast_to(seeds, shape[:2])
  return dataclasses.replace(what, seeds=seeds, rate=float(rate))


def precision(given) -> str | None:
  """Returns the name of a default precision in JAX; of a pair, the more precise one.

  Raises:
    ValueError: if `jax.lax.dot` does not take it.
    NotImplementedError: for algorithms that cannot be a default.
  """
  match given:
    case None:
      return None
    case (one, two):
      return max(map(jax.lax.Precision, (one, two)), key=lambda p: p.value).name.lower()
    case jax.lax.DotAlgorithmPreset():
      return given.name
    case str() if given in jax.lax.DotAlgorithmPreset.__members__:
      return given
    case str() | jax.lax.Precision():
      return jax.lax.Precision(given).name.lower()
  raise NotImplementedError(
    f"precision {given!r}; it must be a name, a jax.lax.Precision, two of them, or a"
    " jax.lax.DotAlgorithmPreset"
  )
