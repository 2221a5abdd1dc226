"""Image-centric heads, and redistribution as an edit of weights."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

EPSILON = 1e-6  # the code adds it to each weight of the image in the denominator


def image_head_mask(
  attn: Float[Array, "B N T S"],
  vis_mask: Bool[Array, "B S"],
  sink_mask: Bool[Array, "B S"],
  *,
  rho: ArrayLike = 0.8,
  summ: ArrayLike = 0.2,
) -> Bool[Array, "B N T"]:
  """Returns which heads look at the image, for each query, from their weights.

  Args:
    attn: weights.
    vis_mask: True at the image.
    sink_mask: True at the sinks.
    rho: the least share of the weight on the image that is not on sinks.
    summ: the least weight on the image.
  """
  on_rest, on_sinks = (
    jnp.einsum("bnts,bs->bnt", attn, group.astype(attn.dtype))
    for group in (vis_mask & ~sink_mask, vis_mask & sink_mask)
  )
  how = {"rho": rho, "summ": summ}
  return image_centric(on_rest, on_sinks, sink_mask, vis_mask, **how)


def image_centric(
  on_rest: Float[Array, "B N T"],
  on_sinks: Float[Array, "B N T"],
  sink_mask: Bool[Array, "B S"],
  vis_mask: Bool[Array, "B S"],
  *,
  rho: ArrayLike = 0.8,
  summ: ArrayLike = 0.2,
) -> Bool[Array, "B N T"]:
  """Returns which heads look at the image, from their weight on it and its sinks."""
  total = on_rest + on_sinks
  count = jnp.sum(vis_mask, axis=-1)[:, None, None]
  some = jnp.any(sink_mask & vis_mask, axis=-1)[:, None, None]
  few = on_sinks <= (1 - rho) * (total + EPSILON * count)
  return few & (total >= summ) & (on_rest > 0) & some


def redistribute(
  attn: Float[Array, "B N T S"],
  sink_mask: Bool[Array, "B S"],
  vis_mask: Bool[Array, "B S"],
  select: Bool[Array, "B N T"],
  *,
  p: ArrayLike = 0.4,
) -> Float[Array, "B N T S"]:
  """Returns weights of which selected heads moved a share p from sinks to the image.

  Args:
    attn: weights.
    sink_mask: True at the sinks, those of the text too.
    vis_mask: True at the image.
    select: the (query, head) that change, such as `image_head_mask` and after the
      image; those without weight on the rest of the image stay.
    p: the share that is moved.
  """
  sink, rest = (x[:, None, None] for x in (sink_mask, vis_mask & ~sink_mask))
  there = jnp.sum(jnp.where(rest, attn, 0), axis=-1)
  select = select & (there > 0)
  free = p * jnp.sum(jnp.where(sink, attn, 0), axis=-1)
  gain = jnp.where(select, 1 + free / jnp.where(select, there, 1), 1)
  loss = jnp.where(select, 1 - p, 1)
  return attn * jnp.where(rest, gain[..., None], jnp.where(sink, loss[..., None], 1))
