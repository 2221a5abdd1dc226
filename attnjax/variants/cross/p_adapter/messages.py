"""One step of p-Laplacian message passing on a graph of attention weights."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax.contract import check_known
from attnjax.core import query_blocks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.p_adapter.definition import (
  EPSILON,
  reference_p_laplacian_step,
)

IMPLEMENTATIONS = ("reference", "xla")
PAIRS = 2**18  # (batch, head, query, key) of a block, at most
ROWS = 8  # a block has a multiple of so many queries


def p_laplacian_step(
  nodes: Float[Array, "B S N C"],
  graph: Float[Array, "B N T S"],
  rows: Float[Array, "B T N C"] | None = None,
  p: Float[Array, ""] | float = 1.75,
  mu: Float[Array, ""] | float = 0.1,
  *,
  epsilon: float = EPSILON,
  impl: str = "auto",
) -> Float[Array, "B T N C"]:
  """Computes F'[t], the mean of the neighbours' features, weighed by M; see the module.

  Args:
    nodes: features of the nodes to which edges lead, F.
    graph: weights of the edges, not negative: a negative one gives NaN.
    rows: features of the nodes that gather, of a bipartite graph: no node is on both
      sides, and there is no source term. None: all nodes gather, T = S, and the own
      features are the source.
    p: of the energy; 2 leaves the weights as they are, less prefers near nodes.
    mu: weight of the source, at least 0.
    epsilon: e.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  B, S, N, C = nodes.shape
  T = S if rows is None else rows.shape[1]
  if graph.shape != (B, N, T, S):
    raise ValueError(f"graph {graph.shape}; nodes and rows take {(B, N, T, S)}")
  if rows is not None and rows.shape != (B, T, N, C):
    raise ValueError(f"rows {rows.shape}; nodes {nodes.shape} take T x {N, C}")
  if impl == "reference":
    return reference_p_laplacian_step(nodes, graph, rows, p, mu, epsilon=epsilon)

  def block(first, part):
    itself = None
    if rows is None:
      number = first + jnp.arange(part["rows"].shape[1], dtype=jnp.int32)
      itself = (jnp.arange(S, dtype=jnp.int32)[None] == number[:, None])[None, None]
    weight = jnp.swapaxes(part["graph"], 1, 2)
    return gathered(weight, part["rows"], nodes, itself, p, mu, epsilon=epsilon)

  arrays = {"graph": jnp.swapaxes(graph, 1, 2)}
  arrays["rows"] = nodes if rows is None else rows
  limits = {"pairs": PAIRS, "rows": ROWS}
  return query_blocks.over_queries(block, arrays, (B, N, T, S), **limits)


def gathered(
  weight: Float[Array, "B N t S"],
  rows: Float[Array, "B t N C"],
  nodes: Float[Array, "B S N C"],
  itself: Bool[Array, "1 1 t S"] | None,
  p: Any,
  mu: Any,
  *,
  epsilon: float,
) -> Float[Array, "B t N C"]:
  """Returns F' of some queries, in the type of the nodes' features.

  Distances are sums of squared differences, feature by feature: |a|^2 + |b|^2 - 2 ab
  has no digits left for near nodes, to which p < 2 gives the largest weights.

  Args:
    weight: of the edges.
    rows: features of the queries.
    nodes: features of all keys.
    itself: which key is the query's own token; None in a bipartite graph, which has
      no source term.
    p: of the energy.
    mu: weight of the source.
    epsilon: e.
  """
  kind, wide = nodes.dtype, accumulator_dtype(nodes)
  rows, nodes, weight = (x.astype(wide) for x in (rows, nodes, weight))
  p, mu = (jnp.asarray(x, wide) for x in (p, mu))
  there, here = jnp.transpose(nodes, (3, 0, 2, 1)), jnp.transpose(rows, (3, 0, 2, 1))
  square = jnp.square(there[:, :, :, None, :] - here[:, :, :, :, None]).sum(axis=0)
  equal = square == 0 if itself is None else (square == 0) | itself
  apart = (weight + epsilon) * jnp.where(equal, 1, square)
  apart = jnp.where(equal, epsilon**2 * nodes.shape[3], apart)
  edges = weight * jnp.exp((p - 2) / 2 * jnp.log(apart))
  ratio = 2 * mu / p
  total = jnp.swapaxes(edges.sum(axis=-1), 1, 2)[..., None] + ratio
  found = jnp.einsum("bnts,bsnc->btnc", edges, nodes)
  found = found if itself is None else found + ratio * rows
  # Without a source, a node without edges has 0 / 0.
  return (found / jnp.where(total == 0, 1, total)).astype(kind)
