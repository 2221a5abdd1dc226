"""Attention inside the windows of a map, with the padding around it."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition
from attnjax.core.grids.partition import Partition
from attnjax.ops import window_attention


def attend_windows(
  q: Float[Array, "B *S N H"],
  k: Float[Array, "B *S N H"],
  v: Float[Array, "B *S N V"],
  padding_k: Float[Array, "N H"] | None = None,
  padding_v: Float[Array, "N V"] | None = None,
  *,
  window: int = 7,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B *S N V"]:
  """Computes softmax attention inside windows of a map of 1 to 3 axes.

  Args:
    q: queries.
    k: keys.
    v: values.
    padding_k: the key of every token that fills the last windows, which then is seen;
      the padding is not seen if None.
    padding_v: the value of these tokens; given if `padding_k` is.
    window: side of the windows.
    scale: H^-0.5 if None.
    impl: "reference", "xla", "pallas", "triton" or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if one of `padding_k` and `padding_v` is given, or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *attention.IMPLEMENTATIONS))
  if (padding_k is None) != (padding_v is None):
    raise ValueError("padding_k and padding_v: give both, or none of them")
  if impl == "reference":
    given = padding_k, padding_v, window, scale
    return reference_attend_windows(q, k, v, *given)
  grid = q.shape[1:-2]
  if padding_k is not None:
    around = [(0, 0), *((0, -n % window) for n in grid), (0, 0), (0, 0)]
    real = np.pad(np.ones((1, *grid, 1, 1), bool), around)
    lead = (1,) * (q.ndim - 2)

    def padded(x, fill):
      fill = fill.reshape(*lead, *fill.shape).astype(x.dtype)
      return jnp.where(real, jnp.pad(x, around), fill)

    q, k, v = jnp.pad(q, around), padded(k, padding_k), padded(v, padding_v)
  parts = Partition(q.shape[1:-2], window)
  out = window_attention.attend(q, k, v, parts, scale=scale, impl=impl)
  return out[(slice(None), *(slice(0, n) for n in grid))]


def reference_attend_windows(
  q, k, v, padding_k=None, padding_v=None, window=7, scale=None
):
  """Computes `attend_windows` by its definition: all pairs of tokens and padding."""
  grid, tail = q.shape[1:-2], ((0, 0), (0, 0))
  more = tuple(-n % window for n in grid)
  lengths = tuple(n + m for n, m in zip(grid, more))
  lines, size = np.indices(lengths), math.prod(lengths)
  same, real = np.ones((size, size), bool), np.ones(size, bool)
  for line, n in zip(lines, grid):
    number = line.ravel() // window
    same, real = same & (number[:, None] == number), real & (line.ravel() < n)
  around = ((0, 0), *((0, m) for m in more), *tail)
  q, k, v = (jnp.pad(x, around) for x in (q, k, v))
  if padding_k is None or padding_v is None:
    same = same & real
  else:
    own = real.reshape(*lines.shape[1:], 1, 1)
    k, v = (jnp.where(own, x, y) for x, y in ((k, padding_k), (v, padding_v)))
  out = definition.attention_on_grid(q, k, v, same, scale=scale)
  return out[(slice(None), *(slice(0, n) for n in grid))]


def _case(name, B, grid, N, H, V, padding=False, **options):
  shapes = {"q": (B, *grid, N, H), "k": (B, *grid, N, H), "v": (B, *grid, N, V)}
  if padding:
    shapes |= {"padding_k": (N, H), "padding_v": (N, V)}
  return Case(name, shapes, options, function="attend_windows")


CASES: tuple[Case, ...] = (
  _case("windows", 2, (4, 5), 2, 4, 6, True, window=3),
  _case("windows_masked", 1, (5, 2), 1, 4, 4, window=3, scale=0.3),
  _case("windows_line", 1, (7,), 2, 4, 3, True, window=4),
)
