"""The layer: projections to queries and two or more streams of keys and values."""

from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import KeyValueCache
from attnjax.nn import projections
from attnjax.ops import self_attention
from attnjax.variants.higher_order.tensor_attention import determinant
from attnjax.variants.higher_order.tensor_attention.attention import (
  IMPLEMENTATIONS,
  KINDS,
  attend,
)
from attnjax.variants.higher_order.tensor_attention.orders import attend_order

FORMS = ("causal", "sequence")
_INIT = nnx.initializers.lecun_normal()


class Layer(nnx.Module):
  """Projections and `attend`, or `attend_order`; x (B, T, D).

  Heads and caches hold the streams' heads of keys, P K of them, one stream after the
  other. Products of three small projections are very small: initial weights are those
  of LeCun, and queries and keys are normalised.

  Args:
    dim: D.
    form: "causal" or "sequence".
    heads: N.
    kv_heads: K, of each stream; as many as heads if 0.
    head_dim: H; dim / heads if 0.
    order: number of streams plus one; 2 is ordinary attention.
    kind: as in `attend`; "determinant" needs order 3, and H a multiple of 3.
    window: of each stream, as in `attend`; 0 is none, () none of them.
    qk_norm: an RMS norm of each query, and of each key of each stream.
    rope_theta: of the rotation of pieces of 3, see `rotated`; none if 0. It needs kind
      "determinant".
    qkv_bias: of the projections to queries, keys and values.
    out_bias: of the projection of all heads' results.
    scale: of the scores; H^-0.5 if 0.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    kv_heads: int = 0,
    head_dim: int = 0,
    order: int = 3,
    kind: str = "trilinear",
    window: tuple[int, ...] = (),
    qk_norm: bool = True,
    rope_theta: float = 0.0,
    qkv_bias: bool = False,
    out_bias: bool = False,
    scale: float = 0.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS), kind=(kind, KINDS), impl=(impl, ("auto", *IMPLEMENTATIONS))
    )
    kv_heads, size = kv_heads or heads, projections.head_size(dim, heads, head_dim)
    _check(order, kind, window, rope_theta, size)
    if heads % kv_heads:
      raise ValueError(f"heads = {heads} do not divide by kv_heads = {kv_heads}")

    def project(count):
      return nnx.LinearGeneral(
        dim, (count, size), use_bias=qkv_bias, kernel_init=_INIT, rngs=rngs
      )

    def norm():
      return nnx.RMSNorm(size, rngs=rngs) if qk_norm else None

    streams = range(order - 1)
    self.query, self.query_norm = project(heads), norm()
    self.keys = nnx.List(project(kv_heads) for _ in streams)
    self.values = nnx.List(project(kv_heads) for _ in streams)
    self.key_norms: Any = nnx.List(norm() for _ in streams if qk_norm)
    self.out = projections.output(
      heads, size, dim, bias=out_bias, init=_INIT, rngs=rngs
    )
    self.form, self.kind, self.impl = form, kind, impl
    self.window = tuple(w or None for w in window) or (None,) * (order - 1)
    self.streams, self.kv_heads, self.size = order - 1, kv_heads, size
    self.scale, self.rope_theta = scale or size**-0.5, rope_theta

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {} if self.rope_theta else contexts.NO_PLACES

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the queries, and the keys and values of all streams, of every token."""
    return self_attention.heads(
      x, context, self._heads, form=self.form, refuses=self.refuses
    )

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns attention over pairs, or tuples, of the streams' keys."""
    keys, values = (jnp.split(x, self.streams, axis=2) for x in (heads.k, heads.v))
    given: dict[str, Any] = {"causal": self.form == "causal", "window": self.window}
    given |= {"scale": self.scale, "impl": self.impl} | heads.seen
    if self.streams == 2:
      return attend(heads.q, *keys, *values, kind=self.kind, **given)
    return attend_order(heads.q, keys, values, **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads' results."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the layer's output; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B N T T"]:
    """Returns the weight of each token in the first stream, summed over the others."""
    heads = self.project(x, **context)
    K, rest = self.kv_heads, self.streams - 1
    eye = projections.identity_values(heads.k[:, :, :K])
    ones = jnp.ones((*eye.shape[:2], rest * K, eye.shape[3]), eye.dtype)
    v = jnp.concatenate([eye, ones], axis=2)
    return self.mix(Heads(heads.q, heads.k, v, heads.tokens, heads.seen)).swapaxes(1, 2)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeyValueCache:
    """Returns an empty cache of all streams, with room for `length` tokens."""
    return self_attention.empty_cache(
      self.form, batch, length, self.streams * self.kv_heads, self.size, dtype
    )

  def step(
    self, x: Float[Array, "B T D"], cache: KeyValueCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Returns the outputs of the next T tokens, and the cache with them appended."""
    return self_attention.step(self, x, cache, context)

  def _heads(self, x, positions):
    q, keys = self.query(x), [key(x) for key in self.keys]
    if self.query_norm is not None:
      q = self.query_norm(q)
      keys = [norm(key) for norm, key in zip(self.key_norms, keys)]
    if self.rope_theta:
      q, *keys = (
        determinant.rotated(y, positions, theta=self.rope_theta) for y in (q, *keys)
      )
    values = [value(x) for value in self.values]
    return q, jnp.concatenate(keys, axis=2), jnp.concatenate(values, axis=2)


def _check(order, kind, window, rope_theta, size) -> None:
  """Raises ValueError for options that do not fit each other."""
  if order < 2:
    raise ValueError(f"order = {order}; it is 2 (ordinary attention) or more")
  if window and len(window) != order - 1:
    raise ValueError(f"window = {window}; order {order} has {order - 1} streams")
  if kind == "determinant" and (order != 3 or size % 3):
    raise ValueError(
      f"kind 'determinant' with order = {order} and H = {size}: it needs order 3 and a"
      " multiple of 3"
    )
  if rope_theta and kind != "determinant":
    raise ValueError(
      f"rope_theta = {rope_theta} with kind {kind!r}: a trilinear form of rotated"
      " vectors does not depend on differences of positions"
    )
