"""The definition: weights of all pairs of blocks, and of all pairs of tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import definition
from attnjax.variants.sparse.rectified_sparse.pooled import Plan


def reference(
  q,
  k,
  v,
  block=128,
  mass=0.3,
  min_blocks=1,
  neighbours=None,
  text=0,
  first_blocks=0,
  valid=None,
  correction="both",
  gain_test=True,
  zero_tail=False,
  scale=None,
  return_plan=False,
):
  """Computes the definition: the (T, T) matrix of weights of all pairs of tokens."""
  (B, T, N, H), kind = q.shape, v.dtype
  scale, visual = H**-0.5 if scale is None else scale, T - text
  real = jnp.ones((B, T), bool) if valid is None else valid
  q, k, v = (jnp.where(real[..., None, None], definition.wide(x), 0) for x in (q, k, v))
  k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))
  own = np.arange(T) // block  # the block of a token
  member = (own == np.arange(-(-visual // block))[:, None]) & (np.arange(T) < visual)
  member = (member & real[:, None]).astype(q.dtype)  # (B, n, T)
  size = member.sum(axis=2)
  counted = jnp.full_like(size, block) if zero_tail else jnp.maximum(size, 1)
  probability, gain = _pooled(q, k, member, counted, real, visual, scale)
  filled = (size > 0)[:, None, None]
  first = np.arange(size.shape[1]) < first_blocks
  critical = _massive(probability, mass, min_blocks) | (first[:, None] & first)
  critical = (critical if neighbours is None else critical | neighbours) & filled
  rectified = filled & ~critical & (gain | (not gain_test))
  rest = jnp.where(rectified, probability[..., :-1], 0)
  factor = probability.sum(axis=3) - rest.sum(axis=3)
  addition = jnp.einsum("bnij,bnjv->bniv", rest, _means(v, member, counted))
  own = own[:visual]
  exact = jnp.ones((*critical.shape[:2], visual, T), bool)
  exact = exact.at[..., :visual].set(critical[:, :, own][..., own])
  seen = jnp.concatenate([exact, jnp.ones((B, N, text, T), bool)], axis=2)
  seen = seen & real[:, None, None] & real[:, None, :, None]
  out, _ = definition.attention(q, k, v, seen, scale=scale)
  first, last = out[:, :visual], out[:, visual:]
  if correction in ("both", "factor"):
    first = first * factor.swapaxes(1, 2)[:, own, :, None]
  if correction in ("both", "addition"):
    first = first + addition.swapaxes(1, 2)[:, own]
  out = jnp.concatenate([first, last], axis=1)
  out = jnp.where(real[..., None, None], out, 0).astype(kind)
  plan = Plan(probability, critical, rectified, factor, addition, gain)
  return (out, plan) if return_plan else out


def _means(x, member, counted):
  return jnp.einsum("bit,btnh->bnih", member, x) / counted[:, None, :, None]


def _pooled(q, k, member, counted, real, visual, scale):
  """Returns the probabilities (B, N, n, n + 1), the last the text's, and the gain."""
  query, key = _means(q, member, counted), _means(k, member, counted)
  score = jnp.einsum("bnih,bnjh->bnij", query, key)
  written = jnp.einsum("bnih,bsnh->bnis", query, k[:, visual:])
  scores = scale * jnp.concatenate([score, written], axis=3)
  scores = scores.at[..., : score.shape[3]].add(jnp.log(counted)[:, None, None])
  seen = jnp.concatenate([member.any(axis=2), real[:, visual:]], axis=1)[:, None, None]
  weight, _ = definition.weights(scores, seen)
  blocks, texts = jnp.split(weight, [score.shape[3]], axis=3)
  probability = jnp.concatenate([blocks, texts.sum(axis=3, keepdims=True)], axis=3)

  def spread(x, mean):
    """Returns the mean distance from the mean; what is counted as zeros is far too."""
    far = abs(x.swapaxes(1, 2)[:, :, None] - mean[:, :, :, None])  # (B, N, n, T, H)
    total = jnp.einsum("bit,bnith->bnih", member, far)
    zeros = jnp.maximum(counted - member.sum(axis=2), 0)[:, None, :, None]
    return (total + zeros * abs(mean)) / counted[:, None, :, None]

  error = abs(jnp.einsum("bnih,bnjh->bnij", spread(q, query), key))
  error = error + abs(jnp.einsum("bnih,bnjh->bnij", query, spread(k, key)))
  return probability, abs(score) > error


def _massive(probability, mass, least):
  """Returns whether a block is critical: those more probable do not pass the mass."""
  probability = jax.lax.stop_gradient(probability)
  place = np.arange(probability.shape[-1])
  one, other = probability[..., :, None], probability[..., None, :]
  ahead = (other > one) | (other == one) & (place < place[:, None])
  before = jnp.where(ahead, other, 0).sum(axis=-1)
  chosen = (before <= mass) | (ahead.sum(axis=-1) < least)
  return chosen[..., :-1]
