"""The authors' attention layers with their p-Laplacian adapter, self and cross."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.core.streams import Stream
from attnjax.nn import projections
from attnjax.variants.cross import p_adapter
from attnjax.variants.cross.p_adapter import crossing
from attnjax.variants.softmax import dot_product
from tests.arrays import below

_LOWEST = -5000.0  # below it, an addend of scores is a mask
_ADAPTER = "output.text_laplacian_adapter_"


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, Any, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for both layers."""
  for kind, run in (("self", _self), ("cross", _cross)):
    given = {n: jnp.asarray(x) for n, x in below(arrays, f"in.{kind}.").items()}
    layers = _layer(kind, below(arrays, f"param.{kind}."), meta["hyper"])
    inputs = {n: x for n, x in given.items() if n != "mask"}
    real = given["mask"][:, 0, 0] > _LOWEST

    def loss(inputs, layers, real, run=run):
      found = run(layers, inputs, real)
      out = found["out"]
      return jnp.vdot(out, jnp.cos(jnp.arange(out.size, dtype=out.dtype))), found

    slopes, found = jax.jit(jax.grad(loss, has_aux=True))(inputs, layers, real)
    for name, value in found.items():
      yield f"out.{kind}.{name}", value, arrays[f"out.{kind}.{name}"]
    for name, value in slopes.items():
      yield f"grad.{kind}.{name}", value, arrays[f"grad.{kind}.{name}"]


def _self(layers, inputs, real):
  """Masks keys, whose tokens still have results: their rows see the others."""
  layer, norm = layers
  x = inputs["x"]
  heads = layer.project(x)
  seen = _seen(x, real)
  heads = dataclasses.replace(heads, seen=seen)
  context = layer.mix(heads)
  y = layer.merge(context, heads)
  probs = _weights(heads.q, heads.k, seen)
  nodes = heads.v.reshape(x.shape)
  found = {"probs": probs, "graph": probs, "nodes": nodes}
  return found | {"out": norm(x + y), "context": context.reshape(x.shape)}


def _cross(layers, inputs, real):
  layer, _ = layers  # whose norm is its own
  x = inputs["x"]
  text, image = Stream(x), Stream(inputs["enc"], real)
  found = crossing.graph(layer, text, image)
  probs = _weights(found.q, found.k, found.seen)
  pooled = jnp.moveaxis(probs, 3, 1)
  pooled = p_adapter.adaptive_pool(pooled, size=layer.pool)
  pooled = jnp.moveaxis(pooled, 1, 3)
  nothing = [jnp.zeros((*probs.shape[:2], n, n)) for n in pooled.shape[2:]]
  graph = [[nothing[0], pooled], [pooled.swapaxes(2, 3), nothing[1]]]
  nodes = jnp.concatenate([found.q, found.values], axis=1)
  context = dot_product.attend(found.q, found.k, found.v, **found.seen)
  return {
    "probs": probs,
    "graph": jnp.block(graph),
    "nodes": nodes.reshape(*nodes.shape[:2], -1),
    "context": context.reshape(x.shape),
    "out": layer({"text": text, "image": image})["text"],
  }


def _seen(x, real):
  ids = jnp.zeros(x.shape[:2], jnp.int32)
  return {"segment_ids": ids, "kv_segment_ids": jnp.where(real, 0, -1)}


def _weights(q, k, seen):
  eye = projections.identity_values(k)
  return dot_product.attend(q, k, eye, **seen).swapaxes(1, 2)


def _layer(kind, params, hyper) -> Any:
  """Returns a layer, and the norm behind it, with the official parameters."""
  dim, heads = hyper["hidden"], hyper["heads"]
  options = {"heads": heads, "reduction": hyper["reduction"], "mu": hyper["mu"]}
  options |= {"pool": hyper["image_sample_len"], "pool_padding": True}
  options |= {"qkv_bias": True, "out_bias": True, "rope_theta": 0.0}
  learned = "output.laplacian_adapter_p" in params
  options |= {"p": hyper["p"], "learn_p": learned}
  cross = kind == "cross"
  widths = {"text": dim, "image": hyper["encoder_width"]} if cross else dim
  form = "cross" if cross else "sequence"

  def made():
    layer = p_adapter.Layer(widths, form=form, rngs=nnx.Rngs(0), **options)
    return layer, crossing.norm(dim, nnx.Rngs(0))

  layer, norm = jax.eval_shape(made)
  norm = layer.norm if cross else norm
  for name in ("query", "key", "value"):
    _fill(getattr(layer.qkv, name), params, f"self.{name}")
  _fill(layer.out, params, "output.dense")
  adapter = layer.adapter
  for part, name in ((adapter.into, "i"), (adapter.gate, "gate"), (adapter.out, "o")):
    _fill(part, params, f"{_ADAPTER}{name}")
  if learned:
    adapter.p.set_value(jnp.asarray(params["output.laplacian_adapter_p"][0]))
  adapter.shift.set_value(jnp.asarray(params["output.laplacian_adapter_mu"][0]))
  norm.scale.set_value(jnp.asarray(params["output.LayerNorm.weight"]))
  norm.bias.set_value(jnp.asarray(params["output.LayerNorm.bias"]))
  return layer, norm


def _fill(part, params, name):
  """Gives a map the authors' matrix (outputs, inputs) and bias."""
  for own, theirs in ((part.kernel, "weight"), (part.bias, "bias")):
    own.set_value(jnp.asarray(params[f"{name}.{theirs}"].T).reshape(own.shape))
