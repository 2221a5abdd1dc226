"""The layer: half of the heads local, half of them routed."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.core import positions as rotary
from attnjax.nn import projections, unseen
from attnjax.variants.local.neighborhood import attention as local
from attnjax.variants.local.neighborhood import decode as local_decode
from attnjax.variants.local.neighborhood.tiled import Axis
from attnjax.variants.sparse.routing_transformer import decode, kmeans
from attnjax.variants.sparse.routing_transformer.attention import (
  IMPLEMENTATIONS,
  SELECTIONS,
  attend,
)

FORMS = ("causal", "sequence")
_INIT = nnx.initializers.normal(0.02)


class Layer(nnx.Module):
  """Local and routed heads side by side; x (B, T, D).

  Centroids are no parameters: without the argument `means` they are `start_means`.
  Tokens are routed by what they hold, before the rotation by their positions.

  Args:
    dim: D.
    form: "causal" or "sequence".
    heads: N.
    local_heads: of them local; half of them if -1.
    head_dim: H; dim / heads if 0.
    clusters: c.
    window: w, tokens of a cluster.
    local_window: keys that a token's local heads see, itself among them.
    selection: "past", "all" (see `attend`), or "auto": "past" in the form "causal".
    share_qk: the routed heads' keys are their queries.
    memory: learned keys and values that all queries of a cluster see. They have no
      position: with rotated queries the output depends on where a document begins.
    rope_theta: of the rotary positions; none if 0.
    bias: of all projections.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    heads: int = 4,
    local_heads: int = -1,
    head_dim: int = 0,
    clusters: int = 16,
    window: int = 64,
    local_window: int = 256,
    selection: str = "auto",
    share_qk: bool = False,
    memory: int = 0,
    rope_theta: float = 10000.0,
    bias: bool = False,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    _check(form, selection, impl)
    size = projections.head_size(dim, heads, head_dim)
    near = heads // 2 if local_heads < 0 else local_heads
    if not 0 <= near < heads:
      raise ValueError(f"local_heads = {near}; at least one of {heads} is routed")
    options: dict[str, Any] = {"bias": bias, "rngs": rngs}
    self.local = (
      projections.QueryKeyValue(dim, near, near, size, rope_theta=rope_theta, **options)
      if near
      else None
    )
    far = heads - near

    def project():
      return nnx.LinearGeneral(
        dim, (far, size), use_bias=bias, kernel_init=_INIT, rngs=rngs
      )

    self.query, self.value = project(), project()
    self.key = None if share_qk else project()
    if memory:
      shape = (far, clusters, memory, size)
      self.memory_k, self.memory_v = (
        nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), shape)) for _ in "kv"
      )
    self.out = projections.output(heads, size, dim, **options)
    past = selection == "past" or selection == "auto" and form == "causal"
    self.form, self.selection = form, "past" if past else "all"
    self.near, self.far, self.size, self.impl = near, far, size, impl
    self.clusters, self.window, self.memory = clusters, window, memory
    self.local_window, self.rope_theta = local_window, rope_theta

  def start_means(self, index: Int[Array, ""] | int = 0) -> Float[Array, "N c H"]:
    """Random directions, other ones at each depth; always the same."""
    key = jax.random.fold_in(jax.random.key(0), index)
    return kmeans.unit(jax.random.normal(key, (self.far, self.clusters, self.size)))

  @property
  def refuses(self) -> dict[str, str]:
    """What of a context the layer cannot honour, and why."""
    return {} if self.selection == "past" else {"segment_ids": "clusters are of a row"}

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
    means: Float[Array, "N c H"] | None = None,
  ) -> Float[Array, "B T D"]:
    """(B, T, D). Local windows count the padding inside a row, which nobody sees.

    Raises:
      NotImplementedError: for segment_ids with the selection "all".
    """
    if 0 in x.shape:
      return unseen.nothing(self, x)
    if segment_ids is not None and self.selection == "all":
      raise NotImplementedError(
        "selection 'all' takes no segment_ids: clusters are of the whole row"
      )
    x, ids = unseen.blank(x, segment_ids, padding)
    positions = jnp.arange(x.shape[1]) if positions is None else positions
    means = self.start_means(index) if means is None else means
    out = [self._far(x, positions, means, segment_ids=ids)]
    if self.local is not None:
      out = [self._near(self.local(x, positions), ids), *out]
    out = jnp.concatenate(out, axis=2)
    return self.out(out.astype(x.dtype))

  def learn(
    self,
    x: Float[Array, "B T D"],
    clusters: kmeans.Clusters,
    *,
    decay: float = 0.999,
    axis_name: str | None = None,
    padding: Bool[Array, "B T"] | None = None,
    **context,
  ) -> tuple[Float[Array, "B T D"], Float[Array, ""], kmeans.Clusters]:
    """(y, the commitment loss, the clusters after the batch).

    Args:
      x: (B, T, D).
      clusters: `Clusters.start(layer.start_means(index))` before the first step.
      decay: of the moving averages.
      axis_name: of the replicas that share the centroids.
      padding: True at the real tokens.
      **context: the other arguments of the call.
    """
    y = self(x, padding=padding, means=clusters.means, **context)
    x, _ = unseen.blank(x, padding=padding)
    routed, real = self.query(x), padding
    if self.key is not None:
      routed = jnp.concatenate([routed, self.key(x)], axis=1)
      real = None if padding is None else jnp.concatenate([padding] * 2, axis=1)
    loss = kmeans.commitment(routed, clusters.means, real)
    new = clusters.update(routed, real, decay=decay, axis_name=axis_name)
    return y, loss, new

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Any:
    """Empty caches of the local and of the routed heads, for `length` tokens."""
    if self.form != "causal" or self.selection != "past":
      raise NotImplementedError(
        f"form {self.form!r} with selection {self.selection!r} does not decode: what"
        " is selected depends on the future"
      )
    near = ()
    if self.near:
      slots = min(self.local_window, length)
      near = local_decode.Cache.empty(batch, length, slots, self.near, self.size, dtype)
    far = decode.Cache.empty(batch, length, self.far, self.size, self.clusters, dtype)
    return near, far

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: Any,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    index: Int[Array, ""] | int = 0,
    means: Float[Array, "N c H"] | None = None,
  ) -> tuple[Float[Array, "B T D"], Any]:
    """The next T tokens, T >= 1, after those in the cache."""
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    near, far = cache
    x, ids = unseen.blank(x, segment_ids, padding)
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    positions = far.tokens.length + jnp.arange(x.shape[1])
    means = self.start_means(index) if means is None else means
    out = []
    if self.local is not None:
      axis = Axis(near.k.shape[1], 1, 1, True)
      q, k, v = self.local(x, positions)
      y, near = local_decode.step(q, k, v, ids, near, axis, None, self.impl)
      out.append(y)
    heads, options = self._routed(x, positions)
    y, far = decode.step(*heads, means, ids, far, **options, impl=self.impl)
    out.append(y)
    return self.out(jnp.concatenate(out, axis=2).astype(x.dtype)), (near, far)

  def _near(self, heads, ids):
    q, k, v = heads
    window, causal = min(self.local_window, q.shape[1]), self.form == "causal"
    axes = (Axis(window, 1, 1, causal),)
    return local.run(q, k, v, axes, None, None, ids, None, self.impl)[0]

  def _far(self, x, positions, means, **seen):
    heads, options = self._routed(x, positions)
    options |= {"causal": self.form == "causal", "selection": self.selection}
    return attend(*heads, means, **options, **seen, impl=self.impl)

  def _routed(self, x, positions):
    """q, k and v, and the options of the routing."""
    query, v = self.query(x), self.value(x)
    key = query if self.key is None else self.key(x)
    options: dict[str, Any] = {"window": self.window}
    options["share_qk"] = self.key is None
    options |= {"route_q": query, "route_k": key}
    if self.memory:
      options |= {"memory_k": self.memory_k[...], "memory_v": self.memory_v[...]}
    if self.rope_theta:
      query, key = (
        rotary.rotate(y, positions, theta=self.rope_theta) for y in (query, key)
      )
    return (query, key, v), options


def _check(form, selection, impl):
  for name, value, known in (
    ("form", form, FORMS),
    ("selection", selection, ("auto", *SELECTIONS)),
    ("impl", impl, ("auto", *IMPLEMENTATIONS)),
  ):
    check_known(name, value, known)
  if form == "sequence" and selection == "past":
    raise ValueError("selection 'past' is causal; form 'sequence' takes 'all'")
