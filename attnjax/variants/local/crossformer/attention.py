"""Attention in groups of tokens at a distance, with a bias of their places."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition
from attnjax.core.grids.partition import Partition, offsets
from attnjax.ops import window_attention

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B *S N H"],
  k: Float[Array, "B *S K H"],
  v: Float[Array, "B *S K V"],
  bias_table: Float[Array, "*R N"] | None = None,
  *,
  window: int = 7,
  interval: int | Sequence[int] = 1,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B *S N V"]:
  """Computes attention within groups of tokens.

  Args:
    q: queries on a grid of 1 to 3 axes.
    k: keys; K divides N.
    v: values.
    bias_table: bias of differences of places, key less query: R is 2 window - 1 on each
      axis, entry d + window - 1 belongs to the difference d. None for no bias.
    window: tokens of a group on each axis.
    interval: distance of a group's tokens, for each axis or for all.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  options = {"window": window, "interval": interval, "scale": scale}
  grid = q.shape[1:-2]
  _check(bias_table, grid, window)
  steps = _intervals(grid, interval)
  if impl == "reference":
    return reference(q, k, v, bias_table, **options)
  parts = Partition(grid, window, steps)
  bias = None
  if bias_table is not None:
    places = window - 1 + offsets((window,) * len(grid))
    bias = jnp.moveaxis(bias_table[tuple(np.moveaxis(places, -1, 0))], -1, 0)
  return window_attention.attend(q, k, v, parts, bias=bias, scale=scale, impl=impl)


def reference(q, k, v, bias_table=None, *, window=7, interval=1, scale=None):
  """Computes `attend` by its definition: a (T, T) matrix of scores for each head."""
  grid = q.shape[1:-2]
  steps = (interval,) * len(grid) if isinstance(interval, int) else interval
  axes = tuple(c.ravel() for c in np.indices(grid))
  seen, places = np.ones((axes[0].size,) * 2, bool), []
  for c, step in zip(axes, steps):
    block, rest = c // (window * step), c % (window * step)
    for mark in (block, rest % step):
      seen &= mark[:, None] == mark[None, :]
    place = rest // step
    places.append(place[None, :] - place[:, None] + window - 1)
  bias = None
  if bias_table is not None:
    bias = jnp.moveaxis(bias_table[tuple(places)], -1, 0)
  return definition.attention_on_grid(q, k, v, seen, bias=bias, scale=scale)


def _intervals(grid, interval) -> tuple[int, ...]:
  steps = (interval,) * len(grid) if isinstance(interval, int) else tuple(interval)
  if len(steps) != len(grid) or min(steps) < 1:
    raise ValueError(
      f"interval = {interval} on a grid of {len(grid)} axes; one for each, at least 1"
    )
  return steps


def _check(bias_table, grid, window) -> None:
  if window < 1:
    raise ValueError(f"window = {window}: it must be at least 1")
  want = (2 * window - 1,) * len(grid)
  if bias_table is not None and bias_table.shape[:-1] != want:
    raise ValueError(f"bias_table {bias_table.shape} must be {want} and the heads")


def _shapes(B, grid, N, K, H, V, window=0):
  shapes = {"q": (B, *grid, N, H), "k": (B, *grid, K, H), "v": (B, *grid, K, V)}
  return shapes | ({"bias_table": (2 * window - 1,) * 2 + (N,)} if window else {})


CASES = (
  Case("short", _shapes(2, (4, 6), 2, 2, 8, 8, window=2), {"window": 2}),
  Case(
    "long_padded",
    _shapes(1, (5, 7), 2, 1, 4, 6, window=3),
    {"window": 3, "interval": (2, 3), "scale": 0.3},
  ),
  Case("no_bias", _shapes(1, (4, 4), 1, 1, 4, 4), {"window": 2, "interval": 2}),
  Case("one_token", _shapes(1, (1, 1), 1, 1, 4, 4, window=2), {"window": 2}),
)
