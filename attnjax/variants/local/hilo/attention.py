"""Attention in windows and on pooled windows, side by side in the heads."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition
from attnjax.core.grids.partition import Partition
from attnjax.ops import window_attention

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B *S N H"],
  k: Float[Array, "B *S K H"] | None = None,
  v: Float[Array, "B *S K V"] | None = None,
  pooled_k: Float[Array, "B *P L H"] | None = None,
  pooled_v: Float[Array, "B *P L V"] | None = None,
  *,
  window: int = 2,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B *S N V"]:
  """Computes attention of K heads in windows, and of L = N - K to pooled windows.

  Args:
    q: queries on a grid.
    k: keys of the high heads, the first K; None if there are none.
    v: values of the high heads.
    pooled_k: keys of the low heads, the last L, on the grid of windows; None if there
      are none.
    pooled_v: values of the low heads.
    window: side of the windows.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  high = _check(q, k, pooled_k, window)
  given = q, k, v, pooled_k, pooled_v
  if impl == "reference":
    return reference(*given, window=window, scale=scale)
  grid, out = q.shape[1:-2], []
  options = {"scale": scale, "impl": impl}
  if k is not None and v is not None:
    parts = Partition(grid, window)
    out.append(window_attention.attend(q[..., :high, :], k, v, parts, **options))
  if pooled_k is not None and pooled_v is not None:
    low, _ = attention.attend(
      _line(q[..., high:, :]), _line(pooled_k), _line(pooled_v), **options
    )
    out.append(low.reshape(-1, *grid, *low.shape[2:]))
  return jnp.concatenate(out, axis=-2)


def reference(q, k=None, v=None, pooled_k=None, pooled_v=None, *, window=2, scale=None):
  """Computes `attend` by its definition.

  A high head has a (T, T) matrix of scores, a low head a (T, P) one.
  """
  grid, out = q.shape[1:-2], []
  high = 0 if k is None else k.shape[-2]
  if k is not None and v is not None:
    cell = np.indices(grid).reshape(len(grid), -1) // window
    same = (cell[:, :, None] == cell[:, None, :]).all(axis=0)
    heads = q[..., :high, :], k, v, same
    out.append(definition.attention_on_grid(*heads, scale=scale))
  if pooled_k is not None and pooled_v is not None:
    heads = q[..., high:, :], pooled_k, pooled_v
    out.append(definition.attention_on_grid(*heads, scale=scale))
  return jnp.concatenate(out, axis=-2)


def _line(x):
  return x.reshape(x.shape[0], -1, *x.shape[-2:])


def _check(q, k, pooled_k, window) -> int:
  """Returns the number of high heads; raises ValueError if shapes do not fit."""
  if window < 1:
    raise ValueError(f"window = {window}: it must be at least 1")
  high, low = (0 if x is None else x.shape[-2] for x in (k, pooled_k))
  if high + low != q.shape[-2]:
    raise ValueError(
      f"{q.shape[-2]} query heads; {high} heads of k and {low} of pooled_k must sum up"
    )
  if pooled_k is not None:
    want = tuple(math.ceil(side / window) for side in q.shape[1:-2])
    if pooled_k.shape[1:-2] != want:
      raise ValueError(f"pooled_k {pooled_k.shape} must have the grid {want}")
  return high


def _shapes(B, grid, window, high, low, H, V):
  cells = tuple(math.ceil(side / window) for side in grid)
  shapes = {"q": (B, *grid, high + low, H)}
  if high:
    shapes |= {"k": (B, *grid, high, H), "v": (B, *grid, high, V)}
  if low:
    shapes |= {"pooled_k": (B, *cells, low, H), "pooled_v": (B, *cells, low, V)}
  return shapes


CASES = (
  Case("two_kinds", _shapes(2, (4, 6), 2, 1, 1, 8, 8)),
  Case("padded", _shapes(1, (5, 7), 4, 1, 2, 4, 6), {"window": 4, "scale": 0.3}),
  Case("high_only", _shapes(1, (3, 3), 2, 2, 0, 4, 4)),
  Case("low_only_one_token", _shapes(1, (1, 1), 3, 0, 1, 4, 4), {"window": 3}),
)
