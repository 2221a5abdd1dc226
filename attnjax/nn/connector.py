"""The connector between an image's patches and a decoder of words."""

from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.positions import sinusoids
from attnjax.nn import mlp

_THETA = 100.0  # grids of patches are short: wavelengths of 6 to 600 patches


class Connector(nnx.Module):
  """x + mlp(x), x = norm(patches) + 2 sinusoids, for a grid of any size.

  Haotian Liu et al. Improved Baselines with Visual Instruction Tuning.
  arXiv:2310.03744, section 3.3, has the MLP; norm, residual and positions are for
  patches that no encoder of images has seen.

  Args:
    dim: D.
    hidden: width of the MLP.
    rngs: for the parameters.
  """

  def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
    self.norm = nnx.LayerNorm(dim, rngs=rngs)
    self.mlp = mlp.GELU(dim, hidden, rngs=rngs)

  def __call__(self, patches: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
    """Returns the inputs of the decoder at the image's places."""
    places = sinusoids(patches.shape[1:3], patches.shape[3], theta=_THETA)
    x = self.norm(patches) + 2 * places.astype(patches.dtype)
    return x + self.mlp(x)
