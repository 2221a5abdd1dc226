"""The definition: the scores of all triples of tokens."""

import jax.numpy as jnp

from attnjax.core import definition


def reference(
  q,
  k1,
  k2,
  v1,
  v2,
  kind="trilinear",
  scale=None,
  return_lse=False,
  window=(None, None),
  **seen,
):
  """Computes the definition: a softmax over the (S, S) pairs of keys of each query."""
  (B, T, N, H), (S, K) = q.shape, k1.shape[1:3]
  visible = [_visible((B, T, S), w, **seen) for w in window or (None, None)]
  keys = []
  for x, some in zip((k1, k2, v1, v2), visible * 2):
    read = some.any(axis=1)[..., None, None]
    keys.append(jnp.repeat(jnp.where(read, definition.wide(x), 0), N // K, axis=2))
  k1, k2, *values = keys
  query = definition.wide(q)
  if kind == "trilinear":
    score = jnp.einsum("btnh,bjnh,blnh->bntjl", query, k1, k2)
  else:
    query, k1, k2 = (x.reshape(*x.shape[:3], H // 3, 3) for x in (query, k1, k2))
    # Determinants of the rows q, k1, k2.
    normal = jnp.cross(k1[:, :, None], k2[:, None])
    score = jnp.einsum("btnca,bjlnca->bntjl", query, normal)
  score = score * (H**-0.5 if scale is None else scale)
  both = visible[0][:, :, :, None] & visible[1][:, :, None]
  both = jnp.broadcast_to(both[:, None], score.shape).reshape(B, N, T, S * S)
  weight, lse = definition.weights(score.reshape(B, N, T, S * S), both)
  weight = weight.reshape(B, N, T, S, S)
  out = jnp.einsum("bntjl,bjnv,blnv->btnv", weight, *values).astype(v1.dtype)
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
