"""Strength of attention by rings, offsets and distances; entropies, and templates.

Attention is (*, T, T), a row a query; tokens are `prefix` others (a class token,
registers), then the patches of a grid (h, w), row by row.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax.contract import check_known

IMPLEMENTATIONS = ("reference", "xla")
TEMPLATES = ("self", "ring", "row", "column", "shift", "uniform", "prefix", "key")


def ring_profile(
  attention: Float[Array, "*B T T"],
  *,
  grid: tuple[int, int],
  k_max: int,
  prefix: int = 1,
  normalise: bool = False,
  impl: str = "auto",
) -> tuple[Float[Array, "*B K"], Float[Array, "*B K"], Float[Array, "*B"]]:
  """Computes the attention strength of patches by Chebyshev distance k = 0, 1, ...

  Args:
    attention: weights.
    grid: (h, w) of the patches.
    k_max: the farthest ring.
    prefix: tokens before the patches.
    normalise: whether rows are over the patches alone.
    impl: one of IMPLEMENTATIONS, or "auto".

  Returns:
    total: weight on ring k, the mean over queries.
    mean: weight of a patch of ring k, the mean over those queries that have the ring.
    mass: weight on the prefix tokens; `total` over all rings and it are 1.

  Raises:
    ValueError: for a grid that does not fit T, or a ring that no patch has.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  given = {"grid": grid, "k_max": k_max, "prefix": prefix, "normalise": normalise}
  patches, mass = _patches(attention, grid, prefix, normalise)
  if not 0 <= k_max < max(grid):
    raise ValueError(f"k_max = {k_max}; a grid {grid} has rings 0 to {max(grid) - 1}")
  if impl == "reference":
    return reference_ring_profile(attention, **given)
  rings = np.arange(k_max + 1)[:, None, None] == _distance(grid, "chebyshev")
  sizes = rings.sum(axis=2)  # (K, P)
  sums = jnp.einsum("...qs,kqs->...kq", patches, jnp.asarray(rings, patches.dtype))
  some = np.maximum((sizes > 0).sum(axis=1), 1)
  mean = (sums / np.maximum(sizes, 1)).sum(axis=-1) / some
  return sums.mean(axis=-1), mean, mass


def reference_ring_profile(attention, *, grid, k_max, prefix=1, normalise=False):
  """Computes the rings by their definition, a patch of the query after the other."""
  h, w = grid
  x = attention.astype(jnp.float32)
  places = [(r, c) for r in range(h) for c in range(w)]
  total, mean, mass = [], [], 0.0
  for k in range(k_max + 1):
    sums, means = 0.0, []
    for q, (r, c) in enumerate(places):
      row = x[..., prefix + q, :]
      scale = row[..., prefix:].sum(axis=-1) if normalise else 1.0
      ring = [s for s, (a, b) in enumerate(places) if max(abs(a - r), abs(b - c)) == k]
      own = sum((row[..., prefix + s] for s in ring), jnp.zeros(x.shape[:-2])) / scale
      sums = sums + own
      if ring:
        means.append(own / len(ring))
      if k == 0:
        mass = mass + row[..., :prefix].sum(axis=-1)
    total.append(sums / len(places))
    mean.append(sum(means) / max(len(means), 1))
  sums, means = (jnp.stack(jnp.broadcast_arrays(*y), axis=-1) for y in (total, mean))
  return sums, means, jnp.broadcast_to(mass / len(places), x.shape[:-2])


def offset_map(
  attention: Float[Array, "*B T T"],
  *,
  grid: tuple[int, int],
  prefix: int = 1,
  impl: str = "auto",
) -> Float[Array, "*B Y X"]:
  """Computes the mean weight at each offset of key and query, (2 h - 1, 2 w - 1).

  The mean is over the queries whose key at the offset is in the grid; the middle is the
  query itself.

  Args:
    attention: weights.
    grid: (h, w) of the patches.
    prefix: tokens before the patches.
    impl: one of IMPLEMENTATIONS, or "auto".
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  patches, _ = _patches(attention, grid, prefix, False)
  if impl == "reference":
    return reference_offset_map(attention, grid=grid, prefix=prefix)
  (h, w), places = grid, _places(grid)
  apart = places[None] - places[:, None] + (h - 1, w - 1)  # (q, s, 2)
  index = (apart[..., 0] * (2 * w - 1) + apart[..., 1]).astype(np.int64)
  size = (2 * h - 1) * (2 * w - 1)
  number = np.bincount(index.reshape(-1), minlength=size)
  flat = patches.reshape(*patches.shape[:-2], -1)
  sums = jnp.zeros((*flat.shape[:-1], size), flat.dtype)
  sums = sums.at[..., index.reshape(-1)].add(flat)
  return (sums / number).reshape(*flat.shape[:-1], 2 * h - 1, 2 * w - 1)


def reference_offset_map(attention, *, grid, prefix=1):
  """Computes the offsets by their definition, one after the other."""
  h, w = grid
  x = attention.astype(jnp.float32)
  rows = []
  for dy in range(1 - h, h):
    for dx in range(1 - w, w):
      own = [
        x[..., prefix + r * w + c, prefix + (r + dy) * w + c + dx]
        for r in range(max(0, -dy), min(h, h - dy))
        for c in range(max(0, -dx), min(w, w - dx))
      ]
      rows.append(sum(own) / len(own))
  return jnp.stack(rows, axis=-1).reshape(*x.shape[:-2], 2 * h - 1, 2 * w - 1)


def attention_distance(
  attention: Float[Array, "*B T T"], *, grid: tuple[int, int], prefix: int = 1
) -> Float[Array, "*B"]:
  """Computes the mean Euclidean distance of keys, in patches, over the patches."""
  patches, _ = _patches(attention, grid, prefix, False)
  distance = jnp.asarray(_distance(grid, "euclid"), patches.dtype)
  total = patches.sum(axis=-1)
  rows = (patches * distance).sum(axis=-1) / jnp.where(total == 0, 1, total)
  return rows.mean(axis=-1)


def class_profile(
  attention: Float[Array, "*B T T"], *, grid: tuple[int, int], token: int = 0
) -> Float[Array, "*B Y X"]:
  """Returns the weights of the patches for a prefix token, the class token by default.

  Raises:
    ValueError: for a token that is not before the patches.
  """
  prefix = attention.shape[-1] - grid[0] * grid[1]
  if not 0 <= token < prefix:
    raise ValueError(f"token = {token}; {prefix} tokens are before a grid {grid}")
  row = attention[..., token, prefix:].astype(jnp.float32)
  return row.reshape(*row.shape[:-1], *grid)


def row_entropy(attention: Float[Array, "*B T S"]) -> Float[Array, "*B"]:
  """Computes the mean entropy of rows, in nats."""
  share = attention.astype(jnp.float32)
  lost = share * jnp.log(jnp.where(share > 0, share, 1))
  return -lost.sum(axis=-1).mean(axis=-1)


def template_scores(
  attention: Float[Array, "*B T T"], *, grid: tuple[int, int], prefix: int = 1
) -> Float[Array, "*B P"]:
  """Computes the cosine of patches' attention to each of TEMPLATES.

  "shift" is the best of the eight steps of one patch, "key" the best single key that
  all look at; "prefix" is not a cosine but the weight on the prefix tokens.
  """
  patches, mass = _patches(attention, grid, prefix, False)
  length = jnp.sqrt(jnp.square(patches).sum(axis=(-1, -2)))
  length = jnp.where(length == 0, 1, length)

  def cosine(shape):
    own = jnp.asarray(shape / np.linalg.norm(shape), patches.dtype)
    return (patches * own).sum(axis=(-1, -2)) / length

  steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
  moved = [_shift(grid, step) for step in steps]
  found = {name: cosine(_template(name, grid)) for name in TEMPLATES[:4]}
  some = [cosine(one) for one in moved if one.any()]
  found["shift"] = jnp.stack(some).max(axis=0) if some else 0 * length
  found["uniform"] = cosine(_template("uniform", grid))
  found["prefix"] = mass
  columns = patches.sum(axis=-2) / length[..., None] / math.sqrt(patches.shape[-1])
  found["key"] = columns.max(axis=-1)
  return jnp.stack([found[name] for name in TEMPLATES], axis=-1)


def _template(name: str, grid) -> np.ndarray:
  """Returns the rows of a pattern, (P, P), each with the sum 1 where it has some."""
  places = _places(grid)
  apart = np.abs(places[None] - places[:, None])
  shape = {
    "self": (apart == 0).all(axis=2),
    "ring": apart.max(axis=2) == 1,
    "row": apart[..., 0] == 0,
    "column": apart[..., 1] == 0,
    "uniform": np.ones(apart.shape[:2], bool),
  }[name].astype(float)
  return shape / np.maximum(shape.sum(axis=1, keepdims=True), 1)


def _shift(grid, step) -> np.ndarray:
  places = _places(grid)
  return (places[None] - places[:, None] == step).all(axis=2).astype(float)


def _places(grid) -> np.ndarray:
  return np.stack(np.divmod(np.arange(grid[0] * grid[1]), grid[1]), axis=1)


def _distance(grid, kind: str) -> np.ndarray:
  apart = np.abs(_places(grid)[None] - _places(grid)[:, None])
  return apart.max(axis=2) if kind == "chebyshev" else np.linalg.norm(apart, axis=2)


def _patches(attention, grid, prefix: int, normalise: bool):
  """Returns (weights between patches, mean weight on the prefix), float32."""
  T = attention.shape[-1]
  if attention.shape[-2] != T or T != prefix + grid[0] * grid[1] or prefix < 0:
    raise ValueError(
      f"attention {attention.shape} with {prefix} tokens before a grid {grid}"
    )
  rows = attention.astype(jnp.float32)[..., prefix:, :]
  patches, mass = rows[..., prefix:], rows[..., :prefix].sum(axis=-1).mean(axis=-1)
  if normalise:
    patches = patches / patches.sum(axis=-1, keepdims=True)
  return patches, mass
