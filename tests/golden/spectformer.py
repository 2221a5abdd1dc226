"""SpectFormer's filter on a map that is no square, a network, and its two blocks."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.mixers import spectformer
from tests.networks import Filled, check_epsilon, fill

HEADS = 6  # written into the authors' file


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  for key, found in (_filtered(arrays, meta["hyper"]) | _network(arrays)).items():
    yield key, found, arrays[key]


def _filtered(arrays, hyper) -> dict:
  """Returns the results of the filter alone, by an FFT."""
  weight, x = arrays["param.sgn.complex_weight"], arrays["in.sgn_x"]
  grid = hyper["a"], hyper["b"]
  layer = spectformer.Layer(x.shape[-1], form="image", grid=grid, rngs=nnx.Rngs(0))
  fill(layer.response, weight)

  @jax.jit
  def run(layer, x):
    def total(layer, x):
      out = layer(x.reshape(x.shape[0], *grid, -1)).reshape(x.shape)
      return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    return jax.value_and_grad(total, (0, 1), has_aux=True)(layer, x)

  (_, out), (by_layer, by_x) = run(layer, jnp.asarray(x))
  slope = by_layer.response[...]
  return {"out.sgn_y": out, "grad.sgn_x": by_x, "grad.sgn_weight": slope}


def _network(arrays) -> dict:
  """Returns the results of the network, and of its first block of each kind."""
  model = jax.tree.map(jnp.asarray, _filled(arrays).model)
  _, *body = model.stages.stages[0].sequence
  kinds = [isinstance(block, spectformer.SpectralBlock) for block in body]
  chosen = {"spectral": body[kinds.index(True)], "attention": body[kinds.index(False)]}

  @jax.jit
  def run(model, chosen, images, x):
    (features,) = model.features(images)
    found = {"features": features.mean(axis=(1, 2)), "logits": model(images)}
    side = math.isqrt(x.shape[1])
    maps = x.reshape(x.shape[0], side, side, -1)
    return found | {f"blk_{n}": b(maps).reshape(x.shape) for n, b in chosen.items()}

  images = np.moveaxis(arrays["in.img"], 1, 3)
  found = run(model, chosen, images, arrays["in.blk_x"])
  return {f"out.{name}": value for name, value in found.items()}


def _filled(arrays) -> Filled:
  """Returns the network with the parameters of the file."""
  own = {key: x for key, x in arrays.items() if key.startswith("param.model.")}
  depth = 1 + max(int(key.split(".")[3]) for key in own if ".blocks." in key)
  position = own["param.model.pos_embed"]
  side, dim = math.isqrt(position.shape[1]), position.shape[2]
  kernel = own["param.model.patch_embed.proj.weight"]
  hidden = own["param.model.blocks.0.mlp.fc1.weight"].shape[0]
  options: dict[str, Any] = {
    "dims": (dim,),
    "depths": (depth,),
    "heads": (HEADS,),
    "grids": (side,),
  }
  # The hidden width is rounded down.
  options |= {"patch": kernel.shape[-1], "mlp_ratios": ((hidden + 0.5) / dim,)}
  classes = own["param.model.head.bias"].shape[0]

  def build():
    return spectformer.Model(kernel.shape[1], classes, **options, rngs=nnx.Rngs(0))

  filled = Filled(build, own)
  model = filled.model
  first, *body = model.stages.stages[0].sequence
  fill(first.table, filled.below("model.pos_embed")[""].reshape(side, side, dim))
  stem = filled.below("model.patch_embed.proj.")
  fill(model.stem.project.kernel, stem["weight"].transpose(2, 3, 1, 0).reshape(-1, dim))
  fill(model.stem.project.bias, stem["bias"])
  for i, block in enumerate(body):
    _fill_block(filled, block, f"model.blocks.{i}.")
  filled.norm(model.stages.norms[0], "model.norm")
  filled.linear(model.head, "model.head")
  check_epsilon(model, 1e-6)
  filled.stats()  # raises unless all parameters are set
  return filled


def _fill_block(filled, block, name) -> None:
  filled.norm(block.norm, f"{name}norm1")
  filled.norm(block.feed_norm, f"{name}norm2")
  filled.linear(block.feed.up, f"{name}mlp.fc1")
  filled.linear(block.feed.down, f"{name}mlp.fc2")
  if isinstance(block, spectformer.SpectralBlock):
    fill(block.filter.response, filled.below(f"{name}filter.")["complex_weight"])
    return
  both, layer = filled.below(f"{name}attn.qkv."), block.mixer
  dim, heads, size = layer.qkv.query.kernel.shape
  weight = both["weight"].reshape(3, heads, size, dim)
  bias = both["bias"].reshape(3, heads, size)
  for i, part in enumerate((layer.qkv.query, layer.qkv.key, layer.qkv.value)):
    fill(part.kernel, np.moveaxis(weight[i], 2, 0))
    fill(part.bias, bias[i])
  out = filled.below(f"{name}attn.proj.")
  fill(layer.out.kernel, out["weight"].T.reshape(heads, size, dim))
  fill(layer.out.bias, out["bias"])
