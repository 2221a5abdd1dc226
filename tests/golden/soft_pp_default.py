"""SOFT++ by default: jitter, a start for each matrix, the analytic gradient."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from tests.arrays import below
from tests.golden import soft


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  hyper = meta["hyper"]
  names = ("heads", "normalise", "iterations", "jitter", "start", "gradient")
  options = {name: hyper[name] for name in names}
  weight = jax.tree.map(jnp.asarray, below(arrays, "param."))

  def total(weight, x):
    image = x.reshape(x.shape[0], hyper["H"], hyper["W"], -1)
    out = soft.filled(weight, options)(image).reshape(x.shape)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  run = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
  (by_weight, by_x), out = run(weight, jnp.asarray(arrays["in.x"]))
  found = {f"grad.param.{name}": value for name, value in by_weight.items()}
  found |= {"out.y": out, "grad.x": by_x}
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]
