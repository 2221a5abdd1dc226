"""Patches of 2 x 2 that are merged where the network looks: deformable convolution.

Zizheng Pan, Bohan Zhuang, Haoyu He, Jing Liu, Jianfei Cai. Less is More: Pay Less
Attention in Vision Transformers. 2021. arXiv:2105.14217, section 3.3.
Jifeng Dai et al. Deformable Convolutional Networks. arXiv:1703.06211, section 2.1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import running
from attnjax.nn.norms import BatchNorm

TAPS = 4  # of a kernel of 2 x 2


class DeformableMerge(nnx.Module):
  """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), D): convolution, norm, GELU.

  A convolution of side and stride 2 whose taps look at moved places: a second one,
  which starts at zero, tells how far. Between pixels it interpolates; beyond the border
  all is zero, as is what an odd side lacks.

  Args:
    below: C.
    dim: D.
    deformable: whether taps move.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(self, below: int, dim: int, deformable: bool = True, *, rngs: nnx.Rngs):
    self.project = nnx.Linear(TAPS * below, dim, rngs=rngs)
    options = {"kernel_init": nnx.initializers.zeros, "rngs": rngs}
    width = TAPS * below, 2 * TAPS
    self.move = nnx.Linear(*width, **options) if deformable else None
    self.norm = BatchNorm(dim)

  def __call__(
    self, x: Float[Array, "B H W C"], *, stats: Any = None, train: bool = False
  ) -> tuple[Float[Array, "B h w D"], Any]:
    """Returns (the merged patches, new statistics)."""
    carry = running.Carry(self, stats, train)
    x = jnp.pad(x, ((0, 0), *((0, side % 2) for side in x.shape[1:3]), (0, 0)))
    B, H, W, C = x.shape
    cells = x.reshape(B, H // 2, 2, W // 2, 2, C).swapaxes(2, 3)
    if self.move is not None:
      shape = (B, H // 2, W // 2, TAPS)
      moves = self.move(cells.reshape(*shape[:3], -1)).reshape(*shape, 2)
      rows, columns = jnp.indices((H, W)).reshape(2, H // 2, 2, W // 2, 2)
      at = jnp.stack([rows, columns], -1).swapaxes(1, 2).reshape(shape[1:] + (2,))
      cells = jax.vmap(interpolated)(x, at + moves.astype(accumulator_dtype(moves)))
    y = self.project(cells.reshape(B, H // 2, W // 2, -1))
    return carry.result(jax.nn.gelu(carry(self.norm, y), approximate=False))


def interpolated(
  x: Float[Array, "H W C"], places: Float[Array, "*P 2"]
) -> Float[Array, "*P C"]:
  """Interpolates a map bilinearly at `places`; it is zero beyond its border."""
  low = jnp.floor(places)
  total = jnp.zeros((*places.shape[:-1], x.shape[-1]), accumulator_dtype(x))
  for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
    at = low + jnp.asarray(corner, low.dtype)
    weight = jnp.prod(1 - jnp.abs(places - at), axis=-1, keepdims=True)
    index = at.astype(jnp.int32)
    sides = jnp.asarray(x.shape[:2])
    inside = ((index >= 0) & (index < sides)).all(-1, keepdims=True)
    row, column = jnp.moveaxis(index.clip(0, sides - 1), -1, 0)
    total = total + jnp.where(inside, weight * x[row, column], 0)
  return total.astype(x.dtype)
