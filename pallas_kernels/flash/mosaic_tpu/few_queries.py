"""Few queries: the heads of a group become rows that share one product with keys.

The matrix unit multiplies by a tile of keys that stays in it; T rows pass through with
the queries of one head, g T rows with those of all g heads that read the same keys.
"""

import dataclasses

import jax
import jax.numpy as jnp

# More rows than this fill the unit by themselves.
ENOUGH = 128


@dataclasses.dataclass(frozen=True)
class Fold:
  """Queries (B, T, K g, H) as (B, g T, K, H); row r: query r mod T of head r div T."""

  T: int
  K: int
  group: int

  @classmethod
  def of(cls, q: jax.Array, k: jax.Array, schedule) -> "Fold | None":
    """Returns the fold of these queries, or None where it is useless or not allowed."""
    _, T, N, _ = q.shape
    K = k.shape[2]
    shared = schedule.index.shape[1] == 1 and schedule.index.shape[2] == 1
    if K == N or not shared or T >= ENOUGH:
      return None
    return cls(T, K, N // K)

  def queries(self, q: jax.Array) -> jax.Array:
    """Folds queries (B, T, N, H) to (B, g T, K, H)."""
    B, T, _, H = q.shape
    q = q.reshape(B, T, self.K, self.group, H)
    return q.transpose(0, 3, 1, 2, 4).reshape(B, self.group * T, self.K, H)

  def outputs(self, x: jax.Array) -> jax.Array:
    """Unfolds outputs (B, g T, K, ...) to (B, T, N, ...)."""
    x = x.reshape(x.shape[0], self.group, self.T, *x.shape[2:])
    x = jnp.moveaxis(x, 1, 3)
    return x.reshape(*x.shape[:2], self.K * self.group, *x.shape[4:])

  def operand(self, x: jax.Array) -> jax.Array:
    """Folds an operand (., N|1, T|1, .) to (., K|1, g T|1, .)."""
    B, N, T, S = x.shape
    if N == T == 1:
      return x
    heads = self.K if N > 1 else 1
    group = self.group if N > 1 else 1
    x = x.reshape(B, heads, group, T, S)
    x = jnp.broadcast_to(x, (B, heads, self.group, self.T, S))
    return x.reshape(B, heads, self.group * self.T, S)

  def numbers(self) -> jax.Array:
    """Returns the query index of each row, as an operand (1, 1, g T, 1)."""
    return jnp.tile(jnp.arange(self.T, dtype=jnp.int32), self.group)[
      None, None, :, None
    ]
