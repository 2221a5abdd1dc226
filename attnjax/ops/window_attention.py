"""Softmax attention inside the windows of a grid, all windows as one batch."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.core import masks
from attnjax.core.grids.partition import Partition
from attnjax.core.scores import Scores


def attend(
  q: Float[Array, "B *S N H"],
  k: Float[Array, "B *S K H"],
  v: Float[Array, "B *S K V"],
  parts: Partition,
  *,
  bias: Float[Array, "N P P"] | None = None,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B *S N V"]:
  """Computes attention inside windows, whose padding is not seen.

  Args:
    q: queries.
    k: keys; K divides N.
    v: values.
    parts: the windows of the grid S.
    bias: added to the scaled scores of every window of P tokens.
    scale: H^-0.5 if None.
    impl: as in `attnjax.attention`.
  """
  B = q.shape[0]
  one, two, three = (
    x.reshape(-1, *x.shape[2:]) for x in (parts.split(x) for x in (q, k, v))
  )
  ids = np.asarray(parts.ids())
  shape = (one.shape[0], one.shape[2], *ids.shape[1:], *ids.shape[1:])
  whole = (ids == ids[:, :1]).all() and (ids >= 0).all()
  given = None if whole else jnp.tile(jnp.asarray(ids), (B, 1))
  mask = masks.conjunction(shape, segment_ids=given)
  added = None if bias is None else bias[None]
  out, _ = attention.attend(
    one, two, three, Scores(mask, bias=added), scale=scale, impl=impl
  )
  return parts.join(out.reshape(B, -1, *out.shape[1:]))


def identity(grid: tuple[int, ...], batch: int, heads: int) -> jax.Array:
  """Returns values (B, *S, heads, T) that make attention return its weights."""
  size = int(np.prod(grid))
  eye = jnp.eye(size, dtype=jnp.float32).reshape(1, *grid, 1, size)
  return jnp.broadcast_to(eye, (batch, *grid, heads, size))
