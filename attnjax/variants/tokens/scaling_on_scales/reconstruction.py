"""The study: how much of one network's features a linear map finds in another's."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.tokens.scaling_on_scales.definition import (
  reference_information,
  reference_linear_reconstruction,
)

_IMPLEMENTATIONS = ("reference", "xla")


def linear_reconstruction(
  inputs: Float[Array, "N D"],
  targets: Float[Array, "M E"],
  *,
  ridge: float = 1e-6,
  impl: str = "auto",
) -> tuple[Float[Array, "D E"], Float[Array, "E"]]:
  """Fits (kernel, bias) of the linear map from features to targets, a token a row.

  It minimises mean square error + ridge |kernel|^2, the bias being free.
  arXiv:2403.13043, section 4.1, trains this map by gradients.

  Args:
    inputs: features of the smaller network.
    targets: of the larger one, at the same places: M is N.
    ridge: in the unit of the features' squares; above 0 where they are fewer than D.
    impl: "reference", "xla", or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit, `ridge` is negative or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *_IMPLEMENTATIONS))
  if len(inputs) != len(targets):
    raise ValueError(f"inputs {inputs.shape}, targets {targets.shape}: N differs")
  if ridge < 0:
    raise ValueError(f"ridge = {ridge}: it must be 0 or more")
  if impl == "reference":
    return reference_linear_reconstruction(inputs, targets, ridge=ridge)
  x, y = (z.astype(accumulator_dtype(z)) for z in (inputs, targets))
  middle, mean = x.mean(axis=0), y.mean(axis=0)
  with jax.default_matmul_precision("highest"):
    far = x - middle
    gram = far.T @ far / len(x) + ridge * jnp.eye(x.shape[1], dtype=x.dtype)
    moment = far.T @ (y - mean) / len(x)
    kernel = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram), moment)
    return kernel, mean - middle @ kernel


def information(
  inputs: Float[Array, "N D"],
  targets: Float[Array, "N E"],
  kernel: Float[Array, "D E"],
  shift: Float[Array, "E"],
  constant: Float[Array, "E"],
  *,
  impl: str = "auto",
) -> Float[Array, ""]:
  """Computes -log(error / error of a constant) of a linear map, in nats.

  arXiv:2403.13043, section 4.1. The reconstruction ratio of two sets of features is the
  quotient of their informations. It is 0 where the map does no better than the constant
  and infinite where it errs nowhere.

  Args:
    inputs: features of the smaller network, of other images than those of the fit, say.
    targets: of the larger one.
    kernel: of `linear_reconstruction`.
    shift: the bias of `linear_reconstruction`.
    constant: the guess without features: the mean of the targets of the fit.
    impl: "reference", "xla", or "auto", which is "xla".

  Raises:
    ValueError: if `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *_IMPLEMENTATIONS))
  if impl == "reference":
    return reference_information(inputs, targets, kernel, shift, constant)
  wide = accumulator_dtype(targets)
  x, y, kernel = (z.astype(wide) for z in (inputs, targets, kernel))
  with jax.default_matmul_precision("highest"):
    error = jnp.square(x @ kernel + (shift.astype(wide) - y)).mean()
  return jnp.log(jnp.square(constant.astype(wide) - y).mean()) - jnp.log(error)
