"""References between two images on the sphere, and the neighbours of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from attnjax.contract import check_known
from attnjax.core.units import unit
from attnjax.variants.cross.composed_retrieval import definition

IMPLEMENTATIONS = ("reference", "xla")
# 2 - 2 cos of the smallest angle, whose cosine is 1 - 1e-6.
_NEAR = 2e-6


def slerp(
  a: Float[Array, "*R D"],
  b: Float[Array, "*R D"],
  alpha: float = 0.5,
  *,
  impl: str = "auto",
) -> Float[Array, "*R D"]:
  """Computes the point of the arc from a to b at a part of its angle, of length 1.

  Vectors are divided by their lengths first; a zero stays zero. Below an angle of
  1.4e-3 it is the normalised linear interpolation. Opposite vectors have no arc: within
  1.4e-3 of pi sines stop growing, and the length is below 1. All gradients are finite.

  Args:
    a: at alpha = 0.
    b: at alpha = 1.
    alpha: from 0 to 1; 0.5 is the paper's best.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if `alpha` is out of its range or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if not 0 <= alpha <= 1:
    raise ValueError(f"alpha = {alpha}; it must be from 0 to 1")
  if impl == "reference":
    return definition.reference_slerp(a, b, alpha)
  kind, (a, b) = jnp.result_type(a, b), map(unit, (a, b))
  # Of squared chords an angle has no cancellation, unlike the arc cosine of a product.
  apart, beside = (jnp.sum(x * x, axis=-1, keepdims=True) for x in (a - b, a + b))
  near = apart < _NEAR
  apart, beside = (jnp.sqrt(jnp.maximum(x, _NEAR)) for x in (apart, beside))
  angle = 2 * jnp.arctan2(apart, beside)
  sine = 2 * apart * beside / (apart**2 + beside**2)
  arc = (jnp.sin((1 - alpha) * angle) * a + jnp.sin(alpha * angle) * b) / sine
  return jnp.where(near, unit((1 - alpha) * a + alpha * b), arc).astype(kind)


def nearest_in_batch(
  v: Float[Array, "B D"],
  exclude: Bool[Array, "B B"] | None = None,
  *,
  impl: str = "auto",
) -> Int[Array, "B"]:
  """Finds the other vector of the batch with the greatest cosine; no gradient.

  Of equal cosines the lowest index counts. A vector without others has -1.

  Args:
    v: of the images.
    exclude: True at pairs (i, j) where j is no neighbour of i; none if None.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return definition.reference_nearest_in_batch(v, exclude)
  x = unit(jax.lax.stop_gradient(v))
  return _best(jnp.einsum("id,jd->ij", x, x), exclude)


def random_in_batch(
  key: Key[Array, ""], count: int, exclude: Bool[Array, "B B"] | None = None
) -> Int[Array, "B"]:
  """Draws another vector of the batch for each; the paper's ablation of neighbours.

  Args:
    key: of the draw.
    count: B.
    exclude: as in `nearest_in_batch`.
  """
  return _best(jax.random.uniform(key, (count, count)), exclude)


def false_negatives(v: Float[Array, "B D"], above: float = 0.95) -> Bool[Array, "B B"]:
  """Returns which pairs of other images have a cosine above a bound.

  Args:
    v: of the images.
    above: the bound; 0.95 is not the paper's, which leaves all pairs in.
  """
  x = unit(jax.lax.stop_gradient(v))
  alike = jnp.einsum("id,jd->ij", x, x) > above
  return alike & ~jnp.eye(v.shape[0], dtype=bool)


def _best(score, exclude):
  """Returns the index of each row's greatest score, never its own; -1 without any."""
  allowed = ~jnp.eye(score.shape[0], dtype=bool)
  if exclude is not None:
    allowed &= ~exclude
  best = jnp.where(allowed, score, -jnp.inf).argmax(axis=1)
  return jnp.where(allowed.any(axis=1), best, -1).astype(jnp.int32)
