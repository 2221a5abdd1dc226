"""The reduction of a grid of tokens to fewer keys and values."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_INIT = nnx.initializers.truncated_normal(0.02)


class Reduction(nnx.Module):
  """A convolution of side and stride `ratio`, and a norm: fewer keys and values.

  Wenhai Wang et al. Pyramid Vision Transformer. 2021. arXiv:2102.12122, equation 2.
  Points beyond the last whole cell are left out; a side shorter than a cell is padded.
  """

  def __init__(self, dim: int, ratio: int, *, rngs: nnx.Rngs):
    self.kernel = nnx.Param(_INIT(rngs.params(), (ratio, ratio, dim, dim)))
    self.bias = nnx.Param(jnp.zeros(dim))
    self.norm = nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

  def grid(self, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the sides of the reduced grid."""
    return tuple(max(side // self.kernel.shape[0], 1) for side in grid)

  def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w D"]:
    """Returns the reduced grid."""
    r = self.kernel.shape[0]
    (h, w), missing = self.grid(x.shape[1:3]), (max(r - s, 0) for s in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *((0, m) for m in missing), (0, 0)))[:, : h * r, : w * r]
    x = x.reshape(x.shape[0], h, r, w, r, -1)
    x = jnp.einsum("byixjc,ijcd->byxd", x, self.kernel[...].astype(x.dtype))
    return self.norm(x + self.bias[...].astype(x.dtype))
