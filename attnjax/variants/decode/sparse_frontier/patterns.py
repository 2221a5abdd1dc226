"""Patterns of a prompt's attention: block-sparse, vertical-slash, FlexPrefill."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.core import masks, select
from attnjax.variants.decode.sparse_frontier import window as windows

# Queries and keys of a block of the lists, the tiles of every implementation divide it.
LISTED = 128


def block_sparse(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  *,
  block: int = 16,
  blocks: int = 64,
) -> masks.Blocks:
  """Chooses the key blocks of each query block by the product of their means.

  The block itself, the one before it and the first one are always among them. A mask
  with later tokens of the block in it: the causal mask belongs to it.

  Args:
    q: queries.
    k: keys; K divides N.
    block: tokens of a block; the last one is filled with zeros.
    blocks: key blocks of a query block, those three included.

  Raises:
    ValueError: for blocks of no tokens, and for fewer than three.
  """
  check_blocks(block, blocks)
  (B, T, N, H), K = q.shape, k.shape[2]
  n = -(-T // block)

  def means(x):
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, n * block - T), (0, 0), (0, 0)))
    return x.reshape(B, n, block, -1, H).mean(axis=2)

  own = means(q).reshape(B, n, K, N // K, H)
  scores = jnp.einsum("bikgh,bjkh->bkgij", own, means(k)).reshape(B, N, n, n)
  row, column = jnp.arange(n)[:, None], jnp.arange(n)
  always = (column == 0) | (column == row) | (column == row - 1)
  scores = jnp.where(column <= row, scores, -jnp.inf)
  sizes = {"block_q": block, "block_k": block, "T": T, "S": T}
  return masks.select(scores, blocks, forced=always & (column <= row), **sizes)


def vertical_slash(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  *,
  lengths: Int[Array, "B"] | None = None,
  window: int = 256,
  verticals: int = 512,
  slashes: int = 512,
  first: int = 4,
  near: int = 64,
) -> tuple[Bool[Array, "B N T"], Bool[Array, "B N T"]]:
  """Chooses keys that all queries see, and distances at which every query sees a key.

  Args:
    q: queries.
    k: keys; K divides N.
    lengths: tokens of each row; T if None.
    window: the last queries, whose attention chooses.
    verticals: number of keys.
    slashes: number of distances.
    first: the first keys, always among the verticals.
    near: the smallest distances, always among the slashes.

  Returns:
    (the keys, the distances), each among 0, ..., T - 1.

  Raises:
    ValueError: for no queries, and if what is always chosen is more than the number.
  """
  check_window(window, first, near)
  check_numbers(verticals, slashes, first, near)
  vertical, slash, real = _masses(q, k, lengths, window)
  return _chosen(vertical, slash, real, verticals, slashes, first, near)


def flexprefill(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  *,
  lengths: Int[Array, "B"] | None = None,
  window: int = 512,
  alpha: float = 0.65,
  least: int = 512,
  first: int = 4,
  near: int = 64,
) -> tuple[Bool[Array, "B N T"], Bool[Array, "B N T"]]:
  """Chooses verticals and slashes, of each head as many as carry a share of attention.

  The number is that of the greatest masses whose sum first exceeds `alpha`.

  Args:
    q: as in `vertical_slash`, and so are k, lengths, first and near.
    k: keys.
    lengths: tokens of each row.
    window: the last queries, whose attention chooses.
    alpha: share of their attention.
    least: the least number of verticals, and of slashes.
    first: keys.
    near: distances.

  Raises:
    ValueError: for no queries, a share beyond 0 to 1, and if what is always chosen is
      more than the least number.
  """
  check_window(window, first, near)
  check_share(alpha, least, first, near)
  vertical, slash, real = _masses(q, k, lengths, window)
  queries = jnp.clip(real.sum(axis=-1, keepdims=True), 1, window)
  verticals, slashes = (
    jnp.maximum(_covering(mass / queries, alpha), least) for mass in (vertical, slash)
  )
  return _chosen(vertical, slash, real, verticals, slashes, first, near)


def seen(
  verticals: Bool[Array, "B N T"],
  slashes: Bool[Array, "B N T"],
  *,
  rounded: int = 1,
) -> Bool[Array, "B N T T"]:
  """Returns which keys queries see by their verticals and slashes, and no later ones.

  Args:
    verticals: keys.
    slashes: distances.
    rounded: queries of a block that shares its slashes: a slash o of a block whose
      last query is at e takes the keys e - o - rounded + 1, ..., e - o; 1 is exact.
      The authors' kernel takes 64.
  """
  place = jnp.arange(slashes.shape[2])
  hit = reached(slashes, place[None, None], rounded=rounded)
  return (hit | verticals[:, :, None]) & (place <= place[:, None])


def reached(
  slashes: Bool[Array, "B N T"], keys: Int[Array, "#B #N M"], *, rounded: int = 1
) -> Bool[Array, "B N T M"]:
  """Returns which of some keys the queries 0, ..., T - 1 see by their slashes.

  Args:
    slashes: distances.
    keys: places of the keys.
    rounded: as in `seen`.
  """
  B, N, T = slashes.shape
  query = jnp.arange(T, dtype=jnp.int32)[:, None]
  below = jnp.pad(
    jnp.cumsum(slashes, axis=2, dtype=jnp.int32), ((0, 0), (0, 0), (1, 0))
  )
  end = (query // rounded + 1) * rounded - keys[:, :, None]

  def count(distance):
    at = jnp.broadcast_to(jnp.clip(distance, 0, T), (B, N, T, keys.shape[2]))
    return jnp.take_along_axis(below[:, :, None], at, axis=3)

  return count(end) > count(end - rounded)


def listed(seen: Bool[Array, "B N T S"], block: int = LISTED) -> masks.Mask:
  """Returns a mask with the lists of its blocks, so that empty ones are not visited.

  Args:
    seen: the mask.
    block: queries and keys of a block.
  """
  B, N, T, S = seen.shape
  rows, columns = -(-T // block), -(-S // block)
  filled = (0, 0), (0, 0), (0, rows * block - T), (0, columns * block - S)
  parts = jnp.pad(seen, filled).reshape(B, N, rows, block, columns, block)
  some = parts.any(axis=(3, 5))
  index = jnp.argsort(~some, axis=-1, stable=True).astype(jnp.int32)
  count = some.sum(axis=-1, dtype=jnp.int32)
  return masks.Blocks(index, count, block, block, T, S) & masks.Dense(seen)


def _masses(q, k, lengths, window):
  """Returns the masses of keys and of distances (B, N, T), and which are real."""
  B, T = q.shape[:2]
  lengths = jnp.full((B,), T, jnp.int32) if lengths is None else lengths
  real = jnp.arange(T) < lengths[:, None]
  k = jnp.where(real[..., None, None], k, 0)
  weights = windows.weights(windows.last_queries(q, lengths, window), k, lengths)
  return weights.sum(axis=2), windows.diagonals(weights, lengths), real[:, None]


def _chosen(vertical, slash, real, verticals, slashes, first, near):
  """Returns the best keys and distances, after those that are always chosen."""
  place = jnp.arange(real.shape[-1])
  vertical = jnp.where(place < first, jnp.inf, vertical)
  slash = jnp.where(place < near, jnp.inf, slash)
  return select.kept(vertical, real, verticals), select.kept(slash, real, slashes)


def _covering(mass: Float[Array, "B N T"], alpha: float) -> Int[Array, "B N 1"]:
  """Returns how many of the greatest masses are needed to exceed a sum."""
  total = jnp.cumsum(-jnp.sort(-mass, axis=-1), axis=-1)
  return (total <= alpha).sum(axis=-1, keepdims=True, dtype=jnp.int32) + 1


def check_blocks(block: int, blocks: int) -> None:
  """Raises ValueError for blocks of no tokens, and for too few of them."""
  if block < 1 or blocks < 3:
    raise ValueError(
      f"block = {block}, blocks = {blocks}: at least 1, and 3 for the blocks that are"
      " always chosen"
    )


def check_window(window: int, first: int, near: int, rounded: int = 1) -> None:
  """Raises ValueError for no queries, and for what is always chosen if they do not."""
  if min(window, near, rounded) < 1 or first < 0:
    raise ValueError(
      f"window = {window}, near = {near}, rounded = {rounded}, first = {first}: at"
      " least 1, 1 (a query sees itself), 1 and 0"
    )


def check_numbers(verticals: int, slashes: int, first: int, near: int) -> None:
  """Raises ValueError if fewer are chosen than are always chosen."""
  if verticals < first or slashes < near:
    raise ValueError(
      f"verticals = {verticals}, slashes = {slashes}: at least first = {first} and"
      f" near = {near}, which are always chosen"
    )


def check_share(alpha: float, least: int, first: int, near: int) -> None:
  """Raises ValueError for no share, and if fewer may be chosen than always are."""
  if not 0 <= alpha <= 1 or least < max(first, near):
    raise ValueError(
      f"alpha = {alpha}, least = {least}: from 0 to 1, and at least first = {first}"
      f" and near = {near}, which are always chosen"
    )
