"""The definition: all scores of all pairs, and one block after the other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import definition


def reference(q, k, v, *, tau=0.004, lengths=None, **options):
  """Computes the definition: attention with a (T, T) mask for each head."""
  T = q.shape[1]
  block_q, block_k = options.get("block_q", 64), options.get("block_k", 32)
  chosen = reference_select(q, k, tau=tau, lengths=lengths, **options)
  t = jnp.arange(T)
  seen = chosen[:, :, t // block_q][..., t // block_k] & (t <= t[:, None])
  return definition.attention(q, k, v, seen & _real(lengths, T))[0]


def reference_select(
  q,
  k,
  *,
  tau=0.004,
  lengths=None,
  block_q=64,
  block_k=32,
  local=128,
  segment=128,
  bits=4,
  granularity="token",
):
  """Computes the definition: weights relative to the mass of what is seen anyway."""
  q, k = (definition.wide(jax.lax.stop_gradient(x)) for x in (q, k))
  B, T, N, H = q.shape
  k = jnp.repeat(k, N // k.shape[2], axis=2)
  length = jnp.full((B,), T) if lengths is None else lengths
  sizes = block_q, block_k, local, segment
  anyway, candidate = _regions(T, length, *sizes)
  real, t = _real(lengths, T), jnp.arange(T)
  seen = anyway[:, :, t // block_q][..., t // block_k] & (t <= t[:, None]) & real
  (q0, q_mean), (k0, _) = (_centered(x, length) for x in (q, k))
  exact = jnp.einsum("btnh,bsnh->bnts", q, k0) / jnp.sqrt(H)
  most = jnp.where(seen, exact, -jnp.inf).max(axis=3, keepdims=True)
  most = jnp.where(most == -jnp.inf, 0, most)
  mass = jnp.where(seen, jnp.exp(exact - most), 0).sum(axis=3, keepdims=True)
  rough = _rough(q0, k0, q_mean, bits, granularity, block_k) / jnp.sqrt(H)
  share = jnp.exp(rough - most) / jnp.where(mass > 0, mass, 1)
  tau = jnp.broadcast_to(jnp.asarray(tau, q.dtype), (B, N))[..., None, None]
  large = ((share > tau) | (tau < 1e-5)) & real
  Q, S = anyway.shape[2:]
  return anyway | candidate & _any(large, Q, S, block_q, block_k)


def _real(lengths, T):
  """Returns which pairs of tokens are no padding, (B|1, 1, T, T)."""
  if lengths is None:
    return jnp.ones((1, 1, T, T), bool)
  real = jnp.arange(T) < lengths[:, None]
  return (real[:, :, None] & real[:, None])[:, None]


def _regions(T, lengths, block_q, block_k, local, segment):
  """Returns (blocks seen anyway, candidates), (B, 1, Q, S), going back from the end."""
  Q, S = -(-T // block_q), -(-T // block_k)
  first, last = jnp.arange(Q) * block_q, (jnp.arange(Q) + 1) * block_q
  last = jnp.minimum(last, lengths[:, None])
  last = jnp.where(first < lengths[:, None], last, 0)  # keys that a row block may see
  block, candidate = jnp.arange(S), []
  for count in range(T + 1):
    ends = -(-count // block_k)
    # The local window grows from `local` until the rest without the sink is whole.
    held = local // block_k
    while (ends - 1 - held) % (segment // block_k) and held < ends - 1:
      held += 1
    candidate.append((block >= 1) & (block < ends - held))
  candidate = jnp.stack(candidate)[last]
  inside = block * block_k < last[..., None]
  return (inside & ~candidate)[:, None], (inside & candidate)[:, None]


def _centered(x, lengths):
  """Returns tokens less their mean, 0 at padding, and the mean (B, 1, N, H)."""
  real = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None, None]
  total = jnp.where(real, x, 0).sum(axis=1, keepdims=True)
  mean = total / jnp.maximum(lengths, 1)[:, None, None, None]
  return jnp.where(real, x - mean, 0), mean


def _rough(q, k, q_mean, bits, granularity, block_k):
  """Returns the estimated scores q . k of centered tokens, (B, N, T, T)."""
  lost = jnp.einsum("bnh,bsnh->bns", q_mean[:, 0], k)[:, :, None]
  if bits == 32:
    return jnp.einsum("btnh,bsnh->bnts", q, k) + lost
  t, most = np.arange(q.shape[1]), 2 ** (bits - 1) - 1
  owner: Any = (t, t)
  if granularity == "group":
    owner = t // 16 * 8 + t % 8, t // block_k * 4 + t % 8 // 2
  scales, codes = [], []
  for x, group in zip((q, k), owner):
    together = group[:, None] == group
    size = jnp.abs(x).max(axis=3)[:, None]
    scale = jnp.where(together[..., None], size, 0).max(axis=2) / most
    scales.append(scale)
    codes.append(jnp.rint(x / jnp.where(scale > 0, scale, 1)[..., None]))
  product = jnp.einsum("btnh,bsnh->bnts", *codes)
  one, two = (x.swapaxes(1, 2) for x in scales)
  unit = one[..., None] * two[:, :, None]
  if granularity == "token":
    return unit * product + lost
  whole = jnp.rint(lost / jnp.where(unit > 0, unit, 1))
  return jnp.where(unit > 0, unit * (product + whole), lost)


def _any(large, Q, S, block_q, block_k):
  """Returns whether a block of pairs holds a large one, (B, N, Q, S)."""
  T = large.shape[3]
  rows = [
    jnp.stack(
      [
        large[:, :, i : i + block_q, j : j + block_k].any(axis=(2, 3))
        for j in range(0, T, block_k)
      ],
      axis=-1,
    )
    for i in range(0, T, block_q)
  ]
  return jnp.stack(rows, axis=2).reshape(*large.shape[:2], Q, S)
