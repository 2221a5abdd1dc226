"""Positions: rotations of queries and keys, and fixed sinusoids for grids."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def rotate(
  x: Float[Array, "B T N H"],
  positions: Num[Array, "#B T"] | Num[Array, "T"],
  *,
  theta: float = 10000.0,
  interleaved: bool = False,
) -> Float[Array, "B T N H"]:
  """Applies rotary position embedding; pairs are (h, h + H/2), the half-split form.

  Jianlin Su et al. RoFormer. arXiv:2104.09864, equation 34. The angle of pair h at
  position p is p theta^(-2h/H). Angles are float32 whatever x is. With `interleaved`
  pairs are (2 h, 2 h + 1), as in the paper.
  """
  H = x.shape[-1]
  if H % 2:
    raise ValueError(f"head size {H}: rotary positions turn pairs, H must be even")
  rate = theta ** (-jnp.arange(0, H, 2, dtype=jnp.float32) / H)
  places = positions[..., None].astype(jnp.float32)
  angle = places * rate.reshape((1,) * positions.ndim + (-1,))  # ([B,] T, H/2)
  return turn(x, jnp.cos(angle), jnp.sin(angle), interleaved=interleaved)


def turn(
  x: Float[Array, "B T N H"],
  cos: Float[Array, "..."],
  sin: Float[Array, "..."],
  *,
  interleaved: bool = False,
) -> Float[Array, "B T N H"]:
  """Rotates pairs of features by angles whose cosines and sines are given.

  Args:
    x: queries or keys.
    cos: cosines of each token's angles, (T, H/2) or (B|1, T, H/2).
    sin: sines of these angles.
    interleaved: whether pairs are (2 h, 2 h + 1), not (h, h + H/2).
  """
  cos, sin = (table[..., None, :] for table in (cos, sin))
  cos, sin = (t.reshape((1,) * (4 - t.ndim) + t.shape) for t in (cos, sin))
  if interleaved:
    a, b = x[..., ::2], x[..., 1::2]
  else:
    a, b = jnp.split(x, 2, axis=-1)
  turned = a * cos - b * sin, b * cos + a * sin
  if interleaved:
    return jnp.stack(turned, axis=-1).reshape(x.shape).astype(x.dtype)
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def sinusoids(grid: tuple[int, ...], dim: int, *, theta: float = 10000.0) -> Array:
  """Returns fixed features of the points of a grid of any size, (*grid, dim).

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
    angle = jnp.arange(length, dtype=jnp.float32)[:, None] * rate[None]
    feature = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    shape = [1] * len(grid) + [share]
    shape[axis] = length
    features.append(jnp.broadcast_to(feature.reshape(shape), (*grid, share)))
  return jnp.concatenate(features, axis=-1)
