"""SOFT and SOFT++ against the authors' attentions, block and inverse."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.core.inverse import newton_inverse
from attnjax.variants.linear import soft
from tests.arrays import below

# SOFT++'s code: no jitter, one first step for the whole batch, autodiff of the loop.
_PLUS: dict[str, Any] = {
  "normalise": True,
  "jitter": 0.0,
  "gradient": "autodiff",
  "start": "batch",
}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  hyper = meta["hyper"]
  for key, want in arrays.items():
    if not key.startswith("out."):
      continue
    name = key.removeprefix("out.").removesuffix("_y")
    given = f"{name}_P" if name.startswith("newton") else f"{name}_x"
    function = _function(name, below(arrays, f"param.{name}."), hyper)
    out, gradient = _run(function, jnp.asarray(arrays[f"in.{given}"]))
    yield key, out, want
    if f"grad.{given}" in arrays:
      yield f"grad.{given}", gradient, arrays[f"grad.{given}"]


def _run(function, x):
  def total(x):
    out = function(x)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
  return out, gradient


def _function(name, weight, hyper):
  if name.startswith("newton"):
    return lambda matrix: newton_inverse(matrix, iterations=hyper["it"])
  options = {"heads": hyper["heads"], "iterations": hyper["it"]}
  if name.startswith("block"):
    layer = _block(weight, options)
  else:
    layer = filled(weight, options | (_PLUS if name.startswith("softpp") else {}))

  def run(x):
    return layer(x.reshape(x.shape[0], hyper["H"], hyper["W"], -1)).reshape(x.shape)

  return run


def filled(weight, options) -> soft.Layer:
  """Returns the layer that has the weights; they may be traced."""
  dim = weight["W_q.weight"].shape[1]
  given = _sides(weight) | options
  layer = jax.eval_shape(
    lambda: soft.Layer(dim, form="image", **given, rngs=nnx.Rngs(0))
  )
  fill(layer, weight)
  return layer


def _block(weight, options):
  inner = below(weight, "att.mha.")
  block = soft.Block(
    inner["W_q.weight"].shape[1],
    hidden=weight["att.ff1.weight"].shape[0],
    **_sides(inner),
    **options,
    rngs=nnx.Rngs(0),
  )
  fill(block.mix, inner)
  for i, (norm, part) in enumerate(zip(block.norms, (block.up, block.down)), start=1):
    _set(norm.scale, weight[f"att.norm{i}.weight"])
    _set(norm.bias, weight[f"att.norm{i}.bias"])
    _set(part.kernel, weight[f"att.ff{i}.weight"].T)
    _set(part.bias, weight[f"att.ff{i}.bias"])
  return block


def _sides(weight):
  convolution = weight.get("attn.conv.weight")
  landmark = weight["attn.Qlandmark_op.weight"]
  return {
    "head_dim": landmark.shape[0],
    "ratio": landmark.shape[2] if landmark.ndim == 4 else 1,
    "kernel": 0 if convolution is None else convolution.shape[-1],
  }


def fill(layer, weight):
  """Sets the layer's parameters, which may be traced."""
  dim, heads, size = layer.query.kernel.shape
  for part, name in ((layer.query, "W_q"), (layer.value, "W_v")):
    _set(part.kernel, weight[f"{name}.weight"].T.reshape(dim, heads, size))
    _set(part.bias, weight[f"{name}.bias"].reshape(heads, size))
  sides = layer.landmark.shape[:2]
  landmark = weight["attn.Qlandmark_op.weight"].reshape(size, size, *sides)
  _set(layer.landmark, jnp.transpose(landmark, (2, 3, 1, 0)))
  _set(layer.norm.scale, weight["attn.Qnorm_act.0.weight"])
  _set(layer.norm.bias, weight["attn.Qnorm_act.0.bias"])
  if layer.kernel:
    kernel = weight["attn.conv.weight"]  # (N, 1, c, c)
    _set(layer.convolution, jnp.transpose(kernel, (2, 3, 0, 1)))
  _set(layer.out.kernel, weight["ff.weight"].T.reshape(heads, size, dim))
  _set(layer.out.bias, weight["ff.bias"])


def _set(parameter, value):
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter.set_value(jnp.asarray(value, jnp.float32))
