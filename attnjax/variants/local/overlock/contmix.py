"""ContMix: values mixed by kernels that each pixel makes of its view of the context."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract.context import Heads, Tokens
from attnjax.core import resample
from attnjax.nn import running
from attnjax.ops import window_attention
from attnjax.variants.local.overlock.large_kernel import LargeKernel
from attnjax.variants.local.overlock.mixing import IMPLEMENTATIONS, mix
from attnjax.variants.local.overlock.parts import (
  NORMS,
  Excitation,
  Projection,
  linear,
  normed,
)


class ContMix(nnx.Module):
  """Mixes windows of two sizes, adds a large convolution, excites, gates and projects.

  The first half of the channels is mixed in small windows and the second in large ones,
  each in G = 2 heads groups. A map with a side below the large window is interpolated
  until that side is the window; the result is averaged back.

  Args:
    dim: D, width of the values, and of the map that queries are made of.
    context_dim: width of the map whose regions are seen; D if 0.
    out_dim: of the result; D if 0.
    valued: whether values are projected.
    heads: half of the groups; 4 heads divide D.
    window: side of the large windows and of the convolution.
    small_window: side of the small windows.
    regions: of the context on each axis, whose means are seen.
    norm: "batch" as in the paper, or "layer", which needs no running statistics; then
      the large convolution is a sum of kernels without norms.
    spread: of the drawn biases of relative positions; 0 gives zeros.
    impl: as in `mix`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    dim: int,
    *,
    context_dim: int = 0,
    out_dim: int = 0,
    valued: bool = True,
    heads: int = 2,
    window: int = 7,
    small_window: int = 5,
    regions: int = 7,
    norm: str = "batch",
    spread: float = 0.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(norm=(norm, NORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    _check(dim, heads, window, small_window, regions)
    self.groups, self.regions, self.impl = 2 * heads, regions, impl
    self.windows = small_window, window

    def projection(below: int, width: int) -> Projection:
      return Projection(below, width, norm=norm, rngs=rngs)

    self.query = projection(dim, dim // 2)
    self.key = projection(context_dim or dim, dim // 2)
    self.value = projection(dim, dim) if valued else None
    count = sum(side**2 for side in self.windows)
    self.taps = linear(regions**2, count, rngs=rngs)
    draw = nnx.initializers.truncated_normal(1.0)
    shapes = [(2 * heads, 2 * side - 1, 2 * side - 1) for side in self.windows]
    tables = (spread * draw(rngs.params(), shape) for shape in shapes)
    self.relative = nnx.List(nnx.Param(table) for table in tables)
    self.fusion, self.gate = projection(dim, dim), projection(dim, dim)
    self.local = LargeKernel(dim, window, normed=norm == "batch", rngs=rngs)
    self.norms = nnx.List(normed(norm, dim, rngs=rngs) for _ in range(2))
    self.excite = Excitation(dim, rngs=rngs)
    self.out = linear(dim, out_dim or dim, rngs=rngs)

  def project(
    self,
    tokens: Tokens,
    queries: Float[Array, "B H W D"] | None = None,
    context: Float[Array, "B H W E"] | None = None,
    *,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the heads, whose keys are of the regions, and new statistics.

    Args:
      tokens: the map of values, gate and large convolution.
      queries: the map that queries are made of; that of the tokens if None.
      context: the map whose regions are seen; that of the tokens if None.
      stats: the running statistics, where there is batch norm.
      train: whether batch norm measures the batch.
    """
    carry = running.Carry(self, stats, train)
    x = tokens.x
    grid = enlarged(x.shape[1:3], self.windows[1])
    q, k, v = (x if y is None else y for y in (queries, context, x))
    q, k, v = (resample.bilinear(y, grid) for y in (q, k, v))
    dim, shape = x.shape[3], (x.shape[0], *grid, -1)
    scale = (dim // self.groups) ** -0.5  # not of the dim / (2 groups) that a query has
    q = carry(self.query, q) * scale
    k = carry(self.key, resample.area(k, (self.regions,) * 2))
    v = v if self.value is None else carry(self.value, v)
    size = dim // (2 * self.groups)
    q, v = q.reshape(*shape, size), v.reshape(*shape, size)
    k = k.reshape(x.shape[0], -1, self.groups, size)
    return carry.result(Heads(q, k, v, tokens))

  def mix(self, heads: Heads) -> Float[Array, "B H W N E"]:
    """Returns the windows' weighted means, small windows' groups before large ones'."""
    last: Any = self.taps.bias
    taps, bias = self.taps.kernel[...], last[...]
    first, found = 0, []
    values = jnp.split(heads.v, 2, axis=3)
    for side, table, v in zip(self.windows, self.relative, values):
      own = slice(first, first + side**2)
      given = taps[:, own], bias[own], table[...], v
      found.append(mix(heads.q, heads.k, *given, window=side, impl=self.impl))
      first += side**2
    y = jnp.concatenate(found, axis=3)
    flat = resample.area(y.reshape(*y.shape[:3], -1), heads.tokens.x.shape[1:3])
    return flat.reshape(*flat.shape[:3], *y.shape[3:])

  def merge(
    self, out: Array, heads: Heads, *, stats: Any = None, train: bool = False
  ) -> Any:
    """Returns the excited, gated and projected sum, and new statistics."""
    carry, x = running.Carry(self, stats, train), heads.tokens.x
    y = carry(self.fusion, out.astype(x.dtype).reshape(*out.shape[:3], -1))
    y = self.excite(y + carry(self.norms[0], carry(self.local, x)))
    y = jax.nn.silu(carry(self.gate, x)) * y
    return carry.result(self.out(carry(self.norms[1], y)))

  def __call__(
    self,
    x: Float[Array, "B H W D"],
    queries: Float[Array, "B H W D"] | None = None,
    context: Float[Array, "B H W E"] | None = None,
    *,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the mixed map (B, H, W, out_dim), and new statistics; see `project`."""
    own = {"train": train}
    given = Tokens(x), queries, context
    heads, new = running.apply(
      self.project, *given, stats=() if stats is None else stats, **own
    )
    y, new = running.apply(self.merge, self.mix(heads), heads, stats=new, **own)
    return y if stats is None else (y, new)

  def weights(self, heads: Heads) -> Float[Array, "B N T T"]:
    """Returns the weights of all pixels, which are of interpolated maps if need be."""
    grid, B = heads.tokens.x.shape[1:3], heads.q.shape[0]
    eye = window_attention.identity(grid, B, 1)[..., 0, :]
    v = resample.bilinear(eye, heads.v.shape[1:3])[..., None, :]
    v = jnp.broadcast_to(v, (*heads.v.shape[:4], eye.shape[-1]))
    out = self.mix(dataclasses.replace(heads, v=v))
    return out.reshape(B, -1, *out.shape[3:]).swapaxes(1, 2)


def enlarged(grid: tuple[int, ...], window: int) -> tuple[int, ...]:
  """Returns the sides of a map, the smaller one at least the window.

  The other side is rounded down, as the official code does, in float64.
  """
  small = min(grid)
  if small >= window:
    return tuple(grid)
  return tuple(
    window if side == small else max(window, int(window / small * side))
    for side in grid
  )


def _check(dim, heads, window, small_window, regions):
  if heads < 1 or dim % (4 * heads):
    raise ValueError(f"heads = {heads}: 4 heads must divide dim = {dim}")
  if not 1 <= small_window <= window or not small_window % 2:
    raise ValueError(
      f"small_window = {small_window}: it must be odd, from 1 to window = {window}"
    )
  if regions < 1:
    raise ValueError(f"regions = {regions}: it must be at least 1")
