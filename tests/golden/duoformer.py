"""DuoFormer's encoder against the authors'."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import duoformer
from tests.arrays import below


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  weight = below(arrays, "param.")
  x = jnp.asarray(arrays["in.x"])
  grid = grid_of(x.shape[1])
  encoder = _encoder(weight, meta, x.shape[2], grid)
  kernel, bias = weight["head.weight"].T, weight["head.bias"]

  def total(x):
    lists = encoder.scales(x)
    last = lists[-1][:, :, 0].reshape(x.shape[0], *grid, -1)
    outs = {"logits": encoder.patches(last) @ kernel + bias}
    outs |= {f"scale{number}": y for number, y in enumerate(lists)}
    outs = {name: y for name, y in outs.items() if f"out.{name}" in arrays}
    waves = (
      (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum()
      for out in outs.values()
    )
    return sum(waves), outs

  (_, outs), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
  for name, out in outs.items():
    yield f"out.{name}", out, arrays[f"out.{name}"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def grid_of(cells):
  """The sides nearest to a square; the order of the cells is all that matters."""
  side = next(n for n in range(math.isqrt(cells), 0, -1) if cells % n == 0)
  return side, cells // side


def _encoder(weight, meta, tokens, grid):
  hidden, dim = weight["scaleBlocks.0.mlp.fc1.weight"].shape
  encoder: Any = duoformer.Encoder(
    dim,
    heads=meta["num_heads"],
    depth=meta["depth"],
    tokens=tokens,
    grid=grid,
    mlp_ratio=hidden / dim,
    patch_block="bare",
    head_norm=False,
    rngs=nnx.Rngs(0),
  )
  fill_encoder(encoder.scales, encoder.patches, weight, grid)
  return encoder


def fill_encoder(scales, patches, weight, grid):
  """Fills the blocks of both kinds and what is added in front of them."""
  put(scales.positions, weight["pos_embed_for_scale"][0, 0])
  put(patches.class_token, weight["cls_token"][0, 0])
  put(patches.class_position, weight["pos_embed"][0, 0])
  places = weight["pos_embed"][0, 1:]
  put(patches.positions, places.reshape(*grid, -1))
  for number, block in enumerate(scales.sequence):
    name = f"scaleBlocks.{number}"
    for norm, key in ((block.norm, "norm1"), (block.feed_norm, "norm2")):
      put(norm.scale, weight[f"{name}.{key}.weight"])
      put(norm.bias, weight[f"{name}.{key}.bias"])
    for linear, key in ((block.feed.up, "fc1"), (block.feed.down, "fc2")):
      put(linear.kernel, weight[f"{name}.mlp.{key}.weight"].T)
      put(linear.bias, weight[f"{name}.mlp.{key}.bias"])
    _fill_attention(block.mixer, weight, f"{name}.attn")
  for number, block in enumerate(patches.sequence):
    _fill_attention(block, weight, f"blocks.{number}.attn")


def _fill_attention(layer, weight, name):
  dim, heads, size = layer.qkv.query.kernel.shape
  kernels = weight[f"{name}.qkv.weight"].reshape(3, heads, size, dim)
  biases = weight.get(f"{name}.qkv.bias", np.zeros(3 * dim)).reshape(3, heads, size)
  parts = layer.qkv.query, layer.qkv.key, layer.qkv.value
  for i, part in enumerate(parts):
    put(part.kernel, np.moveaxis(kernels[i], -1, 0))
    put(part.bias, biases[i])
  put(layer.out.kernel, weight[f"{name}.proj.weight"].T.reshape(heads, size, dim))
  put(layer.out.bias, weight[f"{name}.proj.bias"])


def put(parameter, value):
  """Sets a parameter to an array of its shape."""
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter.set_value(jnp.asarray(value, jnp.float32))
