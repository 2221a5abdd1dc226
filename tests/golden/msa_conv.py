"""MSA-Conv against the authors' operator."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import msa_conv
from tests.arrays import below


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  weight = jax.tree.map(jnp.asarray, below(arrays, "param."))
  layer = _layer(weight, meta)
  _fill(layer, weight)

  def total(x):
    y = jnp.moveaxis(layer(jnp.moveaxis(x, 1, -1)), -1, 1)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, y), gradient = run(jnp.asarray(arrays["in.x"]))
  yield "out.y", y, arrays["out.y"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def _layer(weight, meta) -> Any:
  dim, below, *window = weight["mlp.weight"].shape
  return msa_conv.MSAConv2d(
    below,
    dim,
    window=window,
    stride=meta["stride"],
    dilation=meta["dilation"],
    padding=meta["padding"],
    bias="mlp.bias" in weight,
    rngs=nnx.Rngs(0),
  )


def _fill(layer, weight):
  layer.qkv.kernel[...] = weight["qkv_conv.weight"][:, :, 0, 0].T
  layer.qkv.bias[...] = weight["qkv_conv.bias"]
  layer.convolve.kernel[...] = weight["mlp.weight"].transpose(2, 3, 1, 0)
  if "mlp.bias" in weight:
    layer.convolve.bias[...] = weight["mlp.bias"]
