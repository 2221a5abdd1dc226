"""The parts of the form "cross": a text attends to the pooled tokens of an image."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import unknown
from attnjax.core.streams import Stream
from attnjax.nn import projections
from attnjax.variants.cross.p_adapter import attention, pooling
from attnjax.variants.softmax import dot_product

STREAMS = ("text", "image")
REFUSES = {"positions": "neither the text's tokens nor the image's have places here"}
EPSILON = 1e-12  # of BERT's norms


def widths(dim: int | Mapping[str, int]) -> Mapping[str, int]:
  """Returns the widths of the streams by their names.

  Raises:
    ValueError: if the names are others.
  """
  if not isinstance(dim, Mapping):
    return dict.fromkeys(STREAMS, dim)
  if set(dim) != set(STREAMS):
    raise ValueError(f"dim has the streams {', '.join(dim)}; they are text and image")
  return dim


def norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """Returns the norm of the new states."""
  return nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)


def check(
  given: Mapping[str, Stream], context: Any, refuses: Mapping[str, str]
) -> None:
  """Raises for streams that are missing, for positions, and for an unknown context.

  Args:
    given: the streams by their names.
    context: what else the layer was called with: `index`, which it does not read.
    refuses: the reason why positions are refused.
  """
  for name in context:
    if name != "index":
      raise TypeError(unknown("context", name, ["index"]))
  for name in STREAMS:
    if name not in given:
      raise ValueError(f"there is no stream {name!r} among {', '.join(given)}")
    if given[name].positions is not None:
      raise NotImplementedError(f"{name}.positions: {refuses['positions']}")


class Projections(nnx.Module):
  """The maps of a text to queries, and of an image to keys and values."""

  def __init__(
    self,
    widths: Mapping[str, int],
    heads: int,
    kv_heads: int,
    size: int,
    *,
    qk_norm: bool,
    bias: bool,
    rngs: nnx.Rngs,
  ):
    own: dict[str, Any] = {"qk_norm": qk_norm, "bias": bias, "rngs": rngs}
    text, image = (
      projections.QueryKeyValue(widths[name], heads, kv_heads, size, **own)
      for name in STREAMS
    )
    self.query, self.query_norm = text.query, text.query_norm
    self.key, self.value, self.key_norm = image.key, image.value, image.key_norm

  def __call__(self, text: Array, image: Array) -> tuple[Array, Array, Array]:
    """Returns q of the text, k and v of the image."""
    q, k, v = self.query(text), self.key(image), self.value(image)
    if self.query_norm is not None and self.key_norm is not None:
      q, k = self.query_norm(q), self.key_norm(k)
    return q, k, v


class Graph(NamedTuple):
  """The bipartite graph of a layer.

  Attributes:
    q: queries (B, T, N, H).
    k: keys (B, S, K, H).
    v: values (B, S, K, H).
    values: the values' nodes (B, R, N, H), pooled.
    seen: the arguments of attention that say who sees whom.
  """

  q: Any
  k: Any
  v: Any
  values: Any
  seen: dict[str, Any]


def graph(layer: Any, text: Stream, image: Stream) -> Graph:
  """Returns the graph of a text and an image."""
  x = text.cleared()
  y = image.x if layer.pool_padding else image.cleared()
  q, k, v = layer.qkv(x, y)
  seen = {}
  if image.valid is not None:
    seen["segment_ids"] = jnp.zeros(x.shape[:2], jnp.int32)
    seen["kv_segment_ids"] = jnp.where(image.valid, 0, -1)
  values = jnp.repeat(v, q.shape[2] // v.shape[2], axis=2)
  if layer.pool:
    counted = None if layer.pool_padding else image.valid
    values = pooling.adaptive_pool(values, counted, size=layer.pool)
  return Graph(q, k, v, values.astype(v.dtype), seen)


def states(layer: Any, text: Stream, image: Stream) -> Float[Array, "B T D"]:
  """Returns the new states of the text."""
  x, found = text.cleared(), graph(layer, text, image)
  out = dot_product.attend(found.q, found.k, found.v, impl=layer.impl, **found.seen)
  c = layer.output(out, x)
  y = c if layer.adapter is None else c + added(layer, c, found)
  return layer.norm(x + y)


def added(layer: Any, c: Float[Array, "B T D"], found: Graph) -> Float[Array, "B T D"]:
  """Returns what the adapter adds to the output c of the attention."""
  message = attention.attend(
    found.q,
    found.k,
    layer.features(found.values),
    layer.features(found.q),
    *layer.adapter.numbers(),
    kind="cross",
    pool=layer.pool,
    pool_padding=layer.pool_padding,
    impl=layer.steps,
    **found.seen,
  )
  return layer.adapter(c, message)
