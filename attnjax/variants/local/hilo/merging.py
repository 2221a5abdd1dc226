"""Patches of 2 x 2 that are merged where the network looks: deformable convolution.

Zizheng Pan, Bohan Zhuang, Haoyu He, Jing Liu, Jianfei Cai. Less is More: Pay Less
Attention in Vision Transformers. 2021. arXiv:2105.14217, section 3.3.
Jifeng Dai et al. Deformable Convolutional Networks. arXiv:1703.06211, section 2.1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Shaped

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
    x = _even(x)
    cells = _cells(x)
    if self.move is not None:
      moves = self.moves(x)
      places = _cells(jnp.stack(jnp.indices(x.shape[1:3]), -1)[None])
      at = places + moves.astype(accumulator_dtype(moves))
      cells = jax.vmap(interpolated)(x, at)
    y = self.project(cells.reshape(*cells.shape[:3], -1))
    return carry.result(jax.nn.gelu(carry(self.norm, y), approximate=False))

  def moves(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w 4 2"]:
    """Returns how far each tap looks from its place, down and to the right.

    Raises:
      ValueError: if taps do not move.
    """
    if self.move is None:
      raise ValueError("deformable = False: taps do not move")
    cells = _cells(_even(x))
    return self.move(cells.reshape(*cells.shape[:3], -1)).reshape(*cells.shape[:4], 2)


def _even(x: Float[Array, "B H W C"]) -> Float[Array, "B R S C"]:
  """Returns the map with a row and a column of zeros where a side is odd."""
  return jnp.pad(x, ((0, 0), *((0, side % 2) for side in x.shape[1:3]), (0, 0)))


def _cells(x: Shaped[Array, "B R S C"]) -> Shaped[Array, "B r s 4 C"]:
  """Returns the taps of each cell of 2 x 2, row by row."""
  B, R, S, C = x.shape
  cells = x.reshape(B, R // 2, 2, S // 2, 2, C).swapaxes(2, 3)
  return cells.reshape(B, R // 2, S // 2, TAPS, C)


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
