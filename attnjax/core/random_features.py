"""Random features: maps phi with E[phi(x) . phi(y)] = exp(x . y).

Krzysztof Choromanski et al. Rethinking Attention with Performers. 2021.
arXiv:2009.14794, lemma 1 and section 2.4; Hao Peng et al. Random Feature Attention.
2021. arXiv:2103.02143 (the trigonometric ones).

w (M, H) are draws from a unit normal, each row one feature. An error falls as
M^-1/2, and grows with the lengths of x and y: for the positive features as
exp(|x + y|^2 / 2).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from attnjax.core.dtypes import accumulator_dtype

KINDS = ("positive", "trigonometric")


def draw(
  key: Key[Array, ""], features: int, size: int, *, orthogonal: bool = True
) -> Float[Array, "M H"]:
  """Draws w (features, size), float32.

  Args:
    key: of the draw.
    features: M.
    size: H.
    orthogonal: blocks of up to H rows are orthogonal to each other, their lengths
      those of normal vectors; each row alone is still a unit normal.
  """
  if not orthogonal:
    return jax.random.normal(key, (features, size))
  blocks = -(-features // size)
  directions, lengths = jax.random.split(key)
  square = jax.random.normal(directions, (blocks, size, size))
  # With the signs of R's diagonal Q would be uniform; Q alone is not.
  q, r = jnp.linalg.qr(square)
  q = q * jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None, :]
  length = jnp.linalg.norm(jax.random.normal(lengths, (features, size)), axis=1)
  return q.reshape(-1, size)[:features] * length[:, None]


def logarithm(
  x: Float[Array, "... H"], w: Float[Array, "... M H"]
) -> Float[Array, "... M"]:
  """Returns the log of the positive features, w . x - |x|^2 / 2 - log(M) / 2."""
  x = x.astype(accumulator_dtype(x))
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return jnp.einsum("...h,...mh->...m", x, w) - square / 2 - jnp.log(w.shape[-2]) / 2


def positive(
  x: Float[Array, "... H"], w: Float[Array, "... M H"]
) -> Float[Array, "... M"]:
  """Returns the positive features, exp(w . x - |x|^2 / 2) / sqrt(M)."""
  return jnp.exp(logarithm(x, w))


def trigonometric(
  x: Float[Array, "... H"], w: Float[Array, "... M H"], *, scaled: bool = True
) -> Float[Array, "... F"]:
  """Returns exp(|x|^2 / 2) [sin(w . x), cos(w . x)] / sqrt(M), F = 2 M features.

  A dot product of two of them may be negative. Without `scaled` the exponential, which
  may overflow, is left out.
  """
  x = x.astype(accumulator_dtype(x))
  angle = jnp.einsum("...h,...mh->...m", x, w)
  phi = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1) / w.shape[-2] ** 0.5
  return phi * jnp.exp(jnp.sum(x * x, axis=-1, keepdims=True) / 2) if scaled else phi
