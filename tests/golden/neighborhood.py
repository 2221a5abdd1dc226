"""Parity with NATTEN: the operation on grids of one to three axes, and the module."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import neighborhood
from tests.arrays import below

_OPTIONS = ("window", "stride", "dilation", "causal", "scale")


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, jax.Array, np.ndarray]]:
  """Yields (key of the file, attnjax's array, the file's array)."""
  for case in meta.get("cases", []):
    yield from _matching(arrays, case["name"], _operation(arrays, case))
  modules = {key.split(".")[1] for key in arrays if key.startswith("param.")}
  for name in sorted(modules):
    yield from _matching(arrays, name, _module(arrays, name, meta[name]))


def _matching(arrays, name, results):
  for key, want in arrays.items():
    kind, owner, what = key.split(".", 2)
    if owner == name and kind in ("out", "grad"):
      yield key, results[f"{kind}.{what}"], want


def _group(arrays, prefix):
  return jax.tree.map(jnp.asarray, below(arrays, prefix))


def _differentiate(function, arguments):
  """Outputs by name; gradients of the first one times a cosine, by argument."""

  def loss(arguments):
    outputs = function(arguments)
    first = next(iter(outputs.values()))
    weight = jnp.cos(jnp.arange(first.size, dtype=jnp.float32)).reshape(first.shape)
    return jnp.sum(first * weight), outputs

  (_, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(arguments)
  results = {f"out.{name}": x for name, x in outputs.items()}
  return results | {f"grad.{name}": x for name, x in grads.items()}


def _operation(arrays, case):
  options = {name: case[name] for name in _OPTIONS if case.get(name) is not None}

  def run(inputs):
    out, lse = neighborhood.attend(**inputs, **options, return_lse=True)
    return {"o": out, "lse": lse}

  return _differentiate(run, _group(arrays, f"in.{case['name']}."))


def _module(arrays, name, options):
  x = jnp.asarray(arrays[f"in.{name}.x"])
  parameters = _group(arrays, f"param.{name}.")
  heads, axes = options["num_heads"], x.ndim - 2
  size = options["embed_dim"] // heads
  causal = options.get("is_causal", False)
  is_causal = any(causal) if isinstance(causal, list) else causal
  forms = {1: "causal" if is_causal else "sequence", 2: "image", 3: "video"}
  layer = neighborhood.Layer(
    x.shape[-1],
    form=forms[axes],
    heads=heads,
    window=options["kernel_size"],
    stride=options.get("stride", 1),
    dilation=options.get("dilation", 1),
    causal=causal,
    scale=options.get("qk_scale") or 0.0,
    qkv_bias="qkv.bias" in parameters,
    rngs=nnx.Rngs(0),
  )

  def run(arguments):
    filled: Any = nnx.clone(layer)
    kernels = arguments["qkv.weight"].reshape(3, heads, size, -1)
    parts: Any = (filled.qkv.query, filled.qkv.key, filled.qkv.value)
    for part, kernel in zip(parts, kernels):
      part.kernel[...] = jnp.moveaxis(kernel, -1, 0)
    if "qkv.bias" in arguments:
      biases = arguments["qkv.bias"].reshape(3, heads, size)
      for part, bias in zip(parts, biases):
        part.bias[...] = bias
    filled.out.kernel[...] = arguments["proj.weight"].T.reshape(heads, size, -1)
    if "proj.bias" in arguments:
      filled.out.bias[...] = arguments["proj.bias"]
    return {"y": filled(arguments["x"])}

  return _differentiate(run, {"x": x} | parameters)
