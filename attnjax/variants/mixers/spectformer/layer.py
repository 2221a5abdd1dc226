"""The layer: one filter a channel, learned on one grid and interpolated on others."""

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import resample
from attnjax.variants.mixers.spectformer.gating import (
  IMPLEMENTATIONS,
  METHODS,
  spectral_gate,
)

FORMS = ("sequence", "image")
SCALE = 0.02  # standard deviation of what is drawn


class Layer(nnx.Module):
  """`spectral_gate` with a learned response; x (B, T, D) or (B, H, W, D).

  Every token reads all, each channel by weights of its own: it is a head of one
  channel. There is no projection: channels mix in the MLP of a block.

  Args:
    dim: D.
    form: "sequence" or "image".
    grid: sides of the grid that the response is for, or one number for all sides. On
      other grids it is interpolated, see `resampled`.
    method: as in `spectral_gate`.
    impl: as in `spectral_gate`.
    rngs: for the response, normal with the standard deviation 0.02.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    grid: int | Sequence[int] = 14,
    method: str = "auto",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      method=(method, METHODS),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    axes = 2 if form == "image" else 1
    sides = (grid,) * axes if isinstance(grid, int) else tuple(grid)
    if len(sides) != axes or min(sides) < 1:
      raise ValueError(f"grid = {grid}: form {form!r} has {axes} positive sides")
    shape = (*_half(sides), dim, 2)
    self.response = nnx.Param(SCALE * jax.random.normal(rngs.params(), shape))
    self.form, self.method, self.impl = form, method, impl

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    if self.form == "image":
      return {}
    return {
      "segment_ids": "the row is one circle, on which its ends are neighbours",
      "valid": "the row is one circle of all of its tokens: padding would be on it",
      "positions": "a filter knows distances in the row alone",
    }

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns x as the values of D heads."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    return Heads(None, None, tokens.x[..., None], tokens)

  def mix(self, heads: Heads) -> Float[Array, "B *S D E"]:
    """Returns `spectral_gate` of the values, all of a head by its response."""
    values = jnp.moveaxis(heads.v, -1, 1)
    rows = values.reshape(-1, *values.shape[2:])
    response = resampled(self.response[...], rows.shape[1:-1])
    out = spectral_gate(rows, response, method=self.method, impl=self.impl)
    return jnp.moveaxis(out.reshape(values.shape), 1, -1)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the filtered channels."""
    return out[..., 0].astype(heads.tokens.x.dtype)

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)


def resampled(
  response: Float[Array, "*F D 2"], grid: Sequence[int]
) -> Float[Array, "*f D 2"]:
  """Returns a response for another grid, interpolated by cubic convolution.

  Real and imaginary parts are each interpolated over the frequencies as they are
  stored, so that the first and the last ones on each axis stay, as the official code
  does before it trains at another resolution.

  Args:
    response: of any grid.
    grid: its new sides.
  """
  for axis, count in enumerate(_half(grid)):
    if count != response.shape[axis]:
      matrix = resample.cubic(count, response.shape[axis], corners=True)
      matrix = jnp.asarray(matrix, response.dtype)
      highest = jax.lax.Precision.HIGHEST
      moved = jnp.tensordot(matrix, response, (1, axis), precision=highest)
      response = jnp.moveaxis(moved, 0, axis)
  return response


def _half(grid: Sequence[int]) -> tuple[int, ...]:
  """Returns the numbers of frequencies on each axis."""
  return (*grid[:-1], grid[-1] // 2 + 1)


def scaled(shape: Sequence[int]) -> dict:
  """Returns hyper-parameters for `shape` tokens: filters as large as the grid."""
  return {"grid": tuple(shape)}
