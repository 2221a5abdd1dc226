"""Determinants as trilinear forms: scores that rotations in space do not change.

  det[q, k1, k2] = (q x k1) . k2 = sum_a (q[a+1] k1[a+2] - q[a+2] k1[a+1]) k2[a]

with a modulo 3, so that features of twice the size have the sum of the determinants of
all H / 3 pieces as their trilinear form.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def features(
  q: Float[Array, "B T N H"],
  k1: Float[Array, "B S K H"],
  k2: Float[Array, "B S K H"],
) -> tuple[Array, Array, Array]:
  """Returns q, k1, k2 of 2 H elements, whose trilinear form sums the determinants.

  Raises:
    ValueError: if 3 does not divide H.
  """
  if q.shape[-1] % 3:
    raise ValueError(f"H = {q.shape[-1]}; determinants take pieces of 3")
  one, two = _turned(q, 1), _turned(q, 2)
  return (
    jnp.concatenate([one, -two], axis=-1),
    jnp.concatenate([_turned(k1, 2), _turned(k1, 1)], axis=-1),
    jnp.concatenate([k2, k2], axis=-1),
  )


def _turned(x, count: int):
  """Returns x with element a + count of each piece of 3 in place a."""
  pieces = x.reshape(*x.shape[:-1], -1, 3)
  return jnp.roll(pieces, -count, axis=-1).reshape(x.shape)


def rotated(
  x: Float[Array, "B T N H"], positions: Array, *, theta: float = 10000.0
) -> Float[Array, "B T N H"]:
  """Rotates the pieces of 3 about their last axis, by angles that positions give.

  Determinants of rotated q, k1 and k2 depend on differences of positions alone. The
  angle of piece c of C at position p is p theta^(-c/C), in float32.

  Args:
    x: queries or keys.
    positions: (T,) or (B|1, T).
    theta: of the angles.
  """
  pieces = x.reshape(*x.shape[:-1], -1, 3)
  rate = theta ** (-jnp.arange(pieces.shape[-2]) / pieces.shape[-2])
  places = jnp.atleast_2d(positions)[..., None, None].astype(jnp.float32)
  angle = places * rate.astype(jnp.float32).reshape(1, 1, 1, -1)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  a, b, c = (pieces[..., i] for i in range(3))
  turned = a * cos - b * sin, b * cos + a * sin, c.astype(jnp.float32)
  return jnp.stack(turned, axis=-1).reshape(x.shape).astype(x.dtype)
