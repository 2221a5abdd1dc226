"""Dropout of weights: 0 or 1 / (1 - rate), by a hash of (key, batch, head, q, k)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt


def keep(seed, q, k, rate: float) -> Float[Array, "..."]:
  """Returns 0 or 1 / (1 - rate) for element (q, k) of a seed's infinite random matrix.

  It does not depend on tile, device, implementation or pass. The hash is the finalizer
  of MurmurHash3 (Austin Appleby, public domain), once over the row and once over the
  element.
  """
  row = _mixed(seed ^ (q.astype(jnp.uint32) * np.uint32(0x9E3779B1)))
  bits = _mixed(row ^ (k.astype(jnp.uint32) * np.uint32(0x85EBCA77)))
  # The upper 24 bits as a float: unsigned comparisons are rare on TPUs.
  uniform = (bits >> np.uint32(8)).astype(jnp.int32).astype(jnp.float32)
  return jnp.where(
    uniform >= np.float32(rate * 2**24), np.float32(1 / (1 - rate)), np.float32(0)
  )


def seeds(key: Array, B: int, N: int) -> UInt[Array, "B N"]:
  """Returns the dropout's seed of each batch entry and head."""
  return jax.random.bits(key, (B, N), jnp.uint32)


def _mixed(x):
  x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
  return x ^ (x >> np.uint32(16))
