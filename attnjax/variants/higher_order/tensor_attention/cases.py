"""Small problems of the system's functions."""

from typing import Any

import jax
import jax.numpy as jnp

from attnjax.contract import Case


def _shapes(B, T, S, N, K, H, V):
  k, v = (B, S, K, H), (B, S, K, V)
  return {"q": (B, T, N, H), "k1": k, "k2": k, "v1": v, "v2": v}


def _packed(_):
  return jnp.array([[4] * 27 + [-1] * 3 + [1] * 33, [-1] * 2 + [2] * 61])


def _some_keys(key):
  return jax.random.bernoulli(key, 0.7, (2, 65)).at[0].set(False)  # rows of nothing


def _two_documents(_):
  return jnp.array([[1, 1, 1, 5, 5, -1, 5]])


def _most_keys(key):
  return jax.random.bernoulli(key, 0.7, (1, 19)).at[0, :4].set(False)


def _streams(B, T, N, K, H, P):
  def make(key) -> dict[str, Any]:
    k, v = jax.random.normal(key, (2, P, B, T, K, H))
    return {"keys": tuple(k), "values": tuple(v)}

  return {"q": (B, T, N, H)}, make


def _order(name, B, T, N, K, H, P, **options):
  shapes, make = _streams(B, T, N, K, H, P)
  return Case(name, shapes, options, make, "attend_order")


CASES = (
  Case(
    "packed",
    _shapes(2, 63, 63, 4, 2, 4, 3),
    {"causal": True, "segment_ids": _packed, "return_lse": True},
  ),
  Case(
    "determinants",
    _shapes(2, 1, 65, 2, 1, 6, 5),
    {"kind": "determinant", "mask": _some_keys, "scale": 0.4}
    | {"causal": True, "window": (30, 5)},
  ),
  Case(
    "polynomial",
    _shapes(1, 17, 19, 2, 1, 2, 3),
    {"degree": 3, "bound": 4.0, "causal": True, "mask": _most_keys},
    function="attend_polynomial",
  ),
  _order(
    "four",
    *(1, 7, 2, 1, 4, 3),
    causal=True,
    window=(3, None, 2),
    segment_ids=_two_documents,
  ),
)


def _long(name, **options):
  """Returns a function of T: a problem of 4 heads of 16 elements."""
  return lambda T: Case(name, _shapes(1, T, T, 4, 4, 16, 16), options)


def _polynomial(T):
  options = {"degree": 2, "bound": 2.0, "causal": True}
  shapes = _shapes(1, T, T, 4, 4, 16, 16)
  return Case("polynomial", shapes, options, function="attend_polynomial")


# Name -> (the power of T that the work grows with, the problem of T tokens).
CURVES = {
  "all pairs": (3.0, _long("all_pairs", causal=True)),
  "windows": (1.0, _long("windows", causal=True, window=(32, 128))),
  "polynomial": (1.0, _polynomial),
}
