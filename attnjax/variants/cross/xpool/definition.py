"""X-Pool as the paper writes it: every pair's vector is stored, (I, Q, D)."""

import jax
import jax.numpy as jnp

from attnjax.core import definition


def reference_weigh(text, frames, weights, *, heads=1, valid=None):
  """Computes the share of each frame, (I, N, Q, F)."""
  frames = _without_padding(frames, valid)
  q = _norm(text, weights, 0) @ weights.query + weights.query_bias
  k = _norm(frames, weights, 0) @ weights.key + weights.key_bias
  q = q.reshape(*q.shape[:-1], heads, -1)
  k = k.reshape(*k.shape[:-1], heads, -1)
  score = jnp.einsum("qnh,ifnh->inqf", q, k) / jnp.sqrt(q.shape[-1])
  seen = True if valid is None else valid[:, None, None]
  return definition.weights(score, seen)[0]


def reference_pool(text, frames, weights, *, heads=1, valid=None):
  """Computes the vector of every pair: heads, their map, then the residual branch."""
  share = reference_weigh(text, frames, weights, heads=heads, valid=valid)
  clean = _without_padding(frames, valid)
  v = _norm(clean, weights, 0) @ weights.value + weights.value_bias
  v = v.reshape(*v.shape[:-1], heads, -1)
  pooled = jnp.einsum("inqf,ifnh->iqnh", share, v)
  pooled = pooled.reshape(*pooled.shape[:2], -1) @ weights.out + weights.out_bias
  pooled = _norm(pooled, weights, 1)
  branch = pooled @ weights.linear + weights.linear_bias
  return _norm(pooled + branch, weights, 2).astype(text.dtype)


def reference_similarity(text, frames, weights, *, heads=1, valid=None, tile=0):
  """Computes the cosine of each text and its own vector of each video, (Q, I)."""
  del tile  # all pairs are stored
  wide = definition.wide(text)
  pooled = reference_pool(wide, frames, weights, heads=heads, valid=valid)
  dot = (wide * pooled).sum(axis=-1)
  size = jnp.sqrt((wide**2).sum(axis=-1) * (pooled**2).sum(axis=-1))
  return (dot / jnp.where(size > 0, size, 1)).T


def reference_mean_pool(frames, *, valid=None):
  """Computes the mean of a video's frames, (I, D)."""
  clean = definition.wide(_without_padding(frames, valid))
  count = frames.shape[1] if valid is None else valid.sum(axis=1)[:, None]
  return (clean.sum(axis=1) / jnp.maximum(count, 1)).astype(frames.dtype)


def reference_top_k_pool(text, frames, keep_frames, *, valid=None):
  """Computes the sum of the frames with the largest products, (I, Q, D)."""
  clean = definition.wide(_without_padding(frames, valid))
  score = jnp.einsum("ifd,qd->iqf", clean, definition.wide(text))
  real = jnp.ones(frames.shape[:2], bool) if valid is None else valid
  real = jnp.broadcast_to(real[:, None], score.shape)
  chosen = definition.best(score, real, keep_frames)
  pooled = (chosen[..., None] * clean[:, None]).sum(axis=2)
  return pooled.astype(frames.dtype)


def reference_attention_pool(text, frames, *, temperature=0.01, valid=None):
  """Computes the mean of frames, weighed by a softmax of the products, (I, Q, D)."""
  clean = definition.wide(_without_padding(frames, valid))
  score = jnp.einsum("ifd,qd->iqf", clean, definition.wide(text)) / temperature
  seen = True if valid is None else valid[:, None]
  share = definition.weights(score, seen)[0]
  return jnp.einsum("iqf,ifd->iqd", share, clean).astype(frames.dtype)


def reference_clip_loss(similarity, log_scale):
  """Computes the mean cross entropy of rows and columns; the diagonal is right."""
  logits = definition.wide(similarity) * jnp.exp(log_scale)
  own = jnp.diagonal(logits)
  rows = jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)
  columns = jnp.mean(jax.nn.logsumexp(logits, axis=0) - own)
  return (rows + columns) / 2


def _norm(x, weights, number):
  x = definition.wide(x)
  x = x - x.mean(axis=-1, keepdims=True)
  x = x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
  return x * weights.norm_scale[number] + weights.norm_bias[number]


def _without_padding(frames, valid):
  return frames if valid is None else jnp.where(valid[..., None], frames, 0)
