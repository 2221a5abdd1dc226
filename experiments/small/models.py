"""The small hosts, and mechanisms whose output is zero."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax import contract
from attnjax.models import language as language_host
from attnjax.models import vision as vision_host

Build = Callable[[jax.Array], Any]
# Whatever fits: sequences in their order first, then images.
FORMS = (*language_host.FORMS, *vision_host.FORMS)


def language(slugs: Sequence[Any], *, vocab: int, **sizes: Any) -> Build:
  """Returns what makes a small language model from a random key.

  Args:
    slugs: the mechanisms in turn: a slug, (slug, its options), or a constructor.
    vocab: number of symbols.
    **sizes: of `attnjax.models.language.Model`.
  """
  layers = [layer(one, language_host.FORMS) for one in slugs]
  options: dict[str, Any] = {"dim": 64, "depth": 2, "mlp_ratio": 2.0} | sizes
  return lambda key: language_host.Model(
    layers, vocab=vocab, rngs=nnx.Rngs(key), **options
  )


def vision(slugs: Sequence[Any], *, channels: int, classes: int, **sizes: Any) -> Build:
  """Returns what makes a small image classifier from a random key.

  Args:
    slugs: the mechanisms in turn: a slug, (slug, its options), or a constructor.
    channels: of the images.
    classes: number of classes.
    **sizes: of `attnjax.models.vision.Model`.
  """
  layers = [layer(one, vision_host.FORMS) for one in slugs]
  options: dict[str, Any] = {"dim": 32, "depth": 2, "mlp_ratio": 2.0} | sizes
  return lambda key: vision_host.Model(
    layers, channels=channels, classes=classes, rngs=nnx.Rngs(key), **options
  )


def without(slug: Any, forms: Sequence[str] = FORMS) -> Any:
  """Returns a layer's constructor whose mechanism gives zero.

  What is around it stays: gates, convolutions and terms of positions outside of it, all
  that the layer's `merge` does. A layer without `mix` gives zero as a whole.

  Args:
    slug: a slug, (slug, its options), or a constructor.
    forms: that the host takes, the preferred one first.
  """
  build = layer(slug, forms)

  def made(*arguments, **options):
    found = build(*arguments, **options)
    found.__class__ = _silent(type(found))
    return found

  for name in ("form", "module"):  # what hosts ask a constructor
    setattr(made, name, getattr(build, name))
  return made


def layer(slug: Any, forms: Sequence[str] = FORMS) -> Any:
  """Returns a constructor of layers from a slug, (slug, options) or a constructor."""
  if callable(slug):
    return slug
  name, options = (slug, {}) if isinstance(slug, str) else slug
  return contract.constructor(name, options, forms)


@functools.cache
def _silent(kind: type) -> type:
  """Returns a class of layers whose mechanism, or all of whose output, is zero."""

  def mix(self, heads, **options):
    return jax.tree.map(jnp.zeros_like, kind.mix(self, heads, **options))

  def call(self, *arguments, **options):
    return jax.tree.map(jnp.zeros_like, kind.__call__(self, *arguments, **options))

  changed = {"mix": mix} if hasattr(kind, "mix") else {"__call__": call}
  return type(f"Silent{kind.__name__}", (kind,), changed)
