"""Small problems of the functions."""

from typing import Any

import jax
import jax.numpy as jnp

from attnjax.contract import Case


def _numbers(p, mu):
  return lambda key: {"p": jnp.float32(p), "mu": jnp.float32(mu)}


def _packed(key):
  del key
  return jnp.array([[0] * 4 + [-1] * 2 + [3] * 7, [-1] * 3 + [2] * 10])


def _keys(key):
  del key
  return jnp.array([[-1] * 3 + [0] * 5 + [-1] + [0] * 6, [-1] * 15])


def _no_padding(key):
  del key
  return jnp.zeros((2, 4), jnp.int32)


def _twins(key):
  """Returns nodes of which two are equal: a token that occurs twice."""
  nodes = jax.random.normal(key, (2, 13, 2, 3))
  return {"nodes": nodes.at[:, 10].set(nodes[:, 8])} | _numbers(1.75, 0.1)(key)


def _graph(key):
  graph = jax.nn.softmax(jax.random.normal(key, (1, 1, 7, 7))).at[:, :, 2].set(0)
  return {"graph": graph} | _numbers(1.75, 0.3)(key)


_CROSS: Any = {"kind": "cross", "segment_ids": _no_padding, "kv_segment_ids": _keys}
CASES = (
  Case(
    "causal_twins",
    {"q": (2, 13, 2, 4), "k": (2, 13, 1, 4)},
    {"causal": True, "segment_ids": _packed, "scale": 0.3},
    _twins,
  ),
  Case(
    "pooled",
    {"q": (2, 4, 2, 4), "k": (2, 15, 2, 4)}
    | {"nodes": (2, 4, 2, 3), "rows": (2, 4, 2, 3)},
    _CROSS | {"pool": 4},
    _numbers(1.4, 0.0),
  ),
  Case("graph", {"nodes": (1, 7, 1, 2)}, {}, _graph, function="p_laplacian_step"),
  Case("windows", {"x": (2, 7, 3)}, {"size": 3}, function="adaptive_pool"),
)
