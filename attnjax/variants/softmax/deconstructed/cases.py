"""Small problems of the three functions."""

import jax
import jax.numpy as jnp

from attnjax.contract import Case


def _shapes(B, T, N, H, V):
  return {"q": (B, T, N, H), "k": (B, T, N, H), "v": (B, T, N, V)}


def _packed(key):
  del key
  return jnp.array([[4] * 7 + [-1] * 2 + [4] * 3 + [1] * 9, [-1] * 3 + [2] * 18])


def _moments(B, N, H, V):
  """Makes a state, whose own denominators are those of some keys."""

  def make(key):
    keys, values = (jax.random.normal(k, (B, N, 3, n)) for k, n in _two(key, H, V))
    values = jnp.concatenate([values, jnp.ones((B, N, 3, 1))], axis=-1)
    square = (keys[..., None] * keys[..., None, :]).reshape(B, N, 3, -1)
    features = jnp.concatenate([jnp.ones((B, N, 3, 1)), keys, square], axis=-1)
    return {"initial": jnp.einsum("bnsf,bnse->bnfe", features, values)}

  return make


def _two(key, H, V):
  return zip(jax.random.split(key), (H, V))


_STATE = {"segment_ids": _packed, "return_state": True}
# Other lengths, all pairs without a mask, and more are held in the system's test.
TAYLOR, GATED = "taylor_attention", "gated_mean_attention"
CASES = (
  Case(
    "taylor_packed",
    _shapes(2, 21, 2, 4, 3),
    {"causal": True, "segment_ids": _packed, "scale": 0.4},
    function=TAYLOR,
  ),
  Case(
    "taylor_chunks",
    _shapes(2, 21, 1, 2, 3),
    _STATE | {"causal": True, "chunk": 5},
    _moments(2, 1, 2, 3),
    function=TAYLOR,
  ),
  Case(
    "gated",
    _shapes(2, 21, 2, 4, 3),
    {"segment_ids": _packed},
    function=GATED,
  ),
  Case(
    "fixed",
    {"q": (1, 9, 2, 4), "k": (1, 9, 2, 4), "v": (2, 7, 2, 3)},
    function="fixed_qk_attention",
  ),
  Case(
    "fixed_packed",
    {"q": (1, 24, 2, 4), "k": (1, 24, 2, 4), "v": (2, 21, 2, 3)},
    {"segment_ids": _packed},
    function="fixed_qk_attention",
  ),
)
REFUSED = {"pallas": ("taylor_chunks",), "triton": ("taylor_chunks",)}
