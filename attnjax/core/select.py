"""Selection of tokens by scores: the best of all, the best so far, and their rows.

Indices take no gradient. Of equal scores the earlier token wins.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.core import devices
from attnjax.core.masks.algebra import Mask


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AtMost(Mask):
  """A mask of the keys whose number is at most the query's.

  If the numbers are ranks in an order, a query sees what comes first there.

  Attributes:
    queries: int, (B|1, T).
    keys: int, (B|1, S).
  """

  queries: Any
  keys: Any

  def operands(self):
    """Returns the numbers of the queries and of the keys."""
    return self.queries[:, None, :, None], self.keys[:, None, None, :]

  def seen(self, q, k, *operands):
    """Returns whether the key's number is at most the query's."""
    del q, k
    query, key = operands
    return key <= query


def top(
  scores: Float[Array, "*R S"], count: int
) -> tuple[Int[Array, "*R M"], Bool[Array, "*R M"]]:
  """Returns the tokens of the greatest scores in the order of time, M = min(count, S).

  Args:
    scores: -inf excludes a token.
    count: how many tokens are taken, at most.

  Returns:
    (index, real); where there are fewer than M tokens, the last places are not real
    and hold the index S - 1.
  """
  S = scores.shape[-1]
  best, index = jax.lax.top_k(jax.lax.stop_gradient(scores), min(count, S))
  index = jnp.sort(jnp.where(best > -jnp.inf, index, S), axis=-1)
  return jnp.minimum(index, S - 1).astype(jnp.int32), index < S


def kept(
  scores: Float[Array, "... S"],
  allowed: Bool[Array, "... S"],
  count: int | Int[Array, "..."],
) -> Bool[Array, "... S"]:
  """Returns whether a token is among the `count` best of those that are allowed.

  Args:
    scores: of the tokens.
    allowed: which of them may be taken; it broadcasts.
    count: how many, at most; an array broadcasts to (..., 1).
  """
  scores = jax.lax.stop_gradient(jnp.where(allowed, scores, -jnp.inf))
  order = jnp.argsort(-scores, axis=-1, stable=True)
  return (jnp.argsort(order, axis=-1) < count) & (scores > -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Best:
  """The `count` best tokens of the current document, best first.

  Attributes:
    scores: float, (R, count), -inf where there is no token.
    index: int32, (R, count), -1 where there is no token.
    documents: int32, (R, count).
  """

  scores: Any
  index: Any
  documents: Any

  @classmethod
  def empty(cls, rows: int, count: int, dtype) -> "Best":
    """Returns a list of no tokens."""
    none = jnp.full((rows, count), -1, jnp.int32)
    return cls(jnp.full((rows, count), -jnp.inf, dtype), none, none)

  def extend(self, new: "Best") -> tuple["Best", "Best"]:
    """Returns (all tokens that count for those of `new`, the best after them).

    Both are sorted, the best first.

    Args:
      new: the tokens that follow, in the order of time, (R, s).
    """
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), self, new)
    # A stable sort leaves what came before first among equals.
    whole = _sorted(joined, joined.scores)
    goes_on = whole.documents == new.documents[:, -1:]
    held = _sorted(whole, jnp.where(goes_on, whole.scores, -jnp.inf))
    count = self.scores.shape[1]
    return whole, jax.tree.map(lambda x: x[:, :count], held)


def _sorted(best: Best, scores) -> Best:
  order = jnp.argsort(-scores, axis=1, stable=True)
  take = jnp.take_along_axis
  scores, index = take(scores, order, axis=1), take(best.index, order, axis=1)
  index = jnp.where(scores > -jnp.inf, index, -1)
  return Best(scores, index, take(best.documents, order, axis=1))


def so_far(
  scores: Float[Array, "R T"], documents: Int[Array, "#R T"], count: int, size: int
) -> Int[Array, "R n M"]:
  """Returns the tokens that may be among the `count` best at some time of a chunk.

  The best are those of a token's document. A token that is no longer among the best so
  far will not be again. So for the tokens of a chunk the best before it and the chunk
  itself are enough.

  Args:
    scores: of the tokens; -inf excludes one.
    documents: the document of each token; equal numbers are adjacent.
    count: how many tokens a query sees, at most.
    size: tokens of a chunk; T must divide by it.

  Returns:
    The tokens of each of n = T / size chunks, M = count + size of them, the best
    first; -1 where there are fewer.
  """
  R, T = scores.shape
  scores = jax.lax.stop_gradient(scores)
  index = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (R, T))
  documents = jnp.broadcast_to(documents.astype(jnp.int32), (R, T))
  chunks = jax.tree.map(
    lambda x: x.reshape(R, -1, size).swapaxes(0, 1), Best(scores, index, documents)
  )

  def advance(best, new):
    whole, best = best.extend(new)
    return best, whole.index

  none = devices.vary_like(Best.empty(R, count, scores.dtype), chunks)
  _, index = jax.lax.scan(advance, none, chunks)
  return index.swapaxes(0, 1)


def last_place(allowed: Bool[Array, "*R M"], count: int) -> Int[Array, "*R"]:
  """Returns the place of the `count`-th allowed token; M - 1 if there are fewer."""
  return (jnp.cumsum(allowed, axis=-1) <= count).sum(axis=-1, dtype=jnp.int32) - 1


def rows(
  x: Float[Array, "*R S H"], index: Int[Array, "*R M"]
) -> Float[Array, "*R M H"]:
  """Gathers the rows x[..., index, :]; a negative index takes the first row."""
  return jnp.take_along_axis(x, jnp.maximum(index, 0)[..., None], axis=-2)


def added(
  y: Float[Array, "*R M H"], index: Int[Array, "*R M"], length: int
) -> Float[Array, "*R {length} H"]:
  """Scatters y by the transpose of `rows`: out[..., index, :] += y."""
  lead, (M, H) = y.shape[:-2], y.shape[-2:]

  def one(y, index):
    return jnp.zeros((length, H), y.dtype).at[index].add(y)

  out = jax.vmap(one)(y.reshape(-1, M, H), jnp.maximum(index, 0).reshape(-1, M))
  return out.reshape(*lead, length, H)
