"""Dilated neighbourhood attention with a table of relative positions."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition
from attnjax.core.grids import neighborhood
from attnjax.ops import halo_attention

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B R C N H"],
  k: Float[Array, "B R C K H"],
  v: Float[Array, "B R C K V"],
  bias_table: Float[Array, "X Y N"] | None = None,
  *,
  window: int = 7,
  dilation: int | Sequence[int] = 1,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B R C N V"]:
  """Computes attention to the nearest window x window tokens of a dilation class.

  Args:
    q: queries.
    k: keys; K divides N.
    v: values.
    bias_table: (2 window - 1, 2 window - 1, N), bias by key less query, counted in the
      class; the middle entry belongs to the token itself. None for no bias.
    window: w. A class with fewer tokens on an axis is seen whole.
    dilation: d, one number or one for each axis.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit, a number is out of range or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  steps = _check(bias_table, window, dilation)
  if impl == "reference":
    return reference(q, k, v, bias_table, window=window, dilation=steps, scale=scale)

  def rule(at, length):
    return neighborhood.bounds(at, length, window)

  return halo_attention.attend(
    q, k, v, (rule, rule), dilation=steps, bias_table=bias_table, scale=scale, impl=impl
  )[0]


def reference(q, k, v, bias_table=None, *, window=7, dilation=1, scale=None):
  """Computes `attend` by its definition: a masked softmax over the whole map."""
  seen, lines = np.ones((1, 1), bool), []
  steps = (dilation, dilation) if isinstance(dilation, int) else dilation
  for length, step in zip(q.shape[1:3], steps):
    at = np.arange(length)
    place, total = at // step, (length - at % step + step - 1) // step
    start = np.clip(place - window // 2, 0, np.maximum(total - window, 0))[:, None]
    inside = (start <= place) & (place < start + window)
    seen = np.kron(seen, inside & (at % step == at[:, None] % step))
    lines.append(np.clip(place - place[:, None] + window - 1, 0, 2 * window - 2))
  rows, columns = lines
  places = (
    np.kron(rows, np.ones_like(columns)),
    np.kron(np.ones_like(rows), columns),
  )
  bias = None if bias_table is None else jnp.moveaxis(bias_table[places], -1, 0)
  return definition.attention_on_grid(q, k, v, seen, bias=bias, scale=scale)


def _check(bias_table, window, dilation) -> tuple[int, ...]:
  if window < 1:
    raise ValueError(f"window = {window}: it must be at least 1")
  steps = (dilation,) * 2 if isinstance(dilation, int) else tuple(dilation)
  if len(steps) != 2 or min(steps) < 1:
    raise ValueError(f"dilation = {dilation}: one or two numbers, each at least 1")
  want = (2 * window - 1,) * 2
  if bias_table is not None and bias_table.shape[:-1] != want:
    raise ValueError(f"bias_table {bias_table.shape} must be {want} and the heads")
  return steps


def _shapes(B, grid, N, K, H, V, window=0):
  shapes = {"q": (B, *grid, N, H), "k": (B, *grid, K, H), "v": (B, *grid, K, V)}
  return shapes | ({"bias_table": (2 * window - 1,) * 2 + (N,)} if window else {})


CASES = (
  Case("plain", _shapes(1, (4, 5), 2, 2, 4, 4, 3), {"window": 3}),
  Case("no_bias", _shapes(1, (3, 4), 1, 1, 4, 4), {"window": 3}),
  Case(
    "dilated",
    _shapes(1, (9, 8), 2, 1, 4, 6, 3),
    {"window": 3, "dilation": (2, 3), "scale": 0.3},
  ),
  Case("even_in_blocks", _shapes(1, (9, 3), 1, 1, 4, 4, 4), {"window": 4}),
  Case("one_token", _shapes(1, (1, 1), 1, 1, 4, 4, 2), {"window": 2}),
)
