"""The definitions: a (T, S) matrix of weights for every head."""

import jax.numpy as jnp

from attnjax.core import definition
from attnjax.variants.recurrent import aaren


def reference(
  q,
  k,
  v,
  initial=None,
  *,
  causal=False,
  segment_ids=None,
  scale=None,
  normalise="common",
  chunk=None,
  return_state=False,
):
  """Computes the definition of `taylor_attention`, each order's sums apart."""
  del chunk
  (B, T), S, H = q.shape[:2], k.shape[1], q.shape[3]
  scale = H**-0.5 if scale is None else scale
  seen, document = jnp.ones((1, 1, T, S), bool), None
  if segment_ids is not None:
    document = definition.documents(segment_ids, None, (B, T))
    real = document >= 0
    seen = ((document[:, :, None] == document[:, None]) & real[:, None])[:, None]
    q, k, v = (jnp.where(real[..., None, None], x, 0) for x in (q, k, v))
  if causal:
    seen = seen & (jnp.arange(S) <= jnp.arange(T)[:, None])
  q, key, value = (definition.wide(x) for x in (q, k, v))
  first = jnp.ones((B, T), bool) if document is None else document == 0
  x = scale * jnp.einsum("btnh,bsnh->bnts", q, key)
  tops, totals = [], []
  for order, weight in enumerate((jnp.ones_like(x), x, 0.5 * x**2)):
    weight = jnp.where(seen, weight, 0)
    top = jnp.einsum("bnts,bsnv->btnv", weight, value)
    total = weight.sum(-1).swapaxes(1, 2)[..., None]
    if initial is not None:
      past = first[..., None, None] * _past(order, scale * q, initial)
      top, total = top + past[..., :-1], total + past[..., -1:]
    tops.append(top)
    totals.append(total)
  if normalise == "common":
    tops, totals = [sum(tops)], [sum(totals)]
  parts = [
    jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b)) for a, b in zip(tops, totals)
  ]
  out = jnp.stack(parts).sum(0).astype(v.dtype)
  return (out, _last(key, value, document, initial)) if return_state else out


def _past(order, q, state):
  """Returns what queries read of an order of the initial state."""
  H = q.shape[3]
  if order == 0:
    return jnp.broadcast_to(state[:, None, :, 0], (*q.shape[:3], state.shape[3]))
  if order == 1:
    return jnp.einsum("btnh,bnhe->btne", q, state[:, :, 1 : 1 + H])
  square = state[:, :, 1 + H :].reshape(*state.shape[:2], H, H, state.shape[3])
  return 0.5 * jnp.einsum("btng,btnh,bnghe->btne", q, q, square)


def _last(k, v, document, initial):
  """Returns the sums over the last document, with the initial state if it is one."""
  B, S, N, H = k.shape
  last = jnp.ones((B, S), v.dtype)
  goes_on = jnp.ones((B,), bool)
  if document is not None:
    newest = document.max(axis=1, keepdims=True)
    last = ((document == newest) & (document >= 0)).astype(v.dtype)
    goes_on = newest[:, 0] <= 0
  v = jnp.concatenate([v, jnp.ones((B, S, N, 1), v.dtype)], axis=-1)
  zero = jnp.einsum("bs,bsne->bne", last, v)[:, :, None]
  one = jnp.einsum("bs,bsnh,bsne->bnhe", last, k, v)
  two = jnp.einsum("bs,bsng,bsnh,bsne->bnghe", last, k, k, v)
  state = jnp.concatenate([zero, one, two.reshape(B, N, H * H, -1)], axis=2)
  if initial is None:
    return state
  return state + jnp.where(goes_on[:, None, None, None], initial, 0)


def reference_gated_mean_attention(
  q, k, v, initial=None, segment_ids=None, return_state=False
):
  """Computes the definition of `gated_mean_attention`, by that of Aaren."""
  gated = definition.wide(q) * definition.wide(k)
  if segment_ids is not None:
    gated = jnp.where((segment_ids >= 0)[..., None, None], gated, 0)
  given = {"segment_ids": segment_ids, "return_state": return_state}
  return aaren.reference(jnp.ones(q.shape[2:]), gated, v, initial, **given)


def reference_fixed_qk_attention(q, k, v, segment_ids=None):
  """Computes the definition of `fixed_qk_attention`: entries of a map by place."""
  B, T = v.shape[:2]
  document = jnp.zeros((B, T), jnp.int32)
  if segment_ids is not None:
    document = definition.documents(segment_ids, None, (B, T))
    v = jnp.where((document >= 0)[..., None, None], v, 0)
  same = (document[:, :, None] == document[:, None]) & (document >= 0)[:, None]
  place = jnp.where(document >= 0, jnp.arange(T) - same.argmax(axis=2), 0)
  scores = jnp.einsum("bqnh,bknh->nqk", definition.wide(q), definition.wide(k))
  scores = (scores * q.shape[3] ** -0.5)[:, place[:, :, None], place[:, None]]
  seen = (same & (jnp.arange(T) <= jnp.arange(T)[:, None]))[:, None]
  weight, _ = definition.weights(jnp.moveaxis(scores, 0, 1), seen)
  out = jnp.einsum("bnts,bsnv->btnv", weight, definition.wide(v))
  return out.astype(v.dtype)
