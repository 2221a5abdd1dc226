"""CrossFormer's cross-scale embedding against the authors'."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import crossformer


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  layer, x = _layer(arrays, meta), jnp.asarray(arrays["in.x"])

  def total(x):
    out = layer(jnp.moveaxis(x, 1, -1))
    out = out.reshape(out.shape[0], -1, out.shape[-1])
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
  yield "out.y", out, arrays["out.y"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def _layer(arrays, meta):
  layer = crossformer.CrossScale(
    arrays["in.x"].shape[1], meta["embed_dim"], meta["patch_size"], rngs=nnx.Rngs(0)
  )
  for number, part in enumerate(layer.convolutions):
    kernel = np.transpose(arrays[f"param.projs.{number}.weight"], (2, 3, 1, 0))
    _set(part.kernel, kernel)
    _set(part.bias, arrays[f"param.projs.{number}.bias"])
  _set(layer.norm.scale, arrays["param.norm.weight"])
  _set(layer.norm.bias, arrays["param.norm.bias"])
  return layer


def _set(parameter, value):
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter[...] = jnp.asarray(value, jnp.float32)
