"""The layer: local heads and routed heads, half of each by default."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import positions as rotary
from attnjax.nn import projections, unseen
from attnjax.variants.local.neighborhood import attention as local
from attnjax.variants.local.neighborhood import decode as local_decode
from attnjax.variants.local.neighborhood.tiled import Axis
from attnjax.variants.sparse.routing_transformer import decode, kmeans
from attnjax.variants.sparse.routing_transformer.attention import (
  attend,
  check_layer,
)

FORMS = ("causal", "sequence")
_INIT = nnx.initializers.normal(0.02)
_ROW = {"positions": "no rotation (rope_theta = 0); windows are of places in the row"}


class Routed(Context, total=False):
  """A context that may also hold the centroids."""

  means: Float[Array, "N c H"] | None


class Layer(nnx.Module):
  """Local and routed heads side by side; x (B, T, D).

  Centroids are not parameters: without the argument `means` they are `start_means`.
  Tokens are routed by their content, before the rotation by their positions.

  Args:
    dim: D.
    form: "causal" or "sequence".
    heads: N.
    local_heads: number of local heads; half of N if -1.
    head_dim: H; dim / heads if 0.
    clusters: c.
    cluster_size: w, tokens of a cluster.
    window: keys that a token's local heads see, the token and padding included.
    kind: "past", "all" (see `attend`), or "auto": "past" in the form "causal".
    share_qk: the routed heads' keys are their queries.
    memory: number of learned keys and values that a cluster's queries see, without
      positions: with rotated queries the output depends on where a document begins.
    rope_theta: of the rotary positions; none if 0.
    qkv_bias: of the projections to queries, keys and values.
    out_bias: of the projection of all heads' results.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    local_heads: int = -1,
    head_dim: int = 0,
    clusters: int = 16,
    cluster_size: int = 64,
    window: int = 256,
    kind: str = "auto",
    share_qk: bool = False,
    memory: int = 0,
    rope_theta: float = 10000.0,
    qkv_bias: bool = False,
    out_bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("form", form, FORMS)
    check_layer(form, kind, impl)
    size = projections.head_size(dim, heads, head_dim)
    near = heads // 2 if local_heads < 0 else local_heads
    if not 0 <= near < heads:
      raise ValueError(f"local_heads = {near}; at least one of {heads} is routed")
    options: dict[str, Any] = {"bias": qkv_bias, "rngs": rngs, "rope_theta": rope_theta}
    project = projections.QueryKeyValue
    self.local = project(dim, near, near, size, **options) if near else None
    far = heads - near

    def project():
      return nnx.LinearGeneral(
        dim, (far, size), use_bias=qkv_bias, kernel_init=_INIT, rngs=rngs
      )

    self.query, self.value = project(), project()
    self.key = None if share_qk else project()
    if memory:
      shape = (far, clusters, memory, size)
      self.memory_k, self.memory_v = (
        nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), shape)) for _ in "kv"
      )
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    past = kind == "past" or kind == "auto" and form == "causal"
    self.form, self.kind = form, "past" if past else "all"
    self.near, self.far, self.size, self.impl = near, far, size, impl
    self.clusters, self.cluster_size, self.memory = clusters, cluster_size, memory
    self.window, self.rope_theta = window, rope_theta

  def start_means(self, index: Int[Array, ""] | int = 0) -> Float[Array, "N c H"]:
    """Returns random unit vectors that depend on the depth `index` only."""
    key = jax.random.fold_in(jax.random.key(0), index)
    return kmeans.unit(jax.random.normal(key, (self.far, self.clusters, self.size)))

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    row = {"segment_ids": "kind 'all' has clusters of the whole row"}
    return (row if self.kind == "all" else {}) | ({} if self.rope_theta else _ROW)

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Routed]) -> Heads:
    """Returns the heads, local ones first, and the vectors that route the others."""
    means = context.pop("means", None)
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    means = self.start_means(tokens.index) if means is None else means
    x, places = tokens.x, tokens.places
    route_q, v = self.query(x), self.value(x)
    route_k = route_q if self.key is None else self.key(x)
    more = {"route_q": route_q, "route_k": route_k, "means": means}
    if self.memory:
      more |= {"memory_k": self.memory_k[...], "memory_v": self.memory_v[...]}
    q, k = route_q, route_k
    if self.rope_theta:
      q, k = (rotary.rotate(y, places, theta=self.rope_theta) for y in (q, k))
    if self.local is not None:
      pairs = zip(self.local(x, places), (q, k, v))
      q, k, v = (jnp.concatenate(pair, axis=2) for pair in pairs)
    return Heads(q, k, v, tokens, {"segment_ids": tokens.ids}, more)

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns the outputs of local heads' windows and routed heads' clusters."""
    near, far = self._parts(heads)
    causal, ids = self.form == "causal", heads.seen["segment_ids"]
    options = {"causal": causal, "kind": self.kind, "impl": self.impl}
    out = [attend(*far, **self._routing(heads), **options, segment_ids=ids)]
    if self.near:
      axes = (Axis(min(self.window, heads.q.shape[1]), 1, 1, causal),)
      q, k, v = near
      out = [local.run(q, k, v, axes, None, None, ids, None, self.impl)[0], *out]
    return jnp.concatenate(out, axis=2)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads' outputs."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Routed]
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(self, x, **context) -> Float[Array, "B N T T"]:
    """Returns the weight of each token's value, with memory's weights left out."""
    heads = self.project(x, **context)
    if not self.memory:
      return contexts.shares(self, heads)
    shape = (*self.memory_v.shape[:3], heads.v.shape[1])
    more = heads.more | {"memory_v": jnp.zeros(shape)}
    return contexts.shares(self, dataclasses.replace(heads, more=more))

  def learn(
    self,
    x: Float[Array, "B T D"],
    clusters: kmeans.Clusters,
    *,
    decay: float = 0.999,
    averaged: str = "sums",
    axis_name: str | None = None,
    valid: Bool[Array, "B T"] | None = None,
    **context,
  ) -> tuple[Float[Array, "B T D"], Float[Array, ""], kmeans.Clusters]:
    """Returns (y, the commitment loss, the clusters after the batch).

    Args:
      x: (B, T, D).
      clusters: `Clusters.start(layer.start_means(index))` before the first step.
      decay: of the moving averages.
      averaged: as in `Clusters.update`.
      axis_name: the axis of the replicas that share the centroids.
      valid: True at the real tokens.
      **context: the other arguments of the call.
    """
    y = self(x, valid=valid, means=clusters.means, **context)
    x, _ = unseen.blank(x, valid=valid)
    routed, real = self.query(x), valid
    if self.key is not None:
      routed = jnp.concatenate([routed, self.key(x)], axis=1)
      real = None if valid is None else jnp.concatenate([valid] * 2, axis=1)
    loss = kmeans.commitment(routed, clusters.means, real)
    rule: dict[str, Any] = {"averaged": averaged, "axis_name": axis_name}
    return y, loss, clusters.update(routed, real, decay=decay, **rule)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Any:
    """Returns empty caches of the local and the routed heads for `length` tokens."""
    if self.form != "causal" or self.kind != "past":
      raise NotImplementedError(
        f"form {self.form!r} with kind {self.kind!r} does not decode: what"
        " is selected depends on the future"
      )
    near = ()
    if self.near:
      slots = min(self.window, length)
      near = local_decode.Cache.empty(batch, length, slots, self.near, self.size, dtype)
    far = decode.Cache.empty(batch, length, self.far, self.size, self.clusters, dtype)
    return near, far

  def step(
    self, x: Float[Array, "B T D"], cache: Any, **context: Unpack[Routed]
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Returns the outputs of the next T tokens, and the caches with them appended."""
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    near, far = cache
    heads = self.project(x, start=far.tokens.length, **context)
    ids = heads.tokens.ids
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    ours, theirs = self._parts(heads)
    options = self._routing(heads) | {"impl": self.impl}
    out, far = decode.step(*theirs, ids=ids, cache=far, **options)
    if self.near:
      axis = Axis(near.k.shape[1], 1, 1, True)
      q, k, v = ours
      y, near = local_decode.step(q, k, v, ids, near, axis, None, self.impl)
      out = jnp.concatenate([y, out], axis=2)
    return self.merge(out, heads), (near, far)

  def _parts(self, heads) -> Any:
    """Returns (q, k, v) of the local heads, and of the routed heads."""
    parts = heads.q, heads.k, heads.v
    return [x[:, :, : self.near] for x in parts], [x[:, :, self.near :] for x in parts]

  def _routing(self, heads) -> dict[str, Any]:
    return {
      "cluster_size": self.cluster_size,
      "share_qk": self.key is None,
      **heads.more,
    }
