"""The tiles of the TPU kernel, and the arrays as it has them."""

import dataclasses
import math

import jax
import jax.numpy as jnp

LANES = 128


@dataclasses.dataclass(frozen=True)
class Plan:
  """The constants of a kernel.

  Attributes:
    N: query heads.
    K: key heads.
    group: rows of the queries of a key head.
    page: tokens of a page.
    pages: of a tile.
    M: pages of a list.
    scores: whether scores of tokens are written.
    scale: what products are multiplied by.
  """

  N: int
  K: int
  group: int
  page: int
  pages: int
  M: int
  scores: bool
  scale: float

  @classmethod
  def of(cls, N, K, page: int, pages: int, M: int, scores: bool, scale) -> "Plan":
    """Returns a plan of tiles of at least `pages` pages that fill whole lanes."""
    least = LANES // math.gcd(LANES, page * K)
    group = _ceil(N // K, 8) if scores else N // K
    return cls(N, K, group, page, _ceil(pages, least), M, scores, float(scale))

  @property
  def rows(self) -> int:
    """Returns the rows of queries, with padding."""
    return _ceil(self.K * self.group, 16)

  @property
  def height(self) -> int:
    """Returns the rows of a page of keys."""
    return self.page * self.K

  @property
  def columns(self) -> int:
    """Returns the rows of keys of a tile."""
    return self.pages * self.height

  @property
  def blocks(self) -> int:
    """Returns the tiles of a list."""
    return max(1, -(-self.M // self.pages))

  def by_group(self, q: jax.Array) -> jax.Array:
    """Returns queries (B, N, H) as (B, rows, H), those of a key head together."""
    B, _, H = q.shape
    q = q.reshape(B, self.K, -1, H)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, self.group - q.shape[2]), (0, 0)))
    q = q.reshape(B, -1, H)
    return jnp.pad(q, ((0, 0), (0, self.rows - q.shape[1]), (0, 0)))

  def by_head(self, x: jax.Array) -> jax.Array:
    """Returns results (B, rows, V) as (B, N, V)."""
    x = x[:, : self.K * self.group].reshape(len(x), self.K, self.group, -1)
    return x[:, :, : self.N // self.K].reshape(len(x), self.N, -1)

  def weights(self, logits, lse, counts) -> jax.Array:
    """Returns the greatest weight of each token for each key head, (B, K, M page).

    Args:
      logits: scores (B, blocks, group, columns), anything where there is no token.
      lse: (B, N).
      counts: (B, blocks pages), tokens of pages.
    """
    B = len(lse)
    finite = jnp.where(lse == -jnp.inf, 0, lse).reshape(B, self.K, -1).swapaxes(1, 2)
    each = jnp.tile(finite, (1, 1, self.columns // self.K))[:, None]
    most = jnp.exp(logits[:, :, : finite.shape[1]] - each).max(axis=2)
    most = most.reshape(B, -1, self.page, self.K)
    inside = jnp.arange(self.page) < counts[..., None]
    most = jnp.where(inside[..., None], most, 0)[:, : self.M]
    return most.reshape(B, -1, self.K).swapaxes(1, 2)

  def whole(self, x: jax.Array) -> jax.Array:
    """Returns numbers of pages (B, M) padded by 0 to whole tiles."""
    return jnp.pad(x, ((0, 0), (0, self.blocks * self.pages - self.M)))

  def patterns(self) -> tuple[jax.Array, jax.Array]:
    """Returns each row's head (rows, LANES), and (head, place, page) of columns."""
    heads = jax.lax.broadcasted_iota(jnp.int32, (self.rows, LANES), 0) // self.group
    column = jnp.arange(self.columns, dtype=jnp.int32)
    own = column % self.K, column // self.K % self.page, column // self.height
    return heads, jnp.stack([*own, *[column] * 5])


def _ceil(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple
