"""Small problems of visual attention redistribution."""

import jax.numpy as jnp

from attnjax.contract import Case


def _shapes(B, T, S, N, K, H, V):
  return {"q": (B, T, N, H), "k": (B, S, K, H), "v": (B, S, K, V)}


def _at(shape, sinks, first, end):
  """Returns options: sinks, an image among the keys, and the queries after it."""
  B, T, S = shape

  def sink_mask(key):
    del key
    return jnp.zeros((B, S), bool).at[:, jnp.array(sinks, int)].set(True)

  def vis_mask(key):
    del key
    return jnp.broadcast_to((jnp.arange(S) >= first) & (jnp.arange(S) < end), (B, S))

  def query_mask(key):
    del key
    return jnp.broadcast_to(jnp.arange(S - T, S) >= end, (B, T))

  return {"sink_mask": sink_mask, "vis_mask": vis_mask, "query_mask": query_mask}


def _queries(key):
  del key
  return jnp.array([[1, 1, 1, 1, 5, 2, -1]])


def _keys(key):
  del key
  return jnp.array([[-1] * 3 + [1] * 40 + [2] * 20])


_LOOSE = {"rho": 0.4, "summ": 0.1}
CASES = (
  Case(
    "prompt",
    _shapes(2, 65, 65, 4, 2, 8, 8),
    _at((2, 65, 65), (0, 5, 9), 3, 40) | _LOOSE | {"causal": True},
  ),
  Case(
    "decoding",
    _shapes(2, 1, 65, 2, 1, 8, 5),
    _at((2, 1, 65), (0, 7, 30), 4, 40) | _LOOSE | {"causal": True, "p": 1.0},
  ),
  Case(
    "more_keys",
    _shapes(1, 7, 63, 3, 3, 4, 4) | {"bias": (1, 3, 7, 63)},
    _at((1, 7, 63), (2, 40), 1, 55)
    | {
      "causal": True,
      "rho": 0.5,
      "scale": 0.9,
      "segment_ids": _queries,
      "kv_segment_ids": _keys,
    },
  ),
)
