"""The step on the graph of an attention, whose weights are computed tile by tile."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.core import query_blocks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.p_adapter import messages, pooling
from attnjax.variants.cross.p_adapter.definition import EPSILON, reference
from attnjax.variants.cross.p_adapter.messages import IMPLEMENTATIONS

KINDS = ("self", "cross")


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  nodes: Float[Array, "B R N C"],
  rows: Float[Array, "B T N C"] | None = None,
  p: Float[Array, ""] | float = 1.75,
  mu: Float[Array, ""] | float = 0.1,
  *,
  kind: str = "self",
  causal: bool = False,
  offset: Int[Array, ""] | int | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  kv_segment_ids: Int[Array, "B S"] | None = None,
  scale: float | None = None,
  pool: int = 0,
  pool_padding: bool = False,
  epsilon: float = EPSILON,
  impl: str = "auto",
) -> Float[Array, "B T N C"]:
  """Computes `p_laplacian_step` on the weights of softmax attention of q and k.

  Args:
    q: queries.
    k: keys, K divides N.
    nodes: features of the keys, R = S; with `pool` of the windows, R = `pool`.
    rows: features of the queries, of "cross" alone.
    p: of the energy.
    mu: weight of the source, at least 0.
    kind: "self": the queries are the keys from `offset` on, T <= S, whose features are
      the source; "cross": a bipartite graph, without a source.
    causal: token t sees the keys s <= t + offset.
    offset: number of the first query among the keys; S - T if None.
    segment_ids: tokens see their own segment, negative ids see nothing and have 0.
    kv_segment_ids: the keys' segments; `segment_ids` if None (needs T = S).
    scale: H^-0.5 if None.
    pool: of "cross", the number of windows of keys whose weights are averaged; 0: none.
    pool_padding: whether windows count keys of negative ids, as the authors' do.
    epsilon: e.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit, or a number or name is not allowed.
  """
  _check(q, k, nodes, rows, kind, pool, impl)
  options: dict[str, Any] = {"kind": kind, "causal": causal, "offset": offset}
  options |= {"segment_ids": segment_ids, "kv_segment_ids": kv_segment_ids}
  options |= {"scale": scale, "pool": pool, "pool_padding": pool_padding}
  if impl == "reference":
    return reference(q, k, nodes, rows, p, mu, epsilon=epsilon, **options)
  return _attend(q, k, nodes, rows, p, mu, epsilon=epsilon, **options)


def _attend(q, k, nodes, rows, p, mu, *, epsilon, **given):
  """Computes `attend` in blocks of queries."""
  (B, T, N, _), S = q.shape, k.shape[1]
  ids = given["segment_ids"]
  kv_ids = ids if given["kv_segment_ids"] is None else given["kv_segment_ids"]
  start = S - T if given["offset"] is None else given["offset"]
  real = None if kv_ids is None else kv_ids >= 0
  if rows is None:
    rows = jax.lax.dynamic_slice_in_dim(nodes, start, T, axis=1)
  if ids is not None and real is not None:
    q, rows = (jnp.where((ids >= 0)[..., None, None], x, 0) for x in (q, rows))
    k = jnp.where(real[..., None, None], k, 0)
    if not given["pool"]:
      nodes = jnp.where(real[..., None, None], nodes, 0)
  shares = None
  if given["pool"]:
    counted = None if given["pool_padding"] else real
    shares = pooling.windows(S, counted, given["pool"])
  scale = q.shape[3] ** -0.5 if given["scale"] is None else given["scale"]
  k = jnp.repeat(k, N // k.shape[2], axis=2)

  def block(first, part):
    t = part["q"].shape[1]
    place = jnp.arange(S, dtype=jnp.int32)[None]
    number = jnp.asarray(first + start, jnp.int32) + jnp.arange(t, dtype=jnp.int32)
    number = number[:, None]
    seen = (place <= number)[None, None] if given["causal"] else None
    if part["ids"] is not None:
      own, other = part["ids"][:, None, :, None], kv_ids[:, None, None]
      same = (own == other) & (own >= 0)
      seen = same if seen is None else seen & same
    weight = _softmax(scale * _scores(part["q"], k), seen)
    if shares is not None:
      weight = _pooled(weight, shares)
    itself = (place == number)[None, None] if given["kind"] == "self" else None
    found = messages.gathered(
      weight, part["rows"], nodes, itself, p, mu, epsilon=epsilon
    )
    if part["ids"] is None:
      return found
    return jnp.where((part["ids"] >= 0)[..., None, None], found, 0)

  limits = {"pairs": messages.PAIRS, "rows": messages.ROWS}
  arrays = {"q": q, "rows": rows, "ids": ids}
  return query_blocks.over_queries(block, arrays, (B, N, T, S), **limits)


def _scores(q: Float[Array, "B t N H"], k: Float[Array, "B S N H"]) -> Array:
  wide = accumulator_dtype(q)
  return jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=wide)


def _pooled(weight: Float[Array, "B N t S"], shares: Float[Array, "#B S R"]) -> Array:
  """Returns the means of the weights in windows of keys."""
  shares = shares.astype(weight.dtype)
  if shares.shape[0] == 1:
    return jnp.einsum("bnts,sr->bntr", weight, shares[0])
  return jnp.einsum("bnts,bsr->bntr", weight, shares)


def _softmax(
  scores: Float[Array, "B N t S"], seen: Bool[Array, "#B 1 t S"] | None
) -> Float[Array, "B N t S"]:
  """Returns the weights of attention; rows that see nothing have 0."""
  if seen is None:
    return jax.nn.softmax(scores, axis=-1)
  most = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf, where=seen)
  most = jax.lax.stop_gradient(jnp.where(most == -jnp.inf, 0, most))
  power = jnp.exp(jnp.where(seen, scores - most, -jnp.inf))
  total = power.sum(axis=-1, keepdims=True)
  return power / jnp.where(total == 0, 1, total)


def _check(q, k, nodes, rows, kind, pool, impl) -> None:
  """Raises ValueError for arguments that do not fit."""
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  check_known("kind", kind, KINDS)
  (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
  if k.shape != (B, S, K, H) or N % max(K, 1):
    raise ValueError(f"k {k.shape} does not fit q {q.shape}: K divides N")
  if pool < 0 or pool and kind == "self":
    raise ValueError(f"pool = {pool} with kind {kind!r}; 'cross' takes at least 0")
  if nodes.shape[:3] != (B, pool or S, N):
    raise ValueError(f"nodes {nodes.shape} begin with {(B, pool or S, N)}")
  if (rows is None) != (kind == "self"):
    raise ValueError(f"kind {kind!r}: 'cross' alone takes rows, and needs them")
  if kind == "self" and T > S:
    raise ValueError(f"{T} queries, {S} keys: the queries of 'self' are among the keys")
  if rows is not None and rows.shape != (B, T, N, nodes.shape[3]):
    raise ValueError(f"rows {rows.shape}; they are {(B, T, N, nodes.shape[3])}")
