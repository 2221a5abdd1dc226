"""The loss of TANet against the authors' criterion."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np

from attnjax.variants.mixers import tanet


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""

  def loss(x, y):
    options = {"weight": meta["alpha"], "epsilon": meta["eps"]}
    return tanet.reconstruction(x, y, **options)

  given = [np.moveaxis(arrays[f"in.{name}"], 1, 3) for name in ("x", "y")]
  value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(*given)
  yield "out.loss", value, arrays["out.loss"]
  for name, gradient in zip(("x", "y"), gradients):
    yield f"grad.{name}", np.moveaxis(gradient, 3, 1), arrays[f"grad.{name}"]
