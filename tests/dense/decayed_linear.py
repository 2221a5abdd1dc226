"""The decayed linear attention kernels' passes, as products of whole matrices."""

import jax
import jax.numpy as jnp


def forward(q, k, v, log_decay, state, documents, *, scale, tiles):
  """Returns (out (B, T, N, E), the last state (B, N, H, E) float32)."""
  del tiles
  out, last = _outputs((q, k, v, log_decay, state), documents, scale)
  return out.astype(v.dtype), last


def backward(q, k, v, log_decay, state, documents, g, g_state, *, scale, tiles, decay):
  """Returns the gradients by q, k, v, the logs of decays and the first state."""
  del tiles
  B, T, N, H = q.shape
  if state is None:
    state = jnp.zeros((B, N, H, v.shape[3]), jnp.float32)
  if log_decay is not None:
    log_decay = jnp.broadcast_to(log_decay, (B, T, N))
  _, pull = jax.vjp(lambda *x: _outputs(x, documents, scale), q, k, v, log_decay, state)
  dq, dk, dv, slopes, first = pull((g.astype(jnp.float32), g_state))
  return dq, dk, dv, slopes if decay else None, first


def _outputs(x, documents, scale):
  q, k, v = (y.astype(jnp.float32) for y in x[:3])
  log_decay, state = x[3:]
  B, T, N, _ = q.shape
  k, v = (jnp.repeat(y, N // y.shape[2], axis=2) for y in (k, v))
  log_decay = jnp.zeros((B, T, N)) if log_decay is None else log_decay
  sums = jnp.cumsum(jnp.broadcast_to(log_decay, (B, T, N)), axis=1)
  if documents is None:
    documents = jnp.zeros((B, T), jnp.int32)
  seen = jnp.tril(documents[:, :, None] == documents[:, None])[..., None]
  apart = jnp.where(seen, sums[:, :, None] - sums[:, None], -jnp.inf)
  weight = jnp.exp(apart) * jnp.einsum("btnh,bsnh->btsn", q, k)
  out = jnp.einsum("btsn,bsne->btne", weight, v)
  last = jnp.einsum("bsn,bsnh,bsne->bnhe", jnp.exp(apart[:, -1]), k, v)
  if state is not None:
    kept = jnp.exp(sums) * (documents == documents[:, :1])[..., None]
    out += jnp.einsum("btn,btnh,bnhe->btne", kept, q, state)
    last += kept[:, -1, :, None, None] * state
  return scale * out, last
