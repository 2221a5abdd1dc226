"""Tiles of grids: tokens in tile order, and boxes of keys around tiles.

Grids are (B, *S, ...) with one to three axes S.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


def permute(
  x: Array, tile: tuple[int, ...], dilation: tuple[int, ...] | None = None
) -> Array:
  """Puts the tokens of each tile one after the other.

  An axis is padded with zeros at its end to a multiple of tile x dilation and read as
  (rest, tile, dilation). The dilation groups go to the batch.

  Ali Hassani et al. Generalized Neighborhood Attention. arXiv:2504.16922 (token
  permutation).

  Args:
    x: (B, *S, ...), with an axis S for each entry of `tile`.
    tile: tokens of a tile on each axis.
    dilation: tokens i mod d are a grid of their own; 1 everywhere if None.

  Returns:
    (B prod(dilation), tiles x prod(tile), ...), of batch b and dilation group g at
    b prod(dilation) + g.
  """
  dilation = dilation or (1,) * len(tile)
  axes, tail = len(tile), x.shape[len(tile) + 1 :]
  rest = counts(x.shape[1 : axes + 1], tile, dilation)
  padding = [
    (0, r * t * d - length)
    for r, t, d, length in zip(rest, tile, dilation, x.shape[1:])
  ]
  x = jnp.pad(x, [(0, 0), *padding] + [(0, 0)] * len(tail))
  x = x.reshape(-1, *itertools.chain(*zip(rest, tile, dilation)), *tail)
  x = x.transpose(_order(axes, len(tail)))
  return x.reshape(-1, math.prod(rest) * math.prod(tile), *tail)


def unpermute(
  x: Array,
  shape: tuple[int, ...],
  tile: tuple[int, ...],
  dilation: tuple[int, ...] | None = None,
) -> Array:
  """The inverse of `permute`; (B, *shape, ...)."""
  dilation = dilation or (1,) * len(tile)
  axes, tail = len(tile), x.shape[2:]
  rest = counts(shape, tile, dilation)
  x = x.reshape(-1, *dilation, *rest, *tile, *tail)
  x = x.transpose(np.argsort(_order(axes, len(tail))))
  x = x.reshape(-1, *(r * t * d for r, t, d in zip(rest, tile, dilation)), *tail)
  return x[(slice(None), *(slice(0, length) for length in shape))]


def counts(
  shape: tuple[int, ...], tile: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
  """Number of tiles that cover each axis of a dilation group."""
  return tuple(
    -(-length // (t * d)) for length, t, d in zip(shape, tile, dilation, strict=True)
  )


def spans(
  x: Array, starts: Int[Array | np.ndarray, "..."], size: int, *, axis: int, out: int
) -> Array:
  """Slices of an axis, which may overlap.

  Args:
    x: (B, ...).
    starts: (n,), or (B, n) if they differ in the batch.
    size: tokens of each slice.
    axis: the axis of x that is cut, not the first one.
    out: where the new axis, of length n, goes in the result.
  """

  def cut(x, start, axis=axis):
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

  starts = jnp.asarray(starts)
  if starts.ndim == 1:
    return jax.vmap(cut, in_axes=(None, 0), out_axes=out)(x, starts)
  if out:
    raise ValueError(f"out = {out}; starts that differ in the batch need out = 0")
  each = jax.vmap(lambda x, start: cut(x, start, axis - 1), in_axes=(None, 0))
  return jax.vmap(each, out_axes=1)(x, starts)


def flat(x: Array, axes: int, first: int = 0) -> Array:
  """With `axes` axes from `first` on joined to one."""
  shape = x.shape
  joined = math.prod(shape[first : first + axes])
  return x.reshape(*shape[:first], joined, *shape[first + axes :])


def _order(axes: int, tail: int) -> list[int]:
  rest, tile, group = (list(range(1 + i, 1 + 3 * axes, 3)) for i in range(3))
  return [0, *group, *rest, *tile, *range(1 + 3 * axes, 1 + 3 * axes + tail)]
