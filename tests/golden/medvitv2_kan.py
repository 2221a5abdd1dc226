"""MedViTV2's KAN against the authors'."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import medvitv2


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  kan, x = network(arrays, "param.", meta["layers"]), jnp.asarray(arrays["in.x"])

  def total(x):
    y = kan(x)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  (_, y), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
  yield "out.y", y, arrays["out.y"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def network(arrays, prefix, features) -> Any:
  """The KAN whose arrays' names begin with a prefix."""
  grids = arrays[f"{prefix}layers.0.rbf.grid"].size
  kan: Any = jax.eval_shape(
    lambda: medvitv2.FasterKAN(features, grids=grids, rngs=nnx.Rngs(0))
  )
  for number, layer in enumerate(kan.layers):
    name = f"{prefix}layers.{number}"
    centres = arrays[f"{name}.rbf.grid"]
    np.testing.assert_allclose(centres, np.linspace(-2, 2, grids), atol=1e-6)
    layer.norm.scale.set_value(jnp.asarray(arrays[f"{name}.layernorm.weight"]))
    layer.norm.bias.set_value(jnp.asarray(arrays[f"{name}.layernorm.bias"]))
    weight = arrays[f"{name}.spline_linear.weight"]
    layer.weight.set_value(jnp.asarray(weight.T.reshape(-1, grids, len(weight))))
  return kan
