"""Agent attention against the authors' layers for PVT, DeiT and Swin."""

import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.linear import agent_attention
from tests.arrays import below


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  heads = meta["hyper"]["heads"]
  for key, want in arrays.items():
    if not key.startswith("out."):
      continue
    name = key.removeprefix("out.").rsplit("_", 1)[0]
    weight = below(arrays, f"param.{name}.")
    out, gradient = _run(_layer(weight, heads), jnp.asarray(arrays[f"in.{name}_x"]))
    yield key, out, want
    if f"grad.{name}_x" in arrays:
      yield f"grad.{name}_x", gradient, arrays[f"grad.{name}_x"]


def _run(layer, x):
  grid = () if layer.class_token else layer.grid

  def total(x):
    out = layer(x.reshape(x.shape[0], *(grid or x.shape[1:2]), -1)).reshape(x.shape)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
  return out, gradient


def _layer(weight, heads):
  class_token = "ac_bias" in weight
  reduce = weight.get("sr.weight")
  kernels, biases = _projections(weight)
  dim = kernels[0].shape[1]
  size = kernels[0].shape[0] // heads
  layer = agent_attention.Layer(
    dim,
    form="sequence" if class_token else "image",
    heads=heads,
    head_dim=size,
    num_agents=weight["an_bias"].shape[1],
    # (1, N, H, 1, A) and (1, N, 1, W, A)
    grid=(weight["ha_bias"].shape[2], weight["wa_bias"].shape[3]),
    kernel=weight["dwc.weight"].shape[-1],
    sr_ratio=1 if reduce is None else reduce.shape[-1],
    class_token=class_token,
    qkv_bias=biases is not None,
    rngs=nnx.Rngs(0),
  )
  fill(layer, weight)
  return layer


def fill(layer, weight):
  """Sets the layer's parameters from the authors', by their names in their layer."""
  (dim, heads, size), reduce = layer.qkv.query.kernel.shape, weight.get("sr.weight")
  kernels, biases = _projections(weight)
  parts = layer.qkv.query, layer.qkv.key, layer.qkv.value
  for i, part in enumerate(parts):
    _set(part.kernel, np.moveaxis(kernels[i].reshape(heads, size, dim), -1, 0))
    if biases is not None:
      _set(part.bias, biases[i].reshape(heads, size))
  _set(layer.out.kernel, weight["proj.weight"].T.reshape(heads, size, -1))
  _set(layer.out.bias, weight["proj.bias"])
  if "dwc.weight" in weight:
    _set(layer.convolution.kernel, np.moveaxis(weight["dwc.weight"][:, 0], 0, -1))
    _set(layer.convolution.bias, weight["dwc.bias"])
    _fill_biases(layer, weight)
  if reduce is not None:
    _set(layer.reduce.kernel, np.transpose(reduce, (2, 3, 1, 0)))
    _set(layer.reduce.bias, weight["sr.bias"])
    _set(layer.reduce.norm.scale, weight["norm.weight"])
    _set(layer.reduce.norm.bias, weight["norm.bias"])


def _projections(weight):
  """The matrices of queries, keys and values, and their biases or None."""
  names = ("qkv",) if "qkv.weight" in weight else ("q", "kv")
  kernel = np.concatenate([weight[f"{name}.weight"] for name in names])
  if f"{names[0]}.bias" not in weight:
    return np.split(kernel, 3), None
  bias = np.concatenate([weight[f"{name}.bias"] for name in names])
  return np.split(kernel, 3), np.split(bias, 3)


def _fill_biases(layer, weight):
  _set(layer.gather.table, weight["an_bias"])
  _set(layer.spread.table, weight["na_bias"])
  for side, name in zip(layer.gather.sides, ("ah_bias", "aw_bias")):
    _set(side, weight[name].reshape(side.shape))
  for side, name in zip(layer.spread.sides, ("ha_bias", "wa_bias")):
    theirs = weight[name]  # agents last
    heads, agents = theirs.shape[1], theirs.shape[-1]
    _set(side, theirs.reshape(heads, math.prod(theirs.shape[2:4]), agents).mT)
  if layer.class_token:
    for part, name in zip(layer.class_biases, ("ac_bias", "ca_bias")):
      _set(part, weight[name].reshape(part.shape))


def _set(parameter, value):
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter[...] = value
