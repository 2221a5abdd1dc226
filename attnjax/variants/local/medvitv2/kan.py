"""Kolmogorov-Arnold layers whose functions are sums of bumps (FasterKAN).

Athanasios Delis. FasterKAN. 2024. github.com/AthanasiosDelis/faster-kan. Ziming Liu et
al. KAN: Kolmogorov-Arnold Networks. arXiv:2404.19756.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn.transformer import layer_norm

WIDTH, REACH = 0.33, 2.0  # of a bump; centres are from -REACH to REACH


def bumps(
  x: Float[Array, "*B D"], centres: Float[Array, "G"], width: float = WIDTH
) -> Float[Array, "*B D G"]:
  """Computes 1 - tanh((x - c) / width)^2 for each centre c."""
  return 1 - jnp.tanh((x[..., None] - centres) / width) ** 2


def kan_layer(
  x: Float[Array, "*B D"],
  weight: Float[Array, "D G E"],
  centres: Float[Array, "G"] | None = None,
  width: float = WIDTH,
) -> Float[Array, "*B E"]:
  """Computes sum_ig bumps(x)[i, g] weight[i, g]; the backward pass recomputes bumps.

  Args:
    x: the features, in any number of batch axes.
    weight: of each feature's bumps.
    centres: of the bumps; G from -2 to 2 if None.
    width: of the bumps.
  """
  dtype = accumulator_dtype(x)
  if centres is None:
    centres = jnp.linspace(-REACH, REACH, weight.shape[1], dtype=dtype)

  @jax.checkpoint
  def run(x, weight):
    basis = bumps(x.astype(dtype), centres, width)
    return jnp.einsum("...ig,ige->...e", basis, weight.astype(dtype))

  return run(x, weight).astype(x.dtype)


class KANLayer(nnx.Module):
  """A layer norm and `kan_layer`: (*B, below) to (*B, dim), no bias.

  Args:
    below: features.
    dim: of the result.
    grids: G, bumps of a feature.
    rngs: for the parameters.
  """

  def __init__(self, below: int, dim: int, *, grids: int = 8, rngs: nnx.Rngs):
    if grids < 2:
      raise ValueError(f"grids = {grids}: there must be at least 2 bumps")
    self.norm = layer_norm(below, rngs=rngs)
    xavier = nnx.initializers.xavier_uniform()(rngs.params(), (below * grids, dim))
    self.weight = nnx.Param(xavier.reshape(below, grids, dim))

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
    """Returns the layer's output."""
    return kan_layer(self.norm(x), self.weight[...])


class FasterKAN(nnx.Module):
  """Layers one after the other; the norm in front takes mean and scale of x away.

  Args:
    features: widths, the input's first.
    grids: bumps of a feature.
    rngs: for the parameters.
  """

  def __init__(self, features: Sequence[int], *, grids: int = 8, rngs: nnx.Rngs):
    self.layers = nnx.List(
      KANLayer(below, dim, grids=grids, rngs=rngs)
      for below, dim in zip(features, features[1:])
    )

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
    """Returns the last layer's output."""
    for layer in self.layers:
      x = layer(x)
    return x
