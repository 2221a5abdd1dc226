"""Problems of the benchmark of lengths: layers, and functions that a module names.

A module whose functions grow in several ways has `CURVES`: a name -> (the exponent that
is expected of T, a function of T that returns a `Case`), measured in plain JAX.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax import contract

WIDTH = 64


def forms(slug: str) -> list[str]:
  """Returns what is measured: causal, else sequence, also image; and the curves."""
  module = contract.load(slug)
  found = [form for form in ("causal", "sequence") if form in module.FORMS]
  found = found[:1] + ["image"] * ("image" in module.FORMS)
  return [*found, *getattr(module, "CURVES", {})]


def growth(slug: str, form: str) -> float | None:
  """Returns the exponent of T that is expected of the FLOPs; None if it is not said."""
  module = contract.load(slug)
  curves = getattr(module, "CURVES", {})
  return curves[form][0] if form in curves else getattr(module, "GROWTH", None)


def problem(slug: str, form: str, length: int) -> tuple[Callable, tuple, int]:
  """Returns (a function, its arguments, their tokens) of about `length` tokens."""
  curves = getattr(contract.load(slug), "CURVES", {})
  if form in curves:
    return *_called(slug, curves[form][1](length)), length
  side = round(math.sqrt(length))
  shape = (side, side) if form == "image" else (length,)
  scaled = getattr(contract.load(slug), "scaled", None)
  options = scaled(shape) if scaled else {}
  build = contract.constructor(slug, options, (form,))
  layer = build(WIDTH, layers=2 if form == "image" else 1, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (1, *shape, WIDTH))
  return _images if form == "image" else _forward, (layer, x), math.prod(shape)


def gradient(run: Callable, arguments: tuple) -> Callable:
  """Returns the gradients of a sum over the result of `run`, by all its arguments."""
  every = tuple(range(len(arguments)))
  return jax.grad(lambda *given: jnp.sum(jnp.sin(run(*given))), every)


def _called(slug: str, case: contract.Case) -> tuple[Callable, tuple]:
  function, options = case.implemented(contract.load(slug)), case.arguments()
  arrays = case.arrays()

  def run(*given) -> Any:
    return function(**dict(zip(arrays, given)), **options, impl="xla")

  return run, tuple(arrays.values())


def _forward(layer, x):
  return layer(x)


def _images(layer, x):
  return layer(layer(x, index=0), index=1)
