"""The parts of a layer, by its kind."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.contract import check_options
from attnjax.core.cache import KeyValueCache
from attnjax.core.exported import serializable
from attnjax.nn import projections
from attnjax.variants.softmax.isomorphic_graph import sparse
from attnjax.variants.softmax.isomorphic_graph.attention import IMPLEMENTATIONS
from attnjax.variants.softmax.isomorphic_graph.edges import EDGES, WEIGHTINGS
from attnjax.variants.softmax.isomorphic_graph.graph import (
  Adapter,
  GraphNetwork,
  HeadAggregate,
  HeadMLPs,
)
from attnjax.variants.softmax.isomorphic_graph.inputs import OwnValues

FORMS = ("causal",)
KINDS = ("gin", "pna", "pna_lm", "sparse_gin")


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """The decoding cache of "sparse_gin".

  Attributes:
    attention: keys and values of all tokens so far.
    nodes: (layers, B, L, E), the inputs of each GIN layer.
  """

  attention: KeyValueCache
  nodes: Any


def check(form, kind, weighting, edges, combine, impl, of_gin) -> None:
  """Raises ValueError for an unknown name, and for options of another kind."""
  check_options(
    form=(form, FORMS),
    kind=(kind, KINDS),
    weighting=(weighting, WEIGHTINGS),
    edges=(edges, EDGES),
    combine=(combine, sparse.COMBINES),
    impl=(impl, ("auto", *IMPLEMENTATIONS)),
  )
  if of_gin and kind != "gin":
    raise ValueError(f"sharpen and differential with kind {kind!r}; 'gin' has them")


def adapter(dim, heads, kind, combine, wide, scales, rngs) -> Adapter | None:
  """Returns the adapter of "sparse_gin", None for other kinds.

  Args:
    dim: D.
    heads: N.
    kind: of the layer.
    combine: of the edges.
    wide: (E, GIN layers, width of the perceptrons as a multiple of E).
    scales: (first, last, layers of the model).
    rngs: for the parameters.
  """
  if kind != "sparse_gin":
    return None
  size, layers, multiplier = wide
  network = GraphNetwork(
    dim, hidden=size, layers=layers, multiplier=multiplier, rngs=rngs
  )
  aggregate = HeadAggregate(heads, rngs=rngs) if combine == "learned" else None
  first, last, depth = scales
  return Adapter(
    network, dim, aggregate=aggregate, first=first, last=last, layers=depth, rngs=rngs
  )


def start(some: bool, value: float, *shape: int) -> nnx.Param | None:
  """Returns a parameter that starts with a number everywhere, or None."""
  return nnx.Param(jnp.full(shape, value, jnp.float32)) if some else None


def output(dim, heads, some, rngs):
  """Returns the projection of all heads' results, or None."""
  size = projections.head_size(dim, heads)
  return projections.output(heads, size, dim, rngs=rngs) if some else None


def values(dim, heads, gin, second, rope_theta, rngs):
  """Returns the maps to queries, keys and values, which "gin" has not."""
  if gin:
    return OwnValues(dim, heads, second=second, rope_theta=rope_theta, rngs=rngs)
  size = projections.head_size(dim, heads)
  return projections.QueryKeyValue(
    dim, heads, heads, size, rope_theta=rope_theta, rngs=rngs
  )


def perceptrons(kind, heads, size, ratio, rngs):
  """Returns the perceptrons of all heads, or None for "sparse_gin"."""
  if kind == "sparse_gin":
    return None
  gin = kind == "gin"
  inputs, hidden = size if gin else 4 * size, int(ratio * size)
  return HeadMLPs(heads, inputs, hidden, size, bias=gin, norm=gin, rngs=rngs)
