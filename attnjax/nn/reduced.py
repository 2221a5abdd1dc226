"""Tokens some of which were dropped, and the whole rows that they stand for."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.nn import running
from attnjax.nn.class_token import Marked


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
  """The tokens that are left of rows, and all tokens of these.

  Attributes:
    rows: (B, R, D), the tokens that are left.
    places: (B, R) int32, the token of `whole` that each stands for, all different.
    whole: (B, T, D), all tokens as they were when they were left last.
  """

  rows: Any
  places: Any
  whole: Any

  @classmethod
  def begun(cls, x: Float[Array, "B T D"]) -> "Tokens":
    """Returns the tokens before any reduction."""
    places = jnp.arange(x.shape[1], dtype=jnp.int32)
    return cls(x, jnp.broadcast_to(places, x.shape[:2]), x)

  @property
  def all(self) -> Float[Array, "B T D"]:
    """Returns all tokens: those that are left as they are now, others as they were."""
    rows = jnp.arange(len(self.whole))[:, None]
    return self.whole.at[rows, self.places].set(self.rows)

  def now(self, rows: Float[Array, "B R D"]) -> "Tokens":
    """Returns the tokens with new values of those that are left."""
    return dataclasses.replace(self, rows=rows)

  def after(self, rows: Float[Array, "B r D"], kept: Int[Array, "B r"]) -> "Tokens":
    """Returns the tokens after a reduction to `rows`, which stand for those `kept`."""
    return Tokens(rows, jnp.take_along_axis(self.places, kept, axis=1), self.all)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reduced(Marked):
  """A map with or without a class token before it, as the tokens that are left.

  Attributes:
    rows: (B, R, D), the tokens that are left.
    grid: (h, w).
    left: None.
    tokens: their `Tokens`, the last h w of which are the map's.
  """

  tokens: Any = None

  @property
  def map(self) -> Array:
    """Returns the map (B, h, w, D), dropped tokens as they were when they were left."""
    found = self.tokens.now(self.rows).all
    return found[:, -math.prod(self.grid) :].reshape(-1, *self.grid, found.shape[-1])

  def after(self, rows: Float[Array, "B r D"], kept: Int[Array, "B r"]) -> "Reduced":
    """Returns the map after a reduction of its rows."""
    tokens = self.tokens.now(self.rows).after(rows, kept)
    return dataclasses.replace(self, rows=rows, tokens=tokens)


def begun(x: Marked) -> Reduced:
  """Returns a map whose tokens can be reduced."""
  if isinstance(x, Reduced):
    return x
  return Reduced(x.rows, x.grid, x.left, Tokens.begun(x.rows))


class EachRow(nnx.Module):
  """A part of single tokens, such as a norm, for those that are left and for all."""

  def __init__(self, part: Any):
    self.part = part

  def __call__(self, x: Marked) -> Marked:
    """Returns the part's tokens."""
    more = {}
    if isinstance(x, Reduced):
      whole = self.part(x.tokens.whole)
      more["tokens"] = dataclasses.replace(x.tokens, whole=whole)
    return dataclasses.replace(x, rows=self.part(x.rows), **more)


class ReducedStage(nnx.Module):
  """A stack with reducers between its blocks, as a stage of maps.

  Its blocks see the map row by row, and their mixers are of sequences.
  """

  init_stats = running.init_stats

  def __init__(self, stack: Any):
    self.stack = stack

  def __call__(
    self,
    x: Float[Array, "B h w D"],
    *,
    key: Array | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns `Reduced`, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    found = carry(self.stack, _rows(x), key=key, whole=True)
    return carry.result(Reduced(found.rows, _grid(x), None, found))

  def weights(self, x: Float[Array, "B h w D"], *, stats: Any = None) -> list[Array]:
    """Returns the weights (B, N, R, R) of every block, for the tokens that it sees."""
    own = running.Carry(self, stats, False).of(self.stack)
    return self.stack.weights(_rows(x), stats=own)

  def trace(self, x: Float[Array, "B h w D"], *, stats: Any = None, **options) -> Any:
    """Returns the stack's trace; its output is `Marked` by the tokens that are left."""
    own = running.Carry(self, stats, False).of(self.stack)
    found = self.stack.trace(_rows(x), stats=own, **options)
    return dataclasses.replace(found, output=Marked(found.output, _grid(x)))


def mean(x: Marked, *, key: Array | None = None) -> Float[Array, "B D"]:
  """Returns the mean of the tokens that are left; it is a pool of a Classifier."""
  del key
  return x.rows.mean(axis=1)


def _grid(x):
  return x.shape[1], x.shape[2]


def _rows(x):
  return x.reshape(x.shape[0], -1, x.shape[-1])
