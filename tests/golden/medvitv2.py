"""MedViTV2's global block against the authors', with the layout of their weights."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn.norms import Stats
from attnjax.variants.local import medvitv2
from tests.golden import medvitv2_kan


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  block: Any = medvitv2.GFP(
    meta["in_channels"],
    meta["out_channels"],
    stride=meta["stride"],
    ratio=meta["sr_ratio"],
    share=meta["mix_block_ratio"],
    expand=meta["mlp_ratio"],
    head_dim=meta["head_dim"],
    layout_bug=True,
    rngs=nnx.Rngs(0),
  )
  yield from results(block, fill(block, arrays), arrays)


def results(block, stats, arrays) -> Iterator[tuple]:
  """(key, found, wanted) of a block of maps (B, D, R, C)."""

  def total(x):
    y, _ = block(jnp.moveaxis(x, 1, 3), stats=stats)
    y = jnp.moveaxis(y, 3, 1)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, y), gradient = run(jnp.asarray(arrays["in.x"]))
  yield "out.y", y, arrays["out.y"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def fill(block, arrays):
  """Fills the parameters; the running statistics."""
  stats = fill_embed(block, "embed", arrays, "patch_embed")
  stats |= fill_embed(block, "project", arrays, "projection")
  mix, heads = block.mix, block.mix.qkv.query.out_features
  for part, name in zip((mix.qkv.query, mix.qkv.key, mix.qkv.value), "qkv"):
    kernel = arrays[f"param.e_mhsa.{name}.weight"]
    put(part.kernel, kernel.T.reshape(-1, *heads))
    put(part.bias, arrays[f"param.e_mhsa.{name}.bias"].reshape(heads))
  put(mix.out.kernel, arrays["param.e_mhsa.proj.weight"].T.reshape(*heads, -1))
  put(mix.out.bias, arrays["param.e_mhsa.proj.bias"])
  if mix.norm is not None:
    stats["mix"] = {"norm": fill_norm(mix.norm, arrays, "e_mhsa.norm")}
  kernel = arrays["param.mhca.group_conv3x3.weight"]
  put(block.convolve.kernel, kernel.transpose(2, 3, 1, 0))
  fill_linear(block.linear, arrays, "mhca.projection")
  for i, name in enumerate(("norm1", "mhca.norm", "norm2")):
    stats[f"norms/{i}"] = fill_norm(block.norms[i], arrays, name)
  features = [layer.weight.shape[0] for layer in block.kan.layers]
  features.append(block.kan.layers[-1].weight.shape[-1])
  block.kan = medvitv2_kan.network(arrays, "param.kan.", features)
  return stats


def fill_embed(block, part, arrays, name):
  """Fills a map and its norm, if there are any; their statistics."""
  embed = getattr(block, part)
  if embed.linear is not None:
    fill_linear(embed.linear, arrays, f"{name}.conv")
    return {part: {"norm": fill_norm(embed.norm, arrays, f"{name}.norm")}}
  if f"param.{name}.conv.weight" in arrays:
    raise ValueError(f"{name} has weights that the block does not have")
  return {}


def fill_linear(linear, arrays, name):
  """A linear map from a linear layer or a convolution of 1 x 1."""
  weight = arrays[f"param.{name}.weight"]
  put(linear.kernel, weight.reshape(weight.shape[:2]).T)
  if f"param.{name}.bias" in arrays:
    put(linear.bias, arrays[f"param.{name}.bias"])


def fill_norm(norm, arrays, name):
  """Fills a batch norm; its running statistics."""
  put(norm.scale, arrays[f"param.{name}.weight"])
  put(norm.bias, arrays[f"param.{name}.bias"])
  running = (arrays[f"param.{name}.running_{what}"] for what in ("mean", "var"))
  return Stats(*(jnp.asarray(x) for x in running))


def put(parameter, value):
  """Sets a parameter to an array of its shape."""
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter.set_value(jnp.asarray(value, jnp.float32))
