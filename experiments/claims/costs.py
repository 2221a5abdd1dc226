"""CPU seconds of layers on images, for claims of cost."""

import functools

import jax
from flax import nnx

from experiments import small
from experiments.claims import timing
from experiments.claims.claim import Sized


def row(name: str, kind: str, slug, dim: int) -> Sized:
  """Returns a row of the CPU seconds of a layer on one image, by its tokens.

  Args:
    name: in the table.
    kind: one of `experiments.claims.claim.KINDS`.
    slug: a slug, (slug, its options), or (slug, T -> its options).
    dim: width of the layer.
  """
  return Sized(name, kind, functools.partial(_seconds, slug, dim))


def _seconds(slug, dim, tokens: int) -> float:
  side = round(tokens**0.5)
  if side**2 != tokens:
    raise ValueError(f"{tokens} tokens are no square")
  name, options = (slug, {}) if isinstance(slug, str) else slug
  options = options(tokens) if callable(options) else options
  layer = small.layer((name, options), ("image",))(dim, layers=1, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (1, side, side, dim))
  return timing.seconds(lambda layer, x: layer(x), layer, x)
