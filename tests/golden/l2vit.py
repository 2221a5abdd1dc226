"""L2ViT against the authors' attention and their two kinds of block."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.contract import Heads, Tokens
from attnjax.nn.norms import Stats
from attnjax.variants.linear import l2vit
from tests.arrays import below


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  hyper = meta["hyper"]
  grid = hyper["H"], hyper["W"]
  make = {"attn": _attention, "lga": _global, "lwa": _window}
  for key, want in arrays.items():
    if not key.startswith("out."):
      continue
    name = key.removeprefix("out.").rsplit("_", 1)[0]
    weight = below(arrays, f"param.{name}.")
    function = make[name.split("_")[0]](weight, hyper)
    out, gradient = _run(function, jnp.asarray(arrays[f"in.{name}_x"]), grid)
    yield key, out, want
    if f"grad.{name}_x" in arrays:
      yield f"grad.{name}_x", gradient, arrays[f"grad.{name}_x"]


def _run(function, x, grid):
  def total(x):
    out = function(x.reshape(x.shape[0], *grid, -1)).reshape(x.shape)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
  return out, gradient


def _attention(weight, hyper):
  dim = weight["proj.weight"].shape[0]
  layer = l2vit.Layer(dim, form="image", heads=hyper["heads"], rngs=nnx.Rngs(0))
  _fill_attention(layer, weight)

  def run(x):
    """The attention alone, without what is before and after it."""
    tokens = Tokens(x)
    heads = Heads(*layer.qkv.heads(tokens.rows), tokens)
    return layer.out(layer.mix(heads)).reshape(x.shape)

  return run


def _global(weight, hyper):
  hidden, dim = weight["mlp.fc1.weight"].shape
  block = l2vit.GlobalBlock(
    dim,
    hidden=hidden,
    heads=hyper["heads"],
    position_kernel=weight["cpe.0.proj.weight"].shape[-1],
    local_kernel=weight["local_mp.conv1.weight"].shape[-1],
    rngs=nnx.Rngs(0),
  )
  fill_global(block, weight)
  held = (jnp.asarray(weight[f"local_mp.bn.running_{n}"]) for n in ("mean", "var"))
  stats = {"mix": {"concentrate": {"norm": Stats(*held)}}}
  return lambda x: block(x, stats=stats)[0]


def fill_global(block, weight):
  """Sets the parameters of a block of linear attention."""
  mix = block.mix
  _fill_attention(mix, below(weight, "attn."))
  _fill_depthwise(mix.position, weight, "cpe.0.proj")
  _fill_norm(mix.norm, weight, "norm1")
  _fill_norm(mix.local_norm, weight, "norm3")
  _fill_norm(block.norm, weight, "norm2")
  local: Any = mix.concentrate
  _fill_depthwise(local.first, weight, "local_mp.conv1")
  _fill_depthwise(local.second, weight, "local_mp.conv2")
  _fill_norm(local.norm, weight, "local_mp.bn")
  _fill_feed(block.feed, weight)


def _window(weight, hyper):
  hidden, dim = weight["mlp.fc1.weight"].shape
  block = l2vit.WindowBlock(
    dim,
    heads=hyper["heads"],
    hidden=hidden,
    window=hyper["win"],
    rngs=nnx.Rngs(0),
  )
  fill_window(block, weight)
  return block


def fill_window(block, weight):
  """Sets the parameters of a block of windows."""
  _fill_projections(block, below(weight, "attn."))
  for i in range(2):
    _fill_depthwise(block.positions[i], weight, f"cpe.{i}.proj")
    _fill_norm(block.norms[i], weight, f"norm{i + 1}")
  _fill_feed(block.feed, weight)


def _fill_attention(layer, weight):
  _fill_projections(layer, weight)
  _set(layer.temperature, weight["temperature"].ravel())


def _fill_projections(layer, weight):
  dim, heads, size = layer.qkv.query.kernel.shape
  kernels = weight["qkv.weight"].reshape(3, heads, size, dim)
  parts = layer.qkv.query, layer.qkv.key, layer.qkv.value
  for i, part in enumerate(parts):
    _set(part.kernel, np.moveaxis(kernels[i], -1, 0))
    bias = weight.get("qkv.bias", np.zeros(3 * heads * size))
    _set(part.bias, bias.reshape(3, heads, size)[i])
  _set(layer.out.kernel, weight["proj.weight"].T.reshape(heads, size, -1))
  _set(layer.out.bias, weight.get("proj.bias", np.zeros(dim)))


def _fill_depthwise(part, weight, name):
  kernel = weight[f"{name}.weight"]  # (D, 1, k, k)
  _set(part.kernel, np.moveaxis(kernel[:, 0], 0, -1))
  _set(part.bias, weight.get(f"{name}.bias", np.zeros(kernel.shape[0])))


def _fill_norm(part, weight, name):
  _set(part.scale, weight[f"{name}.weight"])
  _set(part.bias, weight[f"{name}.bias"])


def _fill_feed(feed, weight):
  for part, name in ((feed.up, "mlp.fc1"), (feed.down, "mlp.fc2")):
    _set(part.kernel, weight[f"{name}.weight"].T)
    _set(part.bias, weight[f"{name}.bias"])


def _set(parameter, value):
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter[...] = jnp.asarray(value, jnp.float32)
