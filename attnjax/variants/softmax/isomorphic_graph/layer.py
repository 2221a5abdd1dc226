"""The layer: GIN- and PNA-attention, and attention with a Sparse-GIN adapter."""

import dataclasses
import functools
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import KeyValueCache, poison
from attnjax.nn import unseen
from attnjax.ops import self_attention
from attnjax.variants.softmax.isomorphic_graph import parts, sparse
from attnjax.variants.softmax.isomorphic_graph.attention import adjacency, attend
from attnjax.variants.softmax.isomorphic_graph.parts import Cache


class Layer(nnx.Module):
  """Attention read as a graph of tokens; x (B, T, D).

  Args:
    dim: D.
    form: "causal".
    layers: of the model, over which the adapter's scale grows.
    heads: N.
    kind: "gin": sums of the layer's input, and a perceptron for each head; "pna",
      "pna_lm": four aggregates of values, and perceptrons, see `attend`; "sparse_gin":
      softmax attention, and a graph network on the sharpened sum of its heads, which
      does not read the options from `weighting` to `keep_ratio`.
    weighting: "softmax" or "relu" of the scores.
    edges: the transform f, see `edges.transformed`.
    threshold: t of f, and of the neighbours of "pna_lm".
    learned_threshold: whether the threshold is a parameter.
    beta: of "sharp_softplus" and "sigmoid".
    keep_keys: keys of a token with `edges` "top_k".
    keep_ratio: share of the earlier tokens with `edges` "scaled_top_k".
    sharpen: a learned factor of the scores of "gin", 1 at first.
    differential: weights of second queries and keys are subtracted, of "gin".
    mlp_ratio: width of the perceptrons as a multiple of H; of E in the graph network.
    project_out: a last projection of "gin"; the other kinds have it.
    as_released: as the authors' code, see `attend` and `sparse.combined`.
    graph_size: E; this and the options up to `scale_last` are of "sparse_gin".
    graph_layers: layers of the graph network.
    combine: "sum", "mean", "any" or "learned", see `sparse.combined`.
    sharpness: of the sigmoid of edges.
    graph_threshold: what the sigmoid is centred at.
    least: edges are above it.
    scale_first: the adapter's scale in the model's first layer.
    scale_last: its scale in the last layer.
    rope_theta: of the rotary positions; none if 0.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    layers: int = 1,
    heads: int = 4,
    kind: str = "gin",
    weighting: str = "softmax",
    edges: str = "none",
    threshold: float = 0.2,
    learned_threshold: bool = False,
    beta: float = 10.0,
    keep_keys: int = 8,
    keep_ratio: float = 0.1,
    sharpen: bool = False,
    differential: bool = False,
    mlp_ratio: float = 2.0,
    project_out: bool = False,
    as_released: bool = False,
    graph_size: int = 155,
    graph_layers: int = 1,
    combine: str = "sum",
    sharpness: float = 10.0,
    graph_threshold: float = 0.1,
    least: float = 0.6,
    scale_first: float = 0.0,
    scale_last: float = 0.5,
    rope_theta: float = 10000.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    parts.check(form, kind, weighting, edges, combine, impl, sharpen or differential)
    size, gin, plain = dim // heads, kind == "gin", kind == "sparse_gin"
    self.kind, self.shape, self.impl = kind, (heads, size), impl
    self.as_released, self.threshold = as_released, threshold
    options = {"weighting": weighting, "edges": edges, "beta": beta}
    options |= {"keep_keys": keep_keys, "keep_ratio": keep_ratio}
    graph = {"combine": combine, "sharpness": sharpness, "least": least}
    graph |= {"threshold": graph_threshold, "as_released": as_released}
    self.options, self.graph = tuple(options.items()), tuple(graph.items())
    self.qkv: Any = parts.values(dim, heads, gin, differential, rope_theta, rngs)
    self.alpha, self.mixing = parts.start(sharpen, 1.0), parts.start(differential, 0.0)
    self.learned = parts.start(learned_threshold and not plain, threshold)
    self.epsilon = parts.start(gin, 0.0, heads)
    self.mlps = parts.perceptrons(kind, heads, size, mlp_ratio, rngs)
    self.out = parts.output(dim, heads, project_out or not gin, rngs)
    sizes = graph_size, graph_layers, mlp_ratio
    scales = scale_first, scale_last, layers
    self.adapter = parts.adapter(dim, heads, kind, combine, sizes, scales, rngs)

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {} if self.qkv.rope_theta else contexts.NO_PLACES

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token; `more` has the values of the tokens."""
    heads = self_attention.heads(
      x, context, self.qkv, form="causal", refuses=self.refuses
    )
    return dataclasses.replace(heads, more={"own": heads.v})

  def mix(self, heads: Heads) -> Float[Array, "B T N W"]:
    """Returns what `attend` gathers; of "sparse_gin" attention alone."""
    given: dict[str, Any] = {"impl": self.impl, "own": heads.more["own"]}
    if self.adapter is not None:
      return attend(heads.q, heads.k, heads.v, **given, **heads.seen)
    given |= {"kind": self.kind, "as_released": self.as_released}
    if self.epsilon is not None:
      given["epsilon"] = self.epsilon[...]
    q, k, more = self._queries(heads)
    return attend(q, k, heads.v, **given, **more)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the perceptrons' outputs, projected, and the adapter's addition."""
    y = self._joined(out, heads)
    if self.adapter is None:
      return y
    send = functools.partial(_sent, self.found(heads))
    return y + self._added(y, heads, send)

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms.causal`."""
    return contexts.run(self, x, context)

  def weights(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B N T T"]:
    """Returns the weights of edges; of "sparse_gin" those of its attention."""
    heads = self.project(x, **context)
    if self.adapter is not None:
      return adjacency(heads.q, heads.k, **heads.seen)
    q, k, more = self._queries(heads)
    return adjacency(q, k, **more)

  def init_cache(
    self, batch: int, length: int, dtype: Any = jnp.float32
  ) -> KeyValueCache | Cache:
    """Returns an empty cache with room for `length` tokens."""
    heads, size = self.shape
    keys = heads, size * (1 if self.mixing is None else 2)
    held = KeyValueCache.empty(batch, length, keys, self.shape, dtype)
    if self.adapter is None:
      return held
    network = self.adapter.network
    nodes = len(network.up), batch, length, network.width
    return Cache(held, jnp.zeros(nodes, dtype))

  def step(
    self, x: Float[Array, "B T D"], cache: Any, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Returns the outputs of the next T tokens, and the cache after them."""
    if self.adapter is None:
      return self_attention.step(self, x, cache, context)
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    return self._step(x, cache, context)

  def _step(self, x, cache, context):
    """Takes a step of "sparse_gin": later GIN layers read what earlier ones made."""
    start = cache.attention.length
    heads = self.project(x, start=start, **context)
    ids = heads.tokens.ids
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    held = cache.attention.append(heads.k, heads.v, ids)
    seen = {"segment_ids": ids, "kv_segment_ids": held.segment_ids, "offset": start}
    heads = dataclasses.replace(heads, k=held.k, v=held.v, seen=seen)
    found, nodes = self.found(heads), []
    full = start + x.shape[1] > held.k.shape[1]

    def send(index, u):
      new = poison(u.astype(cache.nodes.dtype), full)
      nodes.append(
        jax.lax.dynamic_update_slice_in_dim(cache.nodes[index], new, start, axis=1)
      )
      return sparse.sent(found, nodes[-1]).astype(u.dtype)

    y = self._joined(self.mix(heads), heads)
    return y + self._added(y, heads, send), Cache(held, jnp.stack(nodes))

  def _queries(self, heads: Heads) -> tuple[Array, Array, dict[str, Any]]:
    """Returns q, k and the further arguments of `attend` that make the edges."""
    q, k = heads.q, heads.k
    more: Any = dict(self.options) | heads.seen
    more["threshold"] = self.threshold if self.learned is None else self.learned[...]
    if self.alpha is not None:
      q = q * self.alpha[...].astype(q.dtype)
    if self.mixing is not None:
      (q, second_q), (k, second_k) = (jnp.split(y, 2, axis=-1) for y in (q, k))
      more |= {"second_q": second_q, "second_k": second_k}
      start = 0.8 - 0.6 * jnp.exp(-0.3 * (jnp.asarray(heads.tokens.index) - 1.0))
      more["mixing"] = start + self.mixing[...]
    return q, k, more

  def _joined(self, out, heads):
    """Returns the heads' results as tokens (B, T, D)."""
    x = heads.tokens.x
    out = out if self.mlps is None else self.mlps(out)
    out = out.astype(x.dtype)
    return out.reshape(x.shape) if self.out is None else self.out(out)

  def found(self, heads: Heads) -> sparse.Edges:
    """Returns the edges of the graph network."""
    assert self.adapter is not None
    given: Any = dict(self.graph) | heads.seen
    return sparse.find(heads.q, heads.k, learned=self.adapter.aggregate, **given)

  def _added(self, y, heads, send):
    """Returns what the adapter adds to the attention's result y."""
    assert self.adapter is not None
    return self.adapter(heads.tokens.x + y, send, heads.tokens.index)


def _sent(found, _, u):
  return sparse.sent(found, u).astype(u.dtype)
