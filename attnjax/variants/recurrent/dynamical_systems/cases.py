"""Small problems on which all implementations agree."""

import jax
import jax.numpy as jnp

from attnjax.contract import Case
from pallas_kernels.calling import BACKENDS


def _shapes(B, T, N, H, E, write=None, read=None, skip=None, state=False):
  """Returns the arrays' shapes, 1 on broadcast axes, without the decay of `_decay`."""
  shapes = {
    "v": (B, T, N, E),
    "write": write or (B, T, N, H, E),
    "read": read or (B, T, N, H, 1),
  }
  shapes |= {"skip": skip} if skip else {}
  return shapes | ({"initial_state": (B, N, H, E)} if state else {})


def _decay(*shape):
  def make(key: jax.Array) -> dict[str, jax.Array]:
    return {"log_decay": -jax.random.uniform(key, shape)}

  return make


def _attention(B, T, N, H):
  def make(key: jax.Array) -> dict[str, jax.Array]:
    # Without decay outputs grow with T: small keys keep them near 1, where an absolute
    # error means something.
    write = 0.1 * jax.random.normal(key, (B, T, N, H, 1))
    return {"write": write, "log_decay": jnp.zeros((B, T, 1, 1, 1))}

  return make


def _packed(key):
  del key
  return jnp.repeat(jnp.array([[0, 1, -1], [3, 3, 5]]), 13, axis=1)


def _padded(key):
  del key
  return jnp.array([[0], [9]]) <= jnp.arange(37) % 30  # the second on both sides


_STATE = {"return_state": True}
CASES = (
  # SSD: one decay for each head, write and read shared by all heads.
  Case(
    "shared",
    _shapes(2, 65, 3, 4, 5, (2, 65, 1, 4, 1), (2, 65, 1, 4, 1), (1, 1, 3, 1)),
    _STATE,
    _decay(2, 65, 3, 1, 1),
  ),
  # S6: all axes matter but the heads.
  Case(
    "channels",
    _shapes(2, 40, 1, 4, 6, skip=(1, 1, 1, 6)),
    make=_decay(2, 40, 1, 4, 6),
  ),
  # Attention: no decay.
  Case(
    "attention",
    _shapes(1, 63, 2, 4, 3, (1, 63, 2, 4, 1), state=True),
    _STATE,
    _attention(1, 63, 2, 4),
  ),
  # RG-LRU: a state of one number for each channel.
  Case(
    "one_number",
    _shapes(1, 7, 1, 1, 8, read=(1, 7, 1, 1, 8), state=True),
    _STATE,
    _decay(1, 7, 1, 1, 8),
  ),
  Case("one_token", _shapes(1, 1, 1, 1, 1, state=True), make=_decay(1, 1, 1, 1, 1)),
  Case(
    "segments",
    _shapes(2, 39, 2, 2, 3, skip=(2, 39, 2, 3), state=True),
    _STATE | {"segment_ids": _packed},
    _decay(2, 39, 2, 2, 3),
  ),
  Case(
    "valid",
    _shapes(2, 37, 2, 2, 3, (2, 37, 1, 2, 1), state=True),
    _STATE | {"valid": _padded},
    _decay(2, 37, 2, 1, 1),
  ),
)
# A decay, a write or a read of each state element or channel: no kernel has it.
REFUSED = dict.fromkeys(BACKENDS, ("channels", "one_number", "segments"))
