"""Projections from the model's width to heads, and of the heads' outputs."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Num

from attnjax.core import positions as rotary

_INIT = nnx.initializers.normal(0.02)


class QueryKeyValue(nnx.Module):
  """The projections of x (B, T, D) to q (B, T, N, H), k and v (B, T, K, H).

  Optionally an RMS norm of each query and key head (its weight (H,) is shared by the
  heads), then rotary positions.
  """

  def __init__(
    self,
    dim: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    qk_norm: bool = False,
    rope_theta: float = 0.0,  # 0: no rotation
    bias: bool = False,
    init: nnx.Initializer = _INIT,
    rngs: nnx.Rngs,
  ):
    if heads % kv_heads:
      raise ValueError(f"heads = {heads} do not divide by kv_heads = {kv_heads}")

    def project(count):
      return nnx.LinearGeneral(
        dim, (count, head_dim), use_bias=bias, kernel_init=init, rngs=rngs
      )

    self.query, self.key, self.value = map(project, (heads, kv_heads, kv_heads))
    self.query_norm = nnx.RMSNorm(head_dim, rngs=rngs) if qk_norm else None
    self.key_norm = nnx.RMSNorm(head_dim, rngs=rngs) if qk_norm else None
    self.rope_theta = rope_theta

  def __call__(
    self, x: Float[Array, "B T D"], positions: Num[Array, "..."]
  ) -> tuple[Array, Array, Array]:
    """Returns q, k and v, rotated; positions (B, T) or (T,)."""
    q, k, v = self.heads(x)
    return *self.rotate(q, k, positions), v

  def heads(self, x: Float[Array, "B *S D"]) -> tuple[Array, Array, Array]:
    """Returns q, k and v of tokens or a grid, normalised but not yet rotated."""
    q, k, v = self.query(x), self.key(x), self.value(x)
    if self.query_norm is not None and self.key_norm is not None:
      q, k = self.query_norm(q), self.key_norm(k)
    return q, k, v

  def rotate(
    self, q: Array, k: Array, positions: Num[Array, "..."]
  ) -> tuple[Array, Array]:
    """Returns q and k with rotary positions, if the layer has them."""
    if not self.rope_theta:
      return q, k
    q, k = (rotary.rotate(y, positions, theta=self.rope_theta) for y in (q, k))
    return q, k


def output(
  heads: int,
  head_dim: int,
  dim: int,
  *,
  bias: bool = False,
  init: nnx.Initializer = _INIT,
  rngs: nnx.Rngs,
) -> nnx.LinearGeneral:
  """Returns the projection of the heads' outputs, (B, T, N, H) to (B, T, D)."""
  return nnx.LinearGeneral(
    (heads, head_dim), dim, axis=(-2, -1), use_bias=bias, kernel_init=init, rngs=rngs
  )


def head_size(dim: int, heads: int, head_dim: int = 0) -> int:
  """Returns `head_dim`, or dim / heads if `head_dim` is 0.

  Raises:
    ValueError: if `heads` does not divide `dim`.
  """
  if head_dim:
    return head_dim
  if dim % heads:
    raise ValueError(f"dim = {dim} does not divide by heads = {heads}")
  return dim // heads


def identity_values(k: jax.Array) -> jax.Array:
  """Returns values (B, S, K, S) that make attention return its weights."""
  S = k.shape[1]
  eye = jax.numpy.eye(S, dtype=jax.numpy.float32)
  return jax.numpy.broadcast_to(eye[:, None], (k.shape[0], S, k.shape[2], S))
