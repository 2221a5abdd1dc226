"""Sparse-GIN's edges: the sum of all heads' weights, sharpened and cut.

Every edge is above a bound, and the weights of a row sum to N. So a row has few edges,
whatever the data: their tokens are listed, and messages are gathered by the lists.
"""

import math
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.softmax.isomorphic_graph import blocks, edges
from attnjax.variants.softmax.isomorphic_graph.definition import reference_messages

COMBINES = ("sum", "mean", "any", "learned")
# Lists are used where they are shorter than this part of the keys.
_SHORT = 4


class Given(TypedDict, total=False):
  """Options of the edges, see `combined`."""

  combine: str
  sharpness: float
  threshold: float
  least: float
  any_temperature: float
  self_loops: bool
  as_released: bool


DEFAULTS: dict[str, Any] = {
  "combine": "sum",
  "sharpness": 10.0,
  "threshold": 0.1,
  "least": 0.6,
  "any_temperature": 10.0,
  "self_loops": True,
  "as_released": False,
}


class Edges(NamedTuple):
  """The edges of some queries.

  Attributes:
    index: the keys, int32, (B, T, C); None for all of them.
    weight: (B, T, C), or (B, T, S); 0 is no edge.
  """

  index: Any
  weight: Any


def combined(
  a: Float[Array, "B N T S"],
  seen: Bool[Array, "#B 1 T S"],
  itself: Bool[Array, "T S"],
  learned: Any = None,
  **given: Unpack[Given],
) -> Float[Array, "B T S"]:
  """Returns the edges of the graph from the weights of all heads; 0 is no edge.

  Args:
    a: attention weights.
    seen: which pairs there are.
    itself: which key is the query's own token.
    learned: weights (B, N, T, S) to (B, T, S), for `combine` "learned".
    **given: combine: "sum" of the heads, at most 1, "mean", "any": the greatest
      sigmoid((a - threshold) / any_temperature), or "learned"; sharpness: the result x
      becomes sigmoid(sharpness (x - threshold)), 0 leaves it; least: edges are above
      it; self_loops: whether tokens are their own neighbours; as_released: only they
      are, since the authors' code drops the edges from earlier tokens.
  """
  how: Any = DEFAULTS | given
  x = {
    "sum": lambda: jnp.minimum(a.sum(axis=1), 1),
    "mean": lambda: a.mean(axis=1),
    "any": lambda: jax.nn.sigmoid((a - how["threshold"]) / how["any_temperature"]).max(
      axis=1
    ),
    "learned": lambda: learned(a),
  }[how["combine"]]()
  if how["sharpness"]:
    x = jax.nn.sigmoid(how["sharpness"] * (x - how["threshold"]))
  edge = seen[:, 0] & (x > how["least"])
  if how["as_released"]:
    edge = edge & itself[None]
  if not how["self_loops"]:
    edge = edge & ~itself[None]
  return jnp.where(edge, x, 0)


def bound(heads: int, **given: Unpack[Given]) -> int | None:
  """Returns the most edges that a token can have; None if no bound is known."""
  how: Any = DEFAULTS | given
  least = how["least"]
  if how["combine"] not in ("sum", "mean"):
    return None
  if how["sharpness"]:
    if not 0 < least < 1:
      return None
    least = how["threshold"] + math.log(least / (1 - least)) / how["sharpness"]
  total = heads if how["combine"] == "sum" else 1
  return math.floor(total / least) + 1 if least > 0 else None


def find(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S N H"],
  *,
  scale: float | None = None,
  offset: Any = None,
  segment_ids: Any = None,
  kv_segment_ids: Any = None,
  learned: Any = None,
  **given: Unpack[Given],
) -> Edges:
  """Returns the edges of a softmax's weights, as lists where these are short.

  Args:
    q: queries.
    k: keys.
    scale: H^-0.5 if None.
    offset: token t sees the keys s <= t + offset; S - T if None.
    segment_ids: (B, T); tokens see their own segment, negative ids see nothing.
    kv_segment_ids: (B, S); `segment_ids` if None.
    learned: see `combined`.
    **given: see `combined`.
  """
  check_known("combine", given.get("combine", "sum"), COMBINES)
  (B, T, N, H), S = q.shape, k.shape[1]
  kv_ids = segment_ids if kv_segment_ids is None else kv_segment_ids
  rest = {"k": k, "kv_ids": kv_ids, "offset": S - T if offset is None else offset}
  if kv_ids is not None:
    rest["k"] = jnp.where((kv_ids >= 0)[:, :, None, None], k, 0)
    q = jnp.where((segment_ids >= 0)[:, :, None, None], q, 0)
  most = bound(N, **given)
  lists = most is not None and _SHORT * most <= S

  def block(first, part):
    seen, itself = blocks.pairs(first, part, rest)
    how: Any = {"scale": H**-0.5 if scale is None else scale, "weighting": "softmax"}
    a = edges.weights(part["q"], rest["k"], seen, **how)
    weight = combined(a, seen, itself, learned, **given)
    if not lists:
      return Edges(None, weight)
    _, index = jax.lax.top_k(jax.lax.stop_gradient(weight), most)
    return Edges(index.astype(jnp.int32), jnp.take_along_axis(weight, index, axis=-1))

  return blocks.over_queries(block, {"q": q, "ids": segment_ids}, (B, N, T, S))


def sent(found: Edges, u: Float[Array, "B S E"]) -> Float[Array, "B T E"]:
  """Returns the sums of values along edges, in the wide type.

  Args:
    found: the edges.
    u: values of all keys.
  """
  u = u.astype(accumulator_dtype(u))
  if found.index is None:
    return jnp.einsum("bts,bse->bte", found.weight, u)
  B, T, C = found.index.shape
  rows = jnp.take_along_axis(u, found.index.reshape(B, T * C)[..., None], axis=1)
  return jnp.einsum("btc,btce->bte", found.weight, rows.reshape(B, T, C, -1))


def messages(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S N H"],
  u: Float[Array, "B S E"],
  *,
  impl: str = "auto",
  **given: Any,
) -> Float[Array, "B T E"]:
  """Computes the sums of u along the edges of Sparse-GIN.

  Args:
    q: queries.
    k: keys.
    u: values of all keys; NaN at padding reaches nothing.
    impl: "reference", "xla" or "auto".
    **given: see `find`.

  Raises:
    ValueError: if a name is unknown.
    NotImplementedError: for other implementations: scores of a kernel are of one head.
  """
  if impl == "reference":
    return reference_messages(q, k, u, **given)
  check_known("impl", impl, ("auto", "reference", "xla", "pallas", "triton"))
  if impl in ("pallas", "triton"):
    raise NotImplementedError(
      f"impl {impl!r}: an edge is a function of the weights of all heads, and a score"
      " of a kernel one of a single head; 'xla' computes it"
    )
  ids = given.get("segment_ids")
  kv_ids = given.get("kv_segment_ids")
  kv_ids = ids if kv_ids is None else kv_ids
  if kv_ids is not None:
    u = jnp.where((kv_ids >= 0)[..., None], u, 0)
  return sent(find(q, k, **given), u).astype(u.dtype)
