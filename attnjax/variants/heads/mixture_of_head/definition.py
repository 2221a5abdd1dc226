"""The definition: gates from their formula, and a (T, S) matrix for every head."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import definition


def reference(
  q,
  k,
  v,
  routed,
  shared=None,
  balance=None,
  top_k=1,
  quantised=False,
  capacity=0.0,
  return_loss=False,
  *,
  bias=None,
  scale=None,
  **mask,
):
  """Computes the definition: all heads for all tokens, then the gates."""
  (B, T, N), R, ids = q.shape[:3], routed.shape[2], mask.get("segment_ids")
  real = jnp.ones((B, T), bool)
  if ids is not None:
    real = jnp.broadcast_to(jnp.atleast_2d(ids) >= 0, (B, T))
  logits: list[Any] = []
  for x in (routed, shared, balance):
    x = None if x is None else definition.wide(x)
    logits.append(None if x is None else jnp.where(real[..., None], x, 0))
  routed, shared, balance = logits
  p = jax.nn.softmax(routed, axis=-1)
  chosen = definition.best(p, jnp.ones(p.shape, bool), top_k)
  last = p * chosen * top_k
  if R:
    last = last / jnp.sum(p * chosen, axis=-1, keepdims=True)
  if quantised:
    last = chosen * (1 + p - jax.lax.stop_gradient(p))
  if capacity and R:
    last = last * _in_time(chosen & real[..., None], capacity * top_k / R)
  first = jnp.ones((B, T, N - R), p.dtype)
  if shared is not None:
    first = (N - R) * jax.nn.softmax(shared, axis=-1)
  if balance is not None:
    weight = 2 * jax.nn.softmax(balance, axis=-1)
    first, last = first * weight[..., 0, None], last * weight[..., 1, None]
  seen = definition.visible(T, k.shape[1], **mask)
  out, _ = definition.attention(q, k, definition.wide(v), seen, bias=bias, scale=scale)
  gate = jnp.concatenate([first, last], axis=-1)
  out = (out * gate[..., None]).astype(v.dtype)
  if not return_loss:
    return out
  mean = real / jnp.maximum(real.sum(), 1)
  P, f = (jnp.einsum("bt,btr->r", mean, x) for x in (p, chosen))
  return out, R * (P * f).sum()


def _in_time(chosen, share):
  """Returns which tokens are among the first ceil(share n) that chose a head."""
  B, T, _ = chosen.shape
  most = np.ceil(share * np.arange(T + 1) - 1e-9)
  number = chosen.any(axis=2).sum(axis=1)
  before = jnp.arange(T)[:, None] > jnp.arange(T)  # (T, earlier)
  earlier = jnp.einsum("ts,bsr->btr", before.astype(int), chosen.astype(int))
  return chosen & (earlier < jnp.asarray(most)[number][:, None, None])
