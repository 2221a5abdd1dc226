"""The graph in blocks of queries: edges, and what tokens gather along them.

Blocks follow each other, and the backward pass makes the edges of a block again, so
that neither pass holds the pairs of more than one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.core import query_blocks
from attnjax.variants.softmax.isomorphic_graph import edges

PAIRS = 2**24  # (batch, head, query, key) of a block, at most
ROWS = 128  # a block has a multiple of so many queries


def over_queries(function: Callable, arrays: Any, shape: tuple[int, ...]) -> Any:
  """Returns function(first, arrays) of all queries, block by block.

  Args:
    function: the number of the first query and a tree of arrays (B, t, ...) to a tree
      of arrays (B, t, ...).
    arrays: a tree of arrays (B, T, ...); None stays.
    shape: (B, N, T, S).
  """
  return query_blocks.over_queries(function, arrays, shape, pairs=PAIRS, rows=ROWS)


class Found(NamedTuple):
  """The edges of some queries.

  Attributes:
    found: weights of the edges, (B, N, t, S).
    plain: whether they are the weights of a softmax.
    seen: which pairs there are, (B|1, 1, t, S).
  """

  found: Any
  plain: bool
  seen: Any


def pairs(first: Any, part: dict[str, Any], given: dict[str, Any]) -> tuple[Any, Any]:
  """Returns which pairs are seen (B|1, 1, t, S), and which key is the token (t, S)."""
  t, S, offset = part["q"].shape[1], given["k"].shape[1], given["offset"]
  seen = edges.visible(t, S, first, offset, part["ids"], given["kv_ids"])
  places = jnp.asarray(first + offset, jnp.int32) + jnp.arange(t, dtype=jnp.int32)
  return seen, jnp.arange(S, dtype=jnp.int32)[None] == places[:, None]


def adjacency(first: Any, part: dict[str, Any], given: dict[str, Any]) -> Found:
  """Returns the edges of some queries.

  Args:
    first: number of the first query.
    part: "q", "second_q" or None, and "ids" or None of the queries.
    given: of all queries: k, second_k, mixing, threshold, offset, kv_ids, scale,
      weighting, and the options of `edges.transformed` as "transform".
  """
  seen, itself = pairs(first, part, given)
  how = {"scale": given["scale"], "weighting": given["weighting"]}
  a = edges.weights(part["q"], given["k"], seen, **how)
  if part["second_q"] is not None:
    other = edges.weights(part["second_q"], given["second_k"], seen, **how)
    a = a - given["mixing"] * other
  made = given["transform"]
  found = edges.transformed(a, seen, itself, given["threshold"], **made)
  plain = made["edges"] == "none" and given["weighting"] == "softmax"
  return Found(found, plain, seen)


def neighbours(made: Found, kind: str, threshold: Any, as_released: bool) -> Any:
  """Returns the neighbours (B|1, N|1, t, S) of which extremes are taken, or None."""
  if kind == "gin" or (kind == "pna" and as_released):
    return None
  if kind == "pna":
    return made.seen if made.plain else made.found > 0
  near = (made.found > threshold) & made.seen
  if as_released:
    first = made.seen & (jnp.cumsum(made.seen, axis=-1) == 1)
    some = made.found.sum(axis=-1, keepdims=True) != 0
    near = jnp.where(near.any(axis=-1, keepdims=True), near, first & some)
  return near


def gathered(
  kind: str,
  found: Float[Array, "B N t S"],
  near: Bool[Array, "#B #N t S"] | None,
  v: Float[Array, "B S N V"],
  own: Float[Array, "B t N V"],
) -> Float[Array, "B t N W"]:
  """Returns what tokens gather along edges, W = V ("gin") or 4 V, in the wide type.

  Args:
    kind: "gin": the sum; "pna": sum, mean, greatest and variance; "pna_lm": mean, the
      vector of the greatest norm, variance, the vector of the least norm.
    found: weights of the edges.
    near: which keys are neighbours, of which the extremes are taken; None for the own
      value.
    v: values.
    own: values of the queries' tokens, which stand for those of no neighbour.
  """
  v, own = v.astype(found.dtype), own.astype(found.dtype)
  total = jnp.einsum("bnts,bsnv->btnv", found, v)
  if kind == "gin":
    return total
  degree = found.sum(axis=-1).swapaxes(1, 2)[..., None]
  degree = jnp.where(degree == 0, 1, degree)
  mean = total / degree
  square = jnp.einsum("bnts,bsnv->btnv", found, v * v) / degree
  spread = jnp.maximum(square - mean * mean, 0)
  if kind == "pna":
    most = own if near is None else greatest(_all(near, found), v, own)
    return jnp.concatenate([total, mean, most, spread], axis=-1)
  near = _all(near, found)
  norm = jnp.square(jax.lax.stop_gradient(v)).sum(axis=-1).swapaxes(1, 2)[:, :, None]
  longest, shortest = (
    jnp.where(near, x, -jnp.inf).argmax(axis=-1)[..., None] for x in (norm, -norm)
  )
  ends = [_taken(index, near, v, own) for index in (longest, shortest)]
  return jnp.concatenate([mean, ends[0], spread, ends[1]], axis=-1)


def _all(near, found):
  return jnp.broadcast_to(near, found.shape)


def greatest(
  near: Bool[Array, "B N t S"],
  v: Float[Array, "B S N V"],
  own: Float[Array, "B t N V"],
) -> Float[Array, "B t N V"]:
  """Returns the greatest value of the neighbours, each feature alone."""

  def index(x):
    x = x.swapaxes(1, 2)[:, :, None]
    return jnp.where(near, x, -jnp.inf).argmax(axis=-1)

  found = jax.lax.map(index, jnp.moveaxis(jax.lax.stop_gradient(v), 3, 0))
  return _taken(jnp.moveaxis(found, 0, 3), near, v, own)


def _taken(
  index: Int[Array, "B N t #V"], near: Any, v: Any, own: Any
) -> Float[Array, "B t N V"]:
  """Returns values by their keys' numbers, and `own` where there is no neighbour."""
  rows = v.swapaxes(1, 2)
  index = jnp.broadcast_to(index, (*index.shape[:3], v.shape[3]))
  found = jnp.take_along_axis(rows, index, axis=2).swapaxes(1, 2)
  return jnp.where(near.any(axis=-1).swapaxes(1, 2)[..., None], found, own)
