"""The definition: all (T, S) search scores, and a dense mask for each span."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import definition


def reference(
  q1,
  q2,
  k,
  v,
  top=3,
  window_index=3,
  backward=2.0,
  forward=0.0,
  search_power=0.5,
  span_power=0.5,
  segment_ids=None,
  offset=None,
):
  """Computes the definition: all (T, S) search scores, a dense mask for each span."""
  (B, T, N, _), (S, K) = q1.shape, k.shape[1:3]
  now, at = (S - T if offset is None else offset) + jnp.arange(T), jnp.arange(S)
  document = definition.documents(segment_ids, None, (B, S))
  own = document[:, now]
  q1, q2 = (jnp.where((own >= 0)[..., None, None], x, 0) for x in (q1, q2))
  k, v = (jnp.where((document >= 0)[..., None, None], x, 0) for x in (k, v))
  same = (own[..., None] == document[:, None]) & (document >= 0)[:, None]  # (B, T, S)
  begin = same.argmax(axis=2)
  window, anchors = _stripes(window_index, search_power, S)
  near = (at <= now[:, None]) & (at > now[:, None] - window)
  distance = now[:, None] - at
  left = same & (distance >= 0) & anchors[jnp.maximum(distance, 0)]
  left = jnp.broadcast_to(left[:, None], (B, N, T, S))
  key = definition.wide(jnp.repeat(k, N // K, axis=2))
  score = jnp.einsum("btnh,bsnh->bnts", definition.wide(q1), key)
  gates, outs = [], []
  back, ahead = (
    _reaches(S, factor, span_power)[jnp.maximum(now + 1 - begin, 0)][:, None]
    for factor in (backward, forward)
  )
  for _ in range(top):
    some = left.any(axis=3)  # (B, N, T)
    anchor = jnp.where(left, jax.lax.stop_gradient(score), -jnp.inf).argmax(axis=3)
    chosen = left & (at == anchor[..., None])
    left = left & ~chosen
    # Without a span there is the window; its weight beside other spans is 0.
    gates.append(jnp.where(some, (score * chosen).sum(axis=3), -1e9))
    start = jnp.maximum(anchor - back, begin[:, None])[..., None]
    end = jnp.minimum(anchor + ahead, now - window)[..., None]
    span = (at >= start) & (at <= end) & some[..., None]
    seen = (span | near) & same[:, None]
    outs.append(definition.attention(q2, k, definition.wide(v), seen)[0])
  gate = jax.nn.softmax(jnp.stack(gates), axis=0).swapaxes(2, 3)[..., None]
  return (gate * jnp.stack(outs)).sum(axis=0).astype(v.dtype)


def _stripes(window_index, power, S):
  """Returns the window's length, and whether a key at a distance is an anchor."""

  def stripe(i):
    return math.floor(i ** (1 / power) + 1e-9)

  i, anchors = window_index + 1, np.zeros(S, bool)
  while stripe(i) <= S:
    anchors[stripe(i) - 1] = True
    i += 1
  return stripe(window_index + 1) - 1 if window_index else 0, jnp.asarray(anchors)


def _reaches(S, factor, power):
  """Returns ceil(factor n^power) for n = 0, ..., S; the power is float32."""
  n = np.arange(S + 1, dtype=np.float32)
  reach = np.ceil(np.float32(factor) * n ** np.float32(power))
  return jnp.asarray(reach.astype(np.int32))
