"""Lightning Attention-2 against the authors' TransNormer layer and operation.

The `mm` arrays are of the MiniMax layer of transformers.
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.linear import lightning2
from tests.arrays import below


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  hyper = meta["hyper"]
  index, layers = hyper["layer_idx"], hyper["num_layers"]
  x = jnp.asarray(arrays["in.x"])
  tnl = _transnormer(arrays, x.shape[-1], hyper["num_heads"], layers)
  found = _with_gradients(lambda x: tnl(x, index=index), {"x": x}, "y")

  x = jnp.asarray(arrays["in.mm_x"])
  valid = jnp.asarray(arrays["in.mm_mask"])
  minimax = _minimax(arrays, x.shape[-1], hyper["num_heads"], layers)
  found |= _with_gradients(
    lambda mm_x: minimax(mm_x, valid=valid, index=index), {"mm_x": x}, "mm_y"
  )

  for key, kind in (("slope_rate", "alibi"), ("mm_slope_rate", "minimax")):
    slopes = lightning2.slopes(hyper["num_heads"], kind, index, layers)
    found[f"out.{key}"] = jnp.reshape(slopes, arrays[f"out.{key}"].shape)

  def attend(q, k, v):  # heads before tokens
    slopes = jnp.ravel(arrays["in.s"])
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return lightning2.attend(q, k, v, slopes).swapaxes(1, 2)

  inputs = {name: jnp.asarray(arrays[f"in.{name}"]) for name in "qkv"}
  found |= _with_gradients(attend, inputs, "o")
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]


def _with_gradients(function, inputs, name):
  def total(inputs):
    out = function(**inputs)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  (_, out), gradients = jax.value_and_grad(total, has_aux=True)(inputs)
  return {f"out.{name}": out} | {f"grad.{n}": g for n, g in gradients.items()}


def _transnormer(arrays, dim, heads, layers):
  weight = below(arrays, "param.tnl.")
  size = weight["q_proj.weight"].shape[0] // heads
  layer = lightning2.Layer(
    dim, heads=heads, head_dim=size, layers=layers, rngs=nnx.Rngs(0)
  )
  project = layer.qkv
  for name, part in zip("qkv", (project.query, project.key, project.value)):
    kernel = weight[f"{name}_proj.weight"].T.reshape(dim, heads, size)
    _set(part.kernel, kernel)
  _set(layer.out.kernel, weight["o_proj.weight"].T.reshape(heads, size, dim))
  for ours, theirs in (("scale", "weight"), ("bias", "bias")):
    _set(getattr(layer.norm, ours), weight[f"norm.{theirs}"])
  for i, part in enumerate(layer.gate):
    _set(part.kernel, weight[f"output_gate.{i}.weight"].T)
  return layer


def _minimax(arrays, dim, heads, layers):
  weight = below(arrays, "param.mm.")
  # One matrix for q, k and v, with the three of a head side by side.
  fused = weight["qkv_proj.weight"].reshape(heads, 3, -1, dim)
  size = fused.shape[2]
  layer = lightning2.Layer(
    dim,
    heads=heads,
    head_dim=size,
    layers=layers,
    slope_kind="minimax",
    gate="full",
    norm="rms",
    rngs=nnx.Rngs(0),
  )
  project = layer.qkv
  for i, part in enumerate((project.query, project.key, project.value)):
    _set(part.kernel, np.moveaxis(fused[:, i], -1, 0))
  _set(layer.out.kernel, weight["out_proj.weight"].T.reshape(heads, size, dim))
  _set(layer.norm.scale, weight["norm.weight"])
  _set(layer.gate[0].kernel, weight["output_gate.weight"].T)
  return layer


def _set(parameter, value):
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter[...] = jnp.asarray(value)
