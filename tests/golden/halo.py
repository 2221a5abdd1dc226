"""Halo attention against timm's layer, in its layout (B, C, H, W)."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import halo
from tests.arrays import below


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  names = [key.split(".")[1] for key in arrays if key.startswith("in.")]
  for name, case in zip(names, meta["cases"], strict=True):
    weight = below(arrays, f"param.{name}.")
    layer = _layer(weight, case)
    x = jnp.asarray(arrays[f"in.{name}.x"])
    y, (gradients, gradient) = _run(layer, weight, x)
    found = {parameter.split(".")[-1]: g for parameter, g in gradients.items()}
    found |= gradients | {"x": gradient}
    yield f"out.{name}.y", y, arrays[f"out.{name}.y"]
    for key, want in arrays.items():
      if key.startswith(f"grad.{name}."):
        yield key, found[key.removeprefix(f"grad.{name}.")], want


def _layer(weight, case):
  heads, dim = case["num_heads"], weight["q.weight"].shape[1]
  size = weight["q.weight"].shape[0] // heads
  values = weight["kv.weight"].shape[0] - heads * size
  return halo.Layer(
    dim,
    heads=heads,
    head_dim=size,
    value_ratio=values / dim,
    block=case["block_size"],
    halo=case["halo_size"],
    stride=case.get("stride", 1),
    pool=case.get("avg_down", False),
    scale_positions=case.get("scale_pos_embed", False),
    qkv_bias="q.bias" in weight,
    rngs=nnx.Rngs(0),
  )


def fill(layer, weight):
  heads = layer.query.out_features[0]
  for kind in ("weight", "bias"):
    if f"q.{kind}" not in weight:
      continue
    query = weight[f"q.{kind}"].reshape(heads, -1, *weight[f"q.{kind}"].shape[1:])
    both = weight[f"kv.{kind}"].reshape(heads, -1, *weight[f"kv.{kind}"].shape[1:])
    size = query.shape[1]
    for part, own in (
      (layer.query, query),
      (layer.key, both[:, :size]),
      (layer.value, both[:, size:]),
    ):
      if kind == "weight":
        part.kernel[...] = jnp.moveaxis(own[..., 0, 0], 2, 0)
      else:
        part.bias[...] = own
  layer.row_table[...] = weight["pos_embed.height_rel"]
  layer.column_table[...] = weight["pos_embed.width_rel"]


def _run(layer, weight, x):
  def total(weight, x):
    filled = nnx.clone(layer)
    fill(filled, weight)
    y = jnp.moveaxis(filled(jnp.moveaxis(x, 1, 3)), 3, 1)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  weight = {name: jnp.asarray(x) for name, x in weight.items()}
  run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
  (_, y), gradients = run(weight, x)
  return y, gradients
