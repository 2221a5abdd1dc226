"""The passes of dynamic windows, with the logits and the values of all taps."""

import jax
import jax.numpy as jnp


def forward(q, keys, tap_bias, relative, v, *, window, tiles):
  """Returns (out, lse): see `pallas_kernels.dynamic_window`."""
  del tiles
  logits = _logits(q, keys, tap_bias, relative, window)
  lse = jax.nn.logsumexp(logits, axis=-1)
  near = _near(v.astype(jnp.float32), window)
  out = jnp.einsum("bhwgt,bhwtgc->bhwgc", jnp.exp(logits - lse[..., None]), near)
  return out.astype(v.dtype), lse


def backward(q, keys, tap_bias, relative, v, g, lse, delta, *, window, tiles):
  """Returns the gradients: see `pallas_kernels.dynamic_window`."""
  del tiles
  B, G, P, _ = keys.shape
  bias = jnp.broadcast_to(tap_bias, (B, G, P))
  relative = jnp.broadcast_to(relative, (B, *relative.shape))
  g, wide = g.astype(jnp.float32), v.astype(jnp.float32)
  logits, pull = jax.vjp(
    lambda q, k, b, r: _logits(q, k, b, r, window),
    q.astype(jnp.float32),
    keys,
    bias,
    relative,
  )
  near, back = jax.vjp(lambda v: _near(v, window), wide)
  weights = jnp.exp(logits - lse[..., None])
  change = jnp.einsum("bhwgc,bhwtgc->bhwgt", g, near) - delta[..., None]
  dq, *shared = pull(weights * change)
  (dv,) = back(jnp.einsum("bhwgt,bhwgc->bhwtgc", weights, g))
  return dq.astype(q.dtype), *shared, dv.astype(v.dtype)


def _first(length, window):
  """Returns the first pixel of each pixel's window on an axis."""
  return jnp.clip(jnp.arange(length) - window // 2, 0, length - window)


def _logits(q, keys, bias, relative, window):
  """Returns (B, H, W, G, k^2); bias and relative with a batch, or without."""
  _, H, W, G, _ = q.shape
  logits = jnp.einsum("bhwgd,bgtd->bhwgt", q.astype(jnp.float32), keys)
  places = [_first(n, window) - jnp.arange(n) + window - 1 for n in (H, W)]
  down, right = (x[:, None] + jnp.arange(window) for x in places)
  own = relative[..., down[:, None, :, None], right[None, :, None, :]]
  own = jnp.moveaxis(own, -5, -3).reshape(*own.shape[:-5], H, W, G, -1)
  bias = bias if bias.ndim == 1 else bias[:, None, None]
  return logits + own + bias


def _near(v, window):
  """Returns the values of all taps, (B, H, W, k^2, G, c)."""
  rows, columns = (
    _first(n, window)[:, None] + jnp.arange(window) for n in v.shape[1:3]
  )
  near = v[:, rows[:, None, :, None], columns[None, :, None, :]]
  return near.reshape(*near.shape[:3], -1, *near.shape[5:])
