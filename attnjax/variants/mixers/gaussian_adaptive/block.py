"""The parameters of the heads, the authors' block, and the importance of features."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.variants.mixers.gaussian_adaptive.attention import attend


class Gaussians(nnx.Module):
  """M heads of K Gaussians: displacements 0 and spreads exp(N(0, 1)) at the start.

  Args:
    heads: M.
    gaussians: K.
    rngs: for the parameters.
  """

  def __init__(self, heads: int, gaussians: int, *, rngs: nnx.Rngs):
    if heads < 1 or gaussians < 1:
      raise ValueError(f"heads = {heads}, gaussians = {gaussians}: at least 1 of each")
    shape = heads, gaussians
    self.displacement = nnx.Param(jnp.zeros(shape))
    self.spread = nnx.Param(jnp.exp(jax.random.normal(rngs.params(), shape)))

  def __call__(self, x: Float[Array, "..."], **options: Any) -> Any:
    """Returns `attend` of x by these Gaussians; options are its own."""
    return attend(x, self.displacement[...], self.spread[...], **options)


class GaussianBlock(nnx.Module):
  """Layers x + attend(x), each along an axis of its own; x of any number of axes.

  Args:
    norm_axes: the axis of each layer.
    heads: M of each layer.
    gaussians: K of each layer.
    residual: whether x is added.
    options: of `attend` in all layers: `padding_value`, `clamp`, `impl`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    norm_axes: Sequence[int],
    heads: Sequence[int],
    gaussians: Sequence[int],
    *,
    residual: bool = True,
    rngs: nnx.Rngs,
    **options: Any,
  ):
    if not len(norm_axes) == len(heads) == len(gaussians):
      raise ValueError(
        f"norm_axes {norm_axes}, heads {heads}, gaussians {gaussians}: one a layer"
      )
    sizes = zip(heads, gaussians)
    self.layers = nnx.List([Gaussians(m, k, rngs=rngs) for m, k in sizes])
    self.axes, self.residual, self.options = tuple(norm_axes), residual, options

  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the block's output, in the shape of x."""
    return self.learn(x)[0]

  def learn(self, x: Float[Array, "..."]) -> tuple[Array, list[Array]]:
    """Returns (the block's output, the weights of each layer)."""
    found = []
    for layer, axis in zip(self.layers, self.axes):
      y, weights = layer(x, axis=axis, return_weights=True, **self.options)
      x = x + y if self.residual else y
      found.append(weights)
    return x, found


def importance(weights: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "S"]:
  """Computes the importance factor of each entry of an axis, from 0 to 1.

  It is (w - min w) / (max w - min w) of weights averaged over all other axes; 0 where
  all are equal. arXiv:2401.11143, section 4.

  Args:
    weights: of `attend`, over data.
    axis: of the features.
  """
  rows = jnp.moveaxis(weights, axis, -1).reshape(-1, weights.shape[axis])
  mean = rows.mean(axis=0)
  least, most = mean.min(), mean.max()
  return (mean - least) / jnp.where(most > least, most - least, 1)
