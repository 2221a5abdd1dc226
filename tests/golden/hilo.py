"""HiLo attention against the authors' layer."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import hilo
from tests.arrays import below


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  layer, x = _layer(arrays, meta), jnp.asarray(arrays["in.x"])
  grid = meta["H"], meta["W"]

  def total(x):
    out = layer(x.reshape(x.shape[0], *grid, -1)).reshape(x.shape)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
  yield "out.y", out, arrays["out.y"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def _layer(arrays, meta):
  layer = hilo.Layer(
    meta["dim"],
    heads=meta["num_heads"],
    window=meta["window_size"],
    alpha=meta["alpha"],
    qkv_bias=meta["qkv_bias"],
    rngs=nnx.Rngs(0),
  )
  weight = below(arrays, "param.")
  fill(layer, weight)
  return layer


def fill(layer, weight):
  for part, first, names in (
    (layer.high, "h", ("qkv",)),
    (layer.low, "l", ("q", "kv")),
  ):
    if part is not None:
      _fill(part, {end: _joined(weight, first, names, end) for end in _ENDS})
      heads, size, dim = part.out.kernel.shape
      out = weight[f"{first}_proj.weight"].T.reshape(heads, size, dim)
      _set(part.out.kernel, out)
      _set(part.out.bias, weight[f"{first}_proj.bias"])


_ENDS = ("weight", "bias")


def _joined(weight, first, names, end):
  """Of queries, keys and values, one below the other; None if there is none."""
  found = [weight.get(f"{first}_{name}.{end}") for name in names]
  return None if found[0] is None else np.concatenate(found)


def _fill(part, given):
  dim, heads, size = part.qkv.query.kernel.shape
  kernels = given["weight"].reshape(3, heads, size, dim)
  biases = given["bias"]
  for i, one in enumerate((part.qkv.query, part.qkv.key, part.qkv.value)):
    _set(one.kernel, np.moveaxis(kernels[i], -1, 0))
    if biases is not None:
      _set(one.bias, biases.reshape(3, heads, size)[i])


def _set(parameter, value):
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter[...] = jnp.asarray(value, jnp.float32)
