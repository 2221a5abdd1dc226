"""The HyperZ.Z.W operators: features and slow kernels give weights of features."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax.contract import Case, check_known
from attnjax.core import definition
from attnjax.core.depthwise import depthwise
from attnjax.core.dtypes import accumulator_dtype

IMPLEMENTATIONS = ("reference", "xla")


def attend(
  z: Float[Array, "B H W C"],
  w: Float[Array, "H W C"],
  x: Float[Array, "B H W C"],
  *,
  impl: str = "auto",
) -> Float[Array, "B H W C"]:
  """Computes (x * w) z, a matrix product for each image and channel, in z's type.

    out[b, h, u, c] = sum_{r < min(H, W)} x[b, h, r, c] w[h, r, c] z[b, r, u, c]

  Args:
    z: features that the weights act on.
    w: the slow net's kernel, shared by all images.
    x: features that multiply the kernel.
    impl: one of IMPLEMENTATIONS, or "auto", which takes "xla".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if x.shape != z.shape or w.shape != z.shape[1:]:
    raise ValueError(
      f"z {z.shape}, w {w.shape}, x {x.shape} must be (B, H, W, C), (H, W, C),"
      " (B, H, W, C)"
    )
  if impl == "reference":
    return reference(z, w, x)
  side, dtype = min(z.shape[1:3]), accumulator_dtype(z)
  weights = (x.astype(dtype) * w.astype(dtype)[None])[:, :, :side]
  rows = z[:, :side].astype(dtype)
  # Batched matrix products need the channels before the pixels.
  weights, rows = jnp.moveaxis(weights, 3, 1), jnp.moveaxis(rows, 3, 1)
  return jnp.moveaxis(jnp.matmul(weights, rows), 1, 3).astype(z.dtype)


def reference(z, w, x):
  """Computes the definition: the formula above, summed over r."""
  z, w, x, kind = *(definition.wide(a) for a in (z, w, x)), z.dtype
  both = np.arange(min(z.shape[1:3]))  # a row of z, and a column of x and w
  terms = x[:, :, both] * w[:, both]
  return jnp.einsum("bhrc,bruc->bhuc", terms, z[:, both]).astype(kind)


def elementwise(
  w: Float[Array, "H W C"], x: Float[Array, "B H W C"]
) -> Float[Array, "B H W C"]:
  """Computes (x * w) * x, the operator without interaction between pixels."""
  return x * w * x


def local(
  kernel: Float[Array, "h w C"], x: Float[Array, "B H W C"]
) -> Float[Array, "B H W C"]:
  """Correlates each channel with its own kernel of odd sides, on zero padding."""
  return depthwise(x, kernel)


def _shapes(B, H, W, C):
  return {"z": (B, H, W, C), "w": (H, W, C), "x": (B, H, W, C)}


CASES = (
  Case("square", _shapes(2, 8, 8, 6)),
  Case("one_pixel", _shapes(1, 1, 1, 3)),
  Case("wide", _shapes(2, 5, 9, 2)),
  Case("tall", _shapes(1, 9, 4, 3)),
  Case("odd", _shapes(1, 33, 33, 1)),
)
