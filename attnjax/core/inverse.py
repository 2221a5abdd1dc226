"""The inverse of symmetric matrices by Newton's iteration, with its exact gradient.

  A' = A + jitter I,   Y_0 = alpha A',   Y <- 2 Y - Y A' Y

It converges where the norm of I - alpha A'^2 is below 1, quadratically in the end: a
condition number c takes about 2 log2(c) steps, and jitter bounds it: see `steps`. alpha
comes from row sums, which bound the norm of a symmetric matrix with entries >= 0.

Jiachen Lu et al. Softmax-free Linear Transformers. 2022. arXiv:2207.03341; Jiachen Lu
et al. SOFT. 2021. arXiv:2110.11945. The iteration: Guenther Schulz. 1933; Adi
Ben-Israel and Dan Cohen. 1966. Since dY = -Y dA Y, the analytic gradient of a loss is

  dA = -Y^T dY Y^T

It needs Y alone, not the iterates. All is float32 (float64 for float64) with products
in full precision: in less, the iteration diverges.

Cost: two products of (M, M) matrices a step.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype

GRADIENTS = ("analytic", "autodiff")
STARTS = ("matrix", "batch")


def newton_inverse(
  matrix: Float[Array, "*B M M"],
  *,
  iterations: int = 0,
  jitter: float = 0.01,
  gradient: str = "analytic",
  start: str = "matrix",
) -> Float[Array, "*B M M"]:
  """Returns the inverse of matrix + jitter I, float32 (float64 for float64).

  Args:
    matrix: symmetric, positive semi-definite, with entries >= 0.
    iterations: number of steps; 0 takes `steps`, as many as any such matrix needs.
    jitter: added to the diagonal, but not to the row sums of alpha.
    gradient: "analytic", that of the exact inverse, of any order; or "autodiff", that
      of the steps, whose results are kept.
    start: "matrix": alpha = 1.8 / (largest row sum)^2 of each matrix; "batch": SOFT++'s
      code, one alpha for all: 2 / (largest row sum of all)^2, halved up to 10 times
      until the 1-norms of I - A' Y_0 are at most 1.01. A matrix's result then depends
      on the others.

  Raises:
    ValueError: if an option is unknown or the matrices are not square.
  """
  for name, value, known in (
    ("gradient", gradient, GRADIENTS),
    ("start", start, STARTS),
  ):
    if value not in known:
      raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
  if iterations < 0:
    raise ValueError(f"iterations = {iterations}; it must be 0 or more")
  matrix = matrix.astype(accumulator_dtype(matrix))
  iterations = iterations or steps(matrix.shape[-1], jitter, matrix.dtype, start)
  run = _analytic if gradient == "analytic" else _iterate
  with jax.default_matmul_precision("highest"):
    return run(matrix, iterations, jitter, start)


def steps(size: int, jitter: float, dtype=jnp.float32, start: str = "matrix") -> int:
  """Returns the steps after which Newton's iteration is right to the type's digits.

  The entries are at most 1, so that eigenvalues are from jitter to size + jitter. Each
  step squares the residual of the least eigenvalue, at first 1 - alpha jitter^2.

  Args:
    size: M.
    jitter: added to the diagonal.
    dtype: the type of the sums.
    start: as in `newton_inverse`; "batch" may halve alpha 10 times.

  Raises:
    ValueError: without a jitter, which alone bounds the eigenvalues from below.
  """
  if jitter <= 0:
    raise ValueError(
      f"iterations = 0 needs a jitter above 0, not {jitter}: a singular matrix takes"
      " no number of steps"
    )
  digits = -math.log(float(jnp.finfo(dtype).eps))
  condition = max(size / jitter, 1.0)
  extra = 10 if start == "batch" else 0
  return math.ceil(math.log2(digits / 1.8) + 2 * math.log2(condition)) + extra


def _iterate(matrix, iterations, jitter, start):
  shifted = matrix + jitter * _eye(matrix)
  begin = _alpha(matrix, shifted, start) * shifted

  def step(inverse, _):
    return 2 * inverse - inverse @ shifted @ inverse, None

  return jax.lax.scan(step, begin, length=iterations)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _analytic(matrix, iterations, jitter, start):
  return _iterate(matrix, iterations, jitter, start)


@_analytic.defjvp
def _tangent(iterations, jitter, start, primals, tangents):
  """Returns an inverse Y and its tangent -Y dA Y, which JAX transposes."""
  inverse = _analytic(*primals, iterations, jitter, start)
  with jax.default_matmul_precision("highest"):
    return inverse, -inverse @ tangents[0] @ inverse


def _eye(matrix):
  eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
  return eye.reshape(*(1,) * (matrix.ndim - 2), *eye.shape)


def _alpha(matrix, shifted, start):
  sums = matrix.sum(-1)
  if start == "matrix":
    return 1.8 / sums.max(-1)[..., None, None] ** 2
  alpha = 2 / sums.max() ** 2
  square = shifted @ shifted
  eye = _eye(matrix)
  for _ in range(10):
    norm = jnp.abs(eye - alpha * square).sum(-2).max()
    alpha = jnp.where(norm > 1.01, 0.5 * alpha, alpha)
  return alpha
