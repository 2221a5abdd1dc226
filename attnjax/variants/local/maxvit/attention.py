"""Attention in groups of tokens: windows, or dilated grids."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition
from attnjax.core.grids import partition
from attnjax.ops import window_attention

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
KINDS = ("window", "grid")


def attend(
  q: Float[Array, "B *S N H"],
  k: Float[Array, "B *S K H"],
  v: Float[Array, "B *S K V"],
  *,
  bias_table: Float[Array, "*R N"] | None = None,
  kind: str = "window",
  window: int | Sequence[int] = 7,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B *S N V"]:
  """Computes attention within groups of tokens on a map of 1 to 3 axes.

  Args:
    q: queries.
    k: keys; K divides N, query head n uses key head n K // N.
    v: values.
    bias_table: bias of the offset of a key from a query in their group: 2 window - 1
      entries an axis, entry d + window - 1 for the offset d. None for no bias.
    kind: "window" or "grid".
    window: tokens of a group on each axis, or on all.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit, or `kind` or `impl` is unknown.
  """
  check_known("kind", kind, KINDS)
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  shape = q.shape[1:-2]
  parts = (partition.Partition if kind == "window" else partition.grid)(shape, window)
  want = (*(2 * p - 1 for p in parts.size), q.shape[-2])
  if bias_table is not None and bias_table.shape != want:
    raise ValueError(f"bias_table {bias_table.shape} must be {want}")
  if impl == "reference":
    return reference(q, k, v, bias_table, kind, window, scale)
  bias = None
  if bias_table is not None:
    bias = partition.relative(jnp.moveaxis(bias_table, -1, 0))
  return window_attention.attend(q, k, v, parts, bias=bias, scale=scale, impl=impl)


def reference(q, k, v, bias_table=None, kind="window", window=7, scale=None):
  """Computes `attend` by its definition: a (T, T) matrix of scores for each head."""
  grid, seen, offsets = q.shape[1:-2], True, []
  sizes = (window,) * len(grid) if isinstance(window, int) else window
  for n, p, line in zip(grid, sizes, np.indices(grid)):
    line, step = line.ravel(), -(-n // p)
    group, place = line // p, line % p
    if kind == "grid":
      group, place = line % step, line // step
    seen = seen & (group[:, None] == group)
    offsets.append(np.where(seen, place - place[:, None], 0) + p - 1)
  bias = None
  if bias_table is not None:
    bias = jnp.moveaxis(bias_table[tuple(offsets)], -1, 0)
  return definition.attention_on_grid(q, k, v, seen, bias=bias, scale=scale)


def _shapes(B, grid, N, K, H, V, *bias_table):
  shapes = {"q": (B, *grid, N, H), "k": (B, *grid, K, H), "v": (B, *grid, K, V)}
  return shapes | ({"bias_table": (*bias_table, N)} if bias_table else {})


CASES = (
  Case(
    "grid",
    _shapes(2, (4, 3), 2, 2, 4, 4, 3, 5),
    {"kind": "grid", "window": (2, 3)},
  ),
  Case("one_token", _shapes(1, (1, 1), 1, 1, 4, 4), {"window": 3}),
  Case("windows", _shapes(1, (4, 5), 2, 1, 4, 6, 5, 5), {"window": 3, "scale": 0.3}),
  Case("line", _shapes(1, (7,), 2, 2, 4, 3, 5), {"kind": "grid", "window": 3}),
)
