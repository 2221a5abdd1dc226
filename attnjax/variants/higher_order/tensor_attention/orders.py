"""Attention of any order: a softmax over tuples of keys, one of each stream."""

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import check_known
from attnjax.core import definition, devices, masks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores
from attnjax.variants.higher_order.tensor_attention import sight
from attnjax.variants.higher_order.tensor_attention.attention import (
  IMPLEMENTATIONS,
  attend,
)
from attnjax.variants.higher_order.tensor_attention.sight import Seen


def attend_order(
  q: Float[Array, "B T N H"],
  keys: Sequence[Float[Array, "B S K H"]],
  values: Sequence[Float[Array, "B S K V"]],
  *,
  scale: float | None = None,
  return_lse: bool = False,
  impl: str = "auto",
  **seen: Unpack[Seen],
) -> Any:
  """Computes attention of order P + 1 over P streams of keys and values, (B, T, N, V).

  One stream is softmax attention, two are `attend`. Of more, each key of the first in
  turn multiplies the queries of attention of one order less, O(S) calls that hold
  O(T) each; gradients keep the sums after each of them, O(S T).

  Args:
    q: queries.
    keys: of each stream; K divides N.
    values: of each stream.
    scale: of the scores; H^-0.5 if None.
    return_lse: also return the log of the softmax's denominator, (B, T, N).
    impl: as in `attend`, which computes the last two streams.
    **seen: as in `attend`; `window` has one entry a stream.

  Raises:
    ValueError: if shapes do not fit, or there are no streams.
    NotImplementedError: if the named implementation does not support the problem.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if not keys or len(keys) != len(values):
    raise ValueError(f"{len(keys)} keys and {len(values)} values: one pair a stream")
  window = sight.windows(seen.get("window"), len(keys))
  scale = q.shape[3] ** -0.5 if scale is None else scale
  if impl == "reference":
    return reference_attend_order(q, keys, values, scale, return_lse, **seen)
  rest: dict[str, Any] = {n: x for n, x in seen.items() if n != "window"}
  rest |= {"scale": scale, "impl": impl}
  out, lse = _attend(q, tuple(keys), tuple(values), window, rest)
  return (out, lse) if return_lse else out


def _attend(q, keys, values, window, rest: dict[str, Any]):
  """Returns (out, lse) of streams with windows, 0 for none."""
  if len(keys) == 1:
    return _ordinary(q, keys[0], values[0], window[0], **rest)
  if len(keys) == 2:
    given = {"window": tuple(w or None for w in window), "return_lse": True}
    return attend(q, *keys, *values, **given, **rest)
  given = {n: x for n, x in rest.items() if n not in ("scale", "impl")}
  who, ids, offset = sight.of(q, keys[0], rest["scale"], window[:2], given)
  wide, group = accumulator_dtype(q), q.shape[2] // keys[0].shape[2]
  start: Any = who.offset if offset is None else offset
  place = start + jnp.arange(q.shape[1])
  query, *others = (x.astype(wide) for x in (q, *values[1:]))
  if ids is not None:
    query = jnp.where((ids[0] >= 0)[..., None, None], query, 0)

  @jax.checkpoint
  def step(carry, given):
    s, key, value, own = given
    shown = who.seen(place, s, 0)
    shown = jnp.ones(place.shape, bool) if shown is None else shown
    shown = shown[None] if ids is None else shown & (ids[0] == own) & (own >= 0)
    if own is not None:
      key, value = (jnp.where(own[..., None] >= 0, x, 0) for x in (key, value))
    key, value = (jnp.repeat(x, group, axis=1)[:, None] for x in (key, value))
    out, lse = _attend(query * key, keys[1:], others, window[1:], rest)
    lse = jnp.where(shown[..., None], lse, -jnp.inf)
    return _combined(carry, out * value, lse), None

  first = (x.swapaxes(0, 1).astype(wide) for x in (keys[0], values[0]))
  own = None if ids is None else ids[1].T[..., None]
  over = jnp.arange(keys[0].shape[1]), *first, own
  zero = jnp.zeros(q.shape[:3], wide)
  out = jnp.zeros((*q.shape[:3], values[0].shape[3]), wide)
  carry = devices.vary_like((out, zero - jnp.inf), q, keys, values, ids)
  (out, lse), _ = jax.lax.scan(step, carry, over)
  return out.astype(values[0].dtype), lse


def _combined(carry, out, lse):
  """Returns (out, lse) of two sets of tuples, each normalised by itself."""
  whole = jnp.logaddexp(*(_finite(x) for x in (carry[1], lse)))
  empty = jnp.isneginf(carry[1]) & jnp.isneginf(lse)
  shares = [
    jnp.where(jnp.isneginf(x), 0, jnp.exp(_finite(x) - whole)) for x in (carry[1], lse)
  ]
  out = carry[0] * shares[0][..., None] + out * shares[1][..., None]
  return out, jnp.where(empty, -jnp.inf, whole)


def _finite(lse):
  """Returns lse with the least number in the place of -inf, which has no gradient."""
  return jnp.where(jnp.isneginf(lse), jnp.finfo(lse.dtype).min, lse)


def _ordinary(
  q, k, v, window, *, scale, impl, causal=False, offset=None, mask=None, **ids
):
  """Returns (out, lse) of softmax attention."""
  (B, T, N, _), S = q.shape, k.shape[1]
  found = sight.segments((B, T, S), mask=mask, **ids)
  own, others = (None, None) if found is None else found
  seen = masks.conjunction((B, N, T, S), False, None, own, others)
  if causal:
    seen = seen & masks.Causal()
  if window:
    seen = seen & masks.Window(window - 1, 0 if causal else window - 1)
  start = S - T if offset is None else offset
  scores = Scores(seen, query_positions=(start + jnp.arange(T, dtype=jnp.int32))[None])
  return attention.attend(q, k, v, scores, scale=scale, impl=impl)


def reference_attend_order(
  q, keys, values, scale=None, return_lse=False, window=None, **seen
):
  """Computes the definition: a softmax over all S^P tuples of keys of each query."""
  (B, T, N, H), (S, K) = q.shape, keys[0].shape[1:3]
  P = len(keys)
  score = definition.wide(q).swapaxes(1, 2)  # (B, N, T, S, ..., H)
  out, shown = None, jnp.ones((B, 1, T), bool)
  for n, (key, some) in enumerate(zip(keys, window or (None,) * P)):
    one = _visible((B, T, S), some, **seen)[:, None]
    shown = shown[..., None] & one.reshape(B, 1, T, *[1] * n, S)
    key = jnp.where(one.any(axis=2).reshape(B, S, 1, 1), definition.wide(key), 0)
    key = jnp.repeat(key, N // K, axis=2).swapaxes(1, 2)
    score = score[..., None, :] * key.reshape(B, N, 1, *[1] * n, S, H)
  score = score.sum(axis=-1) * (H**-0.5 if scale is None else scale)
  shown = jnp.broadcast_to(shown, score.shape).reshape(B, N, T, S**P)
  weight, lse = definition.weights(score.reshape(B, N, T, S**P), shown)
  out = weight.reshape(score.shape)[..., None]
  for n, (value, some) in reversed([*enumerate(zip(values, window or (None,) * P))]):
    one = _visible((B, T, S), some, **seen)
    value = jnp.where(one.any(axis=1)[..., None, None], definition.wide(value), 0)
    value = jnp.repeat(value, N // K, axis=2).swapaxes(1, 2)
    out = (out * value.reshape(B, N, 1, *[1] * n, S, -1)).sum(axis=-2)
  out = out.swapaxes(1, 2).astype(values[0].dtype)
  return (out, lse.swapaxes(1, 2)) if return_lse else out


def _visible(shape, window, mask=None, causal=False, offset=None, **ids):
  """Returns which queries see which keys of a stream, (B, T, S)."""
  B, T, S = shape
  seen = definition.visible(T, S, causal, offset, **ids)
  if mask is not None:
    seen = seen & jnp.atleast_2d(mask)[:, None, None]
  if window is not None:
    place = jnp.arange(T)[:, None] + (S - T if offset is None else offset)
    seen = seen & (abs(place - jnp.arange(S)) < window)
  return jnp.broadcast_to(seen[:, 0], shape)
