"""Attention of one new token a row to chosen places of a cache."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax import attention


def attend(
  q: Float[Array, "B N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  places: Int[Array, "B G M"],
  real: Bool[Array, "B G M"],
  *,
  impl: str = "auto",
) -> Float[Array, "B N V"]:
  """Computes attention of one new token a row to the places of each choice.

  Args:
    q: queries.
    k: keys; K divides N.
    v: values.
    places: G is K or N, one choice of each key or query head; each place once.
    real: which of them count.
    impl: one of `attnjax.attention.IMPLEMENTATIONS`, or "auto".
  """
  (B, S, K, _), N, G = k.shape, q.shape[1], places.shape[1]
  places = jnp.minimum(places, S - 1)
  rows, heads = jnp.arange(B)[:, None, None], jnp.arange(G)[:, None] * K // G
  k, v = (x[rows, places, heads].swapaxes(1, 2) for x in (k, v))
  mask = jnp.repeat(real[:, :, None], N // G, axis=1)
  return attention.dot_product_attention(q[:, None], k, v, mask=mask, impl=impl)[:, 0]
