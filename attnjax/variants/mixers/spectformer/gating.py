"""The function `spectral_gate`, and its cases."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from attnjax.contract import Case, check_options
from attnjax.core import platform
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.mixers.spectformer import transforms
from attnjax.variants.mixers.spectformer.definition import reference

IMPLEMENTATIONS = ("reference", "xla")
METHODS = ("auto", "fft", "dft")
SHORT = 64  # the longest side that "auto" takes matrices for, on a TPU


def spectral_gate(
  x: Float[Array, "B *S C"],
  response: Inexact[Array, "..."],
  *,
  method: str = "auto",
  impl: str = "auto",
) -> Float[Array, "B *S C"]:
  """Computes irfft(rfft(x) * response), with the transform over all axes of the grid.

  arXiv:2304.06446, section 3, the global filter of arXiv:2107.00645: a depthwise
  convolution on the torus, whose kernel is as large as the grid.

  Args:
    x: a row (B, T, C) or a map (B, H, W, C).
    response: the filter's frequency response, (H, W // 2 + 1, C) complex, or (H, W // 2
      + 1, C, 2) with real and imaginary parts; (T // 2 + 1, C) or (T // 2 + 1, C, 2) of
      rows. Imaginary parts at frequencies that are their own mirror images say nothing.
    method: of "xla": "fft", "dft" for products with DFT matrices, or "auto", which
      takes these on TPUs if no side is longer than 64.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit, or `method` or `impl` is unknown.
  """
  check_options(impl=(impl, ("auto", *IMPLEMENTATIONS)), method=(method, METHODS))
  grid = x.shape[1:-1]
  whole = (*grid[:-1], grid[-1] // 2 + 1, x.shape[-1]) if grid else ()
  parts = () if jnp.iscomplexobj(response) else (2,)
  if len(grid) not in (1, 2) or response.shape != (*whole, *parts):
    raise ValueError(
      f"x {x.shape}, response {response.dtype} {response.shape}: x is (B, T, C) or (B,"
      f" H, W, C), and a response to it is {(*whole, *parts)}"
    )
  if impl == "reference":
    return reference(x, response, method=method)
  if 0 in x.shape:
    return x
  wide = accumulator_dtype(x)
  if not parts:
    response = jnp.stack([response.real, response.imag], axis=-1)
  run = transforms.by_dft if _by_matrices(method, grid) else transforms.by_fft
  return run(x.astype(wide), response.astype(wide)).astype(x.dtype)


def _by_matrices(method, grid) -> bool:
  if method != "auto":
    return method == "dft"
  return max(grid) <= SHORT and platform.target_platform() == "tpu"


def _shapes(channels, *grid) -> dict[str, tuple[int, ...]]:
  half = (*grid[:-1], grid[-1] // 2 + 1)
  return {"x": (2, *grid, channels), "response": (*half, channels, 2)}


def _case(name, channels, *grid, **options) -> Case:
  return Case(name, _shapes(channels, *grid), options, function="spectral_gate")


CASES = (
  _case("map", 3, 6, 10),
  _case("map_by_matrices", 3, 6, 10, method="dft"),
  _case("odd_columns", 2, 7, 9, method="fft"),
  _case("odd_columns_by_matrices", 2, 9, 7, method="dft"),
  _case("one_point", 2, 1, 1),
  _case("one_point_by_matrices", 2, 1, 1, method="dft"),
  _case("one_row", 1, 1, 63, method="dft"),
  _case("one_column", 1, 65, 1, method="dft"),
  _case("line", 2, 65),
  _case("line_by_matrices", 1, 63, method="dft"),
  _case("one_token", 3, 1),
  _case("two_tokens", 1, 2, method="dft"),
)


def _map(method):
  """Returns a function of T: a square map of about T points."""

  def problem(T):
    side = round(T**0.5)
    return _case("map", 16, side, side, method=method)

  return problem


# Name -> (the power of T that the work grows with, the problem of T points). An FFT has
# no products of matrices: of its work seconds tell, T log T.
CURVES = {"fft": (1.0, _map("fft")), "dft": (1.5, _map("dft"))}
