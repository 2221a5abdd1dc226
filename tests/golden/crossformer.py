"""CrossFormer against the authors' blocks of short and of long distance."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn.transformer import Block
from attnjax.variants.local import crossformer
from tests.arrays import below

KINDS = {"sda": "short", "lda": "long"}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  names = [key.removeprefix("out.") for key in arrays if key.startswith("out.")]
  blocks = {name: _block(name, arrays, meta) for name in names}
  x = jnp.asarray(arrays["in.x"])
  grid = _pair(meta["input_resolution"])

  def total(x, blocks):
    image, outs = x.reshape(x.shape[0], *grid, -1), {}
    for name, block in blocks.items():
      outs[name] = block(image).reshape(x.shape)
    waves = (
      (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum()
      for out in outs.values()
    )
    return sum(waves), outs

  (_, outs), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x, blocks)
  for name, out in outs.items():
    yield f"out.{name}", out, arrays[f"out.{name}"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def _pair(value):
  return (value, value) if isinstance(value, int) else tuple(value)


def _block(name, arrays, meta):
  prefix = f"param.{name}."
  weight = below(arrays, prefix)
  hidden, dim = weight["mlp.fc1.weight"].shape
  mixer = partial(
    crossformer.Layer,
    dim,
    heads=meta["num_heads"],
    window=meta["group_size"],
    interval=meta["interval"],
    kind=KINDS[name.split("_")[0]],
    bias_width=weight["attn.pos.pos_proj.weight"].shape[0],
    qkv_bias="attn.qkv.bias" in weight,
  )
  block: Any = jax.eval_shape(
    lambda: Block(dim, mixer, hidden=hidden, rngs=nnx.Rngs(0))
  )
  fill_block(block, weight)
  return block


def fill_block(block, weight):
  """Fills the norms, the attention and the MLP of a block."""
  for norm, key in ((block.norm, "norm1"), (block.feed_norm, "norm2")):
    fill_norm(norm, weight, key)
  for linear, key in ((block.feed.up, "mlp.fc1"), (block.feed.down, "mlp.fc2")):
    fill_linear(linear, weight, key)
  _fill_attention(block.mixer, weight)


def _fill_attention(layer, weight):
  dim, heads, size = layer.qkv.query.kernel.shape
  kernels = weight["attn.qkv.weight"].reshape(3, heads, size, dim)
  parts = layer.qkv.query, layer.qkv.key, layer.qkv.value
  for i, part in enumerate(parts):
    put(part.kernel, np.moveaxis(kernels[i], -1, 0))
    if "attn.qkv.bias" in weight:
      put(part.bias, weight["attn.qkv.bias"].reshape(3, heads, size)[i])
  put(layer.out.kernel, weight["attn.proj.weight"].T.reshape(heads, size, dim))
  put(layer.out.bias, weight["attn.proj.bias"])
  fill_linear(layer.position.linears[0], weight, "attn.pos.pos_proj")
  for i in range(1, 4):
    fill_norm(layer.position.norms[i - 1], weight, f"attn.pos.pos{i}.0")
    fill_linear(layer.position.linears[i], weight, f"attn.pos.pos{i}.2")


def fill_linear(part, weight, name):
  """Fills a linear map; the authors' kernels are (out, in)."""
  put(part.kernel, weight[f"{name}.weight"].T)
  put(part.bias, weight[f"{name}.bias"])


def fill_norm(part, weight, name):
  """Fills a layer norm."""
  put(part.scale, weight[f"{name}.weight"])
  put(part.bias, weight[f"{name}.bias"])


def put(parameter, value):
  """Sets a parameter to an array of its shape."""
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter.set_value(jnp.asarray(value, jnp.float32))
