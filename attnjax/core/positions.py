"""Positions: rotations of queries and keys, fixed sinusoids for grids."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def rotate(
  x: Float[Array, "B T N H"],
  positions: Num[Array, "#B T"] | Num[Array, "T"],
  *,
  theta: float = 10000.0,
) -> Float[Array, "B T N H"]:
  """Rotary position embedding, the half-split form: pairs are (h, h + H/2).

  Jianlin Su et al. RoFormer. arXiv:2104.09864, equation 34. The angle of pair h at
  position p is p theta^(-2h/H). Angles are float32 whatever x is.
  """
  H = x.shape[-1]
  if H % 2:
    raise ValueError(f"head size {H}: rotary positions turn pairs, H must be even")
  rate = theta ** (-jnp.arange(0, H, 2, dtype=jnp.float32) / H)
  angle = positions[..., None, None].astype(jnp.float32) * rate  # ([B,] T, 1, H/2)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b = jnp.split(x, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def sinusoids(grid: tuple[int, ...], dim: int, *, theta: float = 10000.0) -> Array:
  """Fixed features of the points of a grid, (*grid, dim), for any size of grid.

  Each axis has an equal share of the features, half of them sines and half cosines,
  as in MAE's code. Ashish Vaswani et al. Attention Is All You Need. arXiv:1706.03762,
  section 3.5.
  """
  share = dim // len(grid)
  if dim % (2 * len(grid)):
    raise ValueError(f"dim {dim} must divide by 2 x {len(grid)} axes of the grid")
  rate = theta ** (-jnp.arange(0, share, 2, dtype=jnp.float32) / share)
  features = []
  for axis, length in enumerate(grid):
    angle = jnp.arange(length, dtype=jnp.float32)[:, None] * rate
    feature = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    shape = [1] * len(grid) + [share]
    shape[axis] = length
    features.append(jnp.broadcast_to(feature.reshape(shape), (*grid, share)))
  return jnp.concatenate(features, axis=-1)
