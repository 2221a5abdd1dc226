"""The function: a network on the tiles of an image at several scales, stitched."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.core.resample import area
from attnjax.variants.tokens.scaling_on_scales.definition import (
  reference_multiscale_forward,
)
from attnjax.variants.tokens.scaling_on_scales.resize import bicubic

IMPLEMENTATIONS = ("reference", "xla")
Grid = tuple[int, int]


def multiscale_forward(
  x: Float[Array, "B H W C"],
  *,
  f: Callable[[Array], Any],
  scales: Sequence[float | int] = (1, 2),
  sizes: Sequence[int] = (),
  max_split: int = 0,
  resize_to: int = 0,
  prefix: int = 0,
  split_forward: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes the features of images at several scales, one above the other.

  arXiv:2403.13043, section 3.1. f maps tiles (b, h, w, C) to maps (b, y, x, D), or to
  tokens (b, P + y x, D) of a square map, or to both apart, (prefix (b, P, D), map). The
  result is alike: b is B, D the channels of all scales.

  Args:
    x: images.
    f: the network; no result depends on another tile of its batch.
    scales: of the images' sides, whose products are rounded down.
    sizes: sides themselves, in place of scales; images are square.
    max_split: largest side of a tile; 0 for the image's own sides.
    resize_to: number of the scale whose map has the result's sides.
    prefix: P, the tokens before the map; they are averaged over tiles.
    split_forward: whether f runs on one tile of each image at a time, to save memory.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: for sides that tiles do not divide, and for other shapes that do not
      fit; or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  grids = scaled_grids(x.shape, scales, sizes)
  if not -len(grids) <= resize_to < len(grids):
    raise ValueError(f"resize_to = {resize_to}: there are {len(grids)} scales")
  if impl == "reference":
    given = {"max_split": max_split, "resize_to": resize_to, "prefix": prefix}
    return reference_multiscale_forward(x, f=f, scales=scales, sizes=sizes, **given)
  firsts, maps, kind = [], [], "map"
  for grid in grids:
    numbers = tiles_a_side(grid, (x.shape[1], x.shape[2]), max_split)
    tiles = split_tiles(bicubic(x, grid), numbers)
    first, y, kind = _parts(_run(f, tiles, split_forward), prefix)
    firsts.append(first.reshape(*tiles.shape[:2], *first.shape[1:]).mean(axis=1))
    maps.append(merge_tiles(y.reshape(*tiles.shape[:2], *y.shape[1:]), numbers))
  side = maps[resize_to].shape
  found = jnp.concatenate([area(y, (side[1], side[2])) for y in maps], axis=-1)
  return _joined(jnp.concatenate(firsts, axis=-1), found, kind)


def split_tiles(x: Float[Array, "B H W C"], numbers: Grid) -> Float[Array, "B N h w C"]:
  """Cuts images in tiles, row by row.

  Args:
    x: images.
    numbers: tiles along each axis, which divide its side.
  """
  B, H, W, C = x.shape
  n, m = numbers
  x = x.reshape(B, n, H // n, m, W // m, C).swapaxes(2, 3)
  return x.reshape(B, n * m, H // n, W // m, C)


def merge_tiles(
  tiles: Float[Array, "B N h w D"], numbers: Grid
) -> Float[Array, "B H W D"]:
  """Stitches tiles together; `split_tiles` undone.

  Args:
    tiles: row by row.
    numbers: tiles along each axis.
  """
  B, _, h, w, D = tiles.shape
  n, m = numbers
  x = tiles.reshape(B, n, m, h, w, D).swapaxes(2, 3)
  return x.reshape(B, n * h, m * w, D)


def scaled_grids(
  shape: Sequence[int], scales: Sequence[float | int], sizes: Sequence[int]
) -> list[Grid]:
  """Returns the sides of images (B, H, W, C) at each scale.

  Raises:
    ValueError: for `sizes` of images that are not square, no scale, and empty images.
  """
  _, H, W, _ = shape
  if sizes and H != W:
    raise ValueError(f"sizes = {tuple(sizes)}: images of {H} x {W} take scales")
  grids = [(s, s) for s in sizes] or [(int(H * s), int(W * s)) for s in scales]
  if not grids or min(min(grid) for grid in grids) < 1:
    raise ValueError(f"{grids} of {H} x {W}: one scale at least, and no empty images")
  return grids


def tiles_a_side(grid: Grid, own: Grid, max_split: int) -> Grid:
  """Returns the number of tiles along each axis.

  Args:
    grid: sides of the image at a scale.
    own: sides of the image as it is, which tiles have at most where max_split = 0.
    max_split: as in `multiscale_forward`.

  Raises:
    ValueError: if they do not divide the sides.
  """
  if max_split < 0:
    raise ValueError(f"max_split = {max_split}: it must be 0 or more")
  numbers = [math.ceil(side / (max_split or most)) for side, most in zip(grid, own)]
  if any(side % number for side, number in zip(grid, numbers)):
    raise ValueError(f"{grid[0]} x {grid[1]} pixels do not divide by {numbers} tiles")
  return numbers[0], numbers[1]


def _run(f, tiles, one_by_one: bool):
  """Returns f of tiles (B, N, h, w, C), those of an image next to each other."""
  if not one_by_one:
    # The batch is the slow index, so that devices that share it keep their examples.
    return f(tiles.reshape(-1, *tiles.shape[2:]))
  found = jax.lax.map(f, tiles.swapaxes(0, 1))
  return jax.tree.map(lambda y: y.swapaxes(0, 1).reshape(-1, *y.shape[2:]), found)


def _parts(y, prefix: int) -> tuple[Array, Array, str]:
  """Returns (prefix (b, P, D), map (b, y, x, D), the kind of what f gave)."""
  if isinstance(y, tuple):
    return *y, "pair"
  if y.ndim == 4:
    if prefix:
      raise ValueError(f"prefix = {prefix}: f gives maps {y.shape}, which have none")
    return y[:, 0, :0], y, "map"
  side = math.isqrt(max(y.shape[1] - prefix, 0))
  if side**2 + prefix != y.shape[1]:
    raise ValueError(f"{y.shape[1]} tokens, prefix = {prefix}: the rest is no square")
  return y[:, :prefix], y[:, prefix:].reshape(len(y), side, side, -1), "tokens"


def _joined(first, found, kind: str):
  if kind == "map":
    return found
  if kind == "pair":
    return first, found
  rows = found.reshape(found.shape[0], -1, found.shape[-1])
  return jnp.concatenate([first, rows], axis=1)
