"""The tokens of grids in tile order, and windows of tokens gathered by index.

Grids are (B, *S, ...) with one to three axes S.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


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
    dilation: tokens with equal i mod d form a separate grid; 1 everywhere if None.

  Returns:
    (B prod(dilation), tiles x prod(tile), ...); batch entry b and dilation group g are
    at b prod(dilation) + g.
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
  """Inverts `permute`; returns (B, *shape, ...)."""
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
  """Returns the number of tiles that cover each axis of a dilation group."""
  return tuple(
    -(-length // (t * d)) for length, t, d in zip(shape, tile, dilation, strict=True)
  )


def rows(
  x: Float[Array, "B T K H"], index: Int[Array | np.ndarray, "b W P"]
) -> Float[Array, "BW P K H"]:
  """Gathers windows of tokens as a batch: (b W + w, p) holds x[b, index[b, w, p]].

  The tokens of a head come to lie one after the other, as the products of attention
  read them.

  Args:
    x: tokens.
    index: in 0..T-1; b is B or 1.
  """
  (B, T, K, H), (_, W, P) = x.shape, index.shape
  first = (np.arange(B)[:, None] * K + np.arange(K)) * T
  at = first[:, None, :, None] + index[:, :, None, :]
  # Behind barriers XLA copies rows; fused, it computes an index for each element.
  flat = jax.lax.optimization_barrier(x.swapaxes(1, 2).reshape(-1, H))
  found = flat.at[at.astype(np.int32)].get(mode="promise_in_bounds")
  found = jax.lax.optimization_barrier(found.reshape(B * W, K, P, H))
  return found.swapaxes(1, 2)


def _order(axes: int, tail: int) -> list[int]:
  rest, tile, group = (list(range(1 + i, 1 + 3 * axes, 3)) for i in range(3))
  return [0, *group, *rest, *tile, *range(1 + 3 * axes, 1 + 3 * axes + tail)]
