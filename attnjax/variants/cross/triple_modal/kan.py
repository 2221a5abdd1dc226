"""Kolmogorov-Arnold layers whose functions are B-splines.

Ziming Liu et al. KAN: Kolmogorov-Arnold Networks. 2024. arXiv:2404.19756; in the form
of github.com/Blealtan/efficient-kan, which ITCFN's code has.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.triple_modal import definition
from attnjax.variants.cross.triple_modal.coattention import IMPLEMENTATIONS
from attnjax.variants.cross.triple_modal.refusals import refuse_kernels

NOISE = 0.1  # of the functions at first, over the number of intervals


def b_splines(
  x: Float[Array, "*B"],
  intervals: int = 5,
  order: int = 3,
  low: float = -1.0,
  high: float = 1.0,
) -> Float[Array, "*B G"]:
  """Computes all G = intervals + order B-splines at x by the recursion of de Boor.

  Args:
    x: the places.
    intervals: between `low` and `high`, of equal length; `order` more stand outside at
      each end.
    order: the degree of the polynomials.
    low: where the first interval begins.
    high: where the last interval ends.

  Raises:
    ValueError: if there is no interval, or the order is negative.
  """
  if intervals < 1 or order < 0 or not low < high:
    raise ValueError(
      f"intervals = {intervals}, order = {order}, from {low} to {high}: at least 1, at"
      " least 0, and low < high"
    )
  x = x.astype(accumulator_dtype(x))
  place = ((x - low) * (intervals / (high - low)) + order)[..., None]
  knots = jnp.arange(intervals + 2 * order + 1)
  basis = ((place >= knots[:-1]) & (place < knots[1:])).astype(x.dtype)
  for degree in range(1, order + 1):
    rising = (place - knots[: -degree - 1]) / degree
    falling = (knots[degree + 1 :] - place) / degree
    basis = rising * basis[..., :-1] + falling * basis[..., 1:]
  return basis


def kan_linear(
  x: Float[Array, "*B I"],
  base: Float[Array, "I O"],
  spline: Float[Array, "I G O"],
  scaler: Float[Array, "I O"],
  *,
  order: int = 3,
  low: float = -1.0,
  high: float = 1.0,
  impl: str = "auto",
) -> Float[Array, "*B O"]:
  """Computes silu(x) base + sum_ig splines(x)[i, g] spline[i, g] scaler[i].

  Args:
    x: the features.
    base: of the features' SiLU.
    spline: of each feature's B-splines, G = intervals + order.
    scaler: of each feature's curve.
    order: the degree of the polynomials.
    low: where the first interval begins; order intervals below it all splines are 0.
    high: where the last interval ends.
    impl: "reference", "xla", or "auto", which takes "xla".

  Raises:
    ValueError: if `impl` is unknown or there is no interval.
    NotImplementedError: if a kernel is asked for.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  refuse_kernels(impl, "a layer of splines")
  if impl == "reference":
    given = {"order": order, "low": low, "high": high}
    return definition.reference_kan_linear(x, base, spline, scaler, **given)
  basis = b_splines(x, spline.shape[1] - order, order, low, high)
  curve = jnp.einsum("...ig,igo->...o", basis, spline * scaler[:, None])
  return (jax.nn.silu(x.astype(basis.dtype)) @ base + curve).astype(x.dtype)


class KANLinear(nnx.Module):
  """Holds the parameters of `kan_linear`: (*B, below) to (*B, dim), no bias.

  The curves begin as interpolations of noise at the ends of the intervals.
  """

  def __init__(
    self,
    below: int,
    dim: int,
    *,
    intervals: int = 5,
    order: int = 3,  # the degree of the polynomials
    low: float = -1.0,  # where the first interval begins
    high: float = 1.0,  # where the last interval ends
    rngs: nnx.Rngs,
  ):
    self.order, self.low, self.high = order, low, high
    size = below**-0.5

    def uniform(*shape, most):
      return jax.random.uniform(rngs.params(), shape, jnp.float32, -most, most)

    self.base = nnx.Param(uniform(below, dim, most=size))
    self.scaler = nnx.Param(uniform(below, dim, most=size))
    ends = np.linspace(low, high, intervals + 1)
    with jax.ensure_compile_time_eval():
      splines = jax.jit(b_splines, static_argnums=(1, 2, 3, 4))
      found = splines(jnp.asarray(ends, jnp.float32), intervals, order, low, high)
      solve = np.linalg.pinv(np.asarray(found))
    noise = uniform(intervals + 1, below, dim, most=NOISE / 2 / intervals)
    spline = jnp.einsum("gs,sio->igo", jnp.asarray(solve, jnp.float32), noise)
    self.spline = nnx.Param(spline)

  def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    """Returns the layer's output."""
    given = {"order": self.order, "low": self.low, "high": self.high}
    return kan_linear(x, self.base[...], self.spline[...], self.scaler[...], **given)
