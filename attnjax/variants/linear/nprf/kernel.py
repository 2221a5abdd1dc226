"""The two factors of a weight: features of queries and keys, exp(bias) of a lag.

w is (M, H) or (N, M, H), and None for features that need none.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core import random_features
from attnjax.core.softmax import wide

# Those that need w, and those of x alone.
FEATURES = (*random_features.KINDS, "elu", "relu")


def units(x: Float[Array, "*B N H"]) -> Float[Array, "*B N H"]:
  """X / |x|; a zero stays zero, with a finite gradient."""
  x = x.astype(wide(x))
  # Large enough for the gradient, its power -3/2, to be finite.
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


def of_queries(q: Float[Array, "*B N H"], w: Any, kind: str) -> Float[Array, "*B N F"]:
  """phi(q) up to a factor of each query, which cancels: its largest is 1."""
  if kind != "positive":
    return _plain(q, w, kind)
  exponent = random_features.logarithm(q, w)
  top = exponent.max(axis=-1, keepdims=True)
  return jnp.exp(exponent - jax.lax.stop_gradient(top))


def of_keys(
  k: Float[Array, "B *T N H"],
  w: Any,
  kind: str,
  shift: Float[Array, "B *T N"],
) -> Float[Array, "B *T N F"]:
  """phi(k), for positive features divided by exp(shift)."""
  if kind != "positive":
    return _plain(k, w, kind)
  return jnp.exp(random_features.logarithm(k, w) - shift[..., None])


def peaks(k: Float[Array, "B *T N H"], w: Any, kind: str) -> Float[Array, "B *T N"]:
  """The largest exponent of each key's positive features; 0 for other features."""
  if kind != "positive":
    return jnp.zeros(k.shape[:-1], wide(k))
  return jax.lax.stop_gradient(random_features.logarithm(k, w).max(axis=-1))


def table(
  bias: Float[Array, "N *L"] | None, heads: int, axes: int, causal: bool
) -> Float[Array, "N *L"]:
  """C for the lags of the bias, 2 D - 1 an axis; 1 at the largest lag that is seen."""
  bias = jnp.zeros((heads, *(1,) * axes)) if bias is None else bias
  bias = bias.astype(wide(bias))
  if causal:
    D = (bias.shape[1] + 1) // 2
    bias = jnp.where(jnp.arange(bias.shape[1]) < D, bias, -jnp.inf)
  top = bias.max(axis=tuple(range(1, bias.ndim)), keepdims=True)
  return jnp.exp(bias - jax.lax.stop_gradient(top))


def spread(
  c: Float[Array, "N *L"], grid: tuple[int, ...], causal: bool
) -> Float[Array, "N *S"]:
  """C for all 2 T - 1 lags an axis: farther ones have that of the farthest."""
  for axis, T in enumerate(grid, 1):
    D = (c.shape[axis] + 1) // 2
    if T > D:
      widths = [(0, 0)] * c.ndim
      widths[axis] = (T - D, T - D)
      c = jnp.pad(c, widths, mode="edge")
      if causal:  # D = 1 has no later lag whose 0 could be repeated
        c = jnp.where(jnp.arange(c.shape[axis]) < T, c, 0)
    else:
      c = jax.lax.slice_in_dim(c, D - T, D + T - 1, axis=axis)
  return c


def _plain(x, w, kind):
  x = x.astype(wide(x))
  if kind == "trigonometric":
    return random_features.trigonometric(x, w)
  return jax.nn.elu(x) + 1 if kind == "elu" else jax.nn.relu(x)
