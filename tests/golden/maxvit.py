"""MaxViT's block against timm's in the configuration of the official weights."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn.norms import Stats
from attnjax.variants.local import maxvit
from tests.arrays import below

NORMS = "conv.pre_norm", "conv.norm1", "conv.norm2"


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  weights = jax.tree.map(jnp.asarray, below(arrays, "param."))
  narrow = weights["conv.conv1_1x1.weight"].shape[1]
  block = maxvit.Block(
    narrow,
    meta["dim_out"],
    stride=meta["stride"],
    window=tuple(meta["window"]),
    grid=tuple(meta["grid"]),
    head_dim=meta["dim_head"],
    mlp_ratio=meta["mlp_ratio"],
    expand=meta["conv_expand"],
    squeeze=meta["se_ratio_of_output"],
    rngs=nnx.Rngs(0),
  )

  def total(x, weights):
    filled = nnx.clone(block)
    fill(filled, weights)
    stats = {f"norms/{i}": _stats(weights, name) for i, name in enumerate(NORMS)}
    convolved, _ = filled.convolve(jnp.moveaxis(x, 1, 3), stats=stats)
    windowed = filled.window(convolved)
    y = jnp.moveaxis(filled.grid(windowed), 3, 1)
    outs = {
      "y": y,
      "after_conv": jnp.moveaxis(convolved, 3, 1),
      "after_block": windowed,
    }
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), outs

  run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
  (_, outs), (gradient, others) = run(jnp.asarray(arrays["in.x"]), weights)
  found = {f"out.{name}": out for name, out in outs.items()}
  found |= {f"grad.{name}": g for name, g in others.items()} | {"grad.x": gradient}
  for key, want in arrays.items():
    if key.startswith(("out.", "grad.")):
      yield key, found[key.replace("grad.param.", "grad.")], want


def fill(block, weights):
  conv = block.convolve
  linears = [
    (conv.first, "conv.conv1_1x1"),
    (conv.last, "conv.conv3_1x1"),
    (conv.squeeze, "conv.se.fc1"),
    (conv.excite, "conv.se.fc2"),
  ]
  if conv.shortcut is not None:
    linears.append((conv.shortcut, "conv.shortcut.expand"))
  for linear, name in linears:
    _linear(linear, weights, name)
  conv.kernel[...] = weights["conv.conv2_kxk.weight"][:, 0].transpose(1, 2, 0)
  for norm, name in zip(conv.norms, NORMS):
    norm.scale[...] = weights[f"{name}.weight"]
    norm.bias[...] = weights[f"{name}.bias"]
  for part, prefix in ((block.window, "attn_block"), (block.grid, "attn_grid")):
    _attention(part, weights, prefix)


def _stats(weights, name):
  return Stats(weights[f"{name}.running_mean"], weights[f"{name}.running_var"])


def _attention(part, weights, prefix):
  qkv, out = part.mix.qkv, part.mix.out
  for i, own in enumerate((qkv.query, qkv.key, qkv.value)):
    heads = (3, *own.out_features)
    kernel = weights[f"{prefix}.attn.qkv.weight"].reshape(*heads, -1)[i]
    own.kernel[...] = kernel.transpose(2, 0, 1)
    own.bias[...] = weights[f"{prefix}.attn.qkv.bias"].reshape(heads)[i]
  table = weights[f"{prefix}.attn.rel_pos.relative_position_bias_table"]
  part.mix.bias_table[...] = np.moveaxis(table, 0, -1)  # heads last here
  out.kernel[...] = weights[f"{prefix}.attn.proj.weight"].T.reshape(out.kernel.shape)
  out.bias[...] = weights[f"{prefix}.attn.proj.bias"]
  for i, norm in enumerate(part.norms):
    norm.scale[...] = weights[f"{prefix}.norm{i + 1}.weight"]
    norm.bias[...] = weights[f"{prefix}.norm{i + 1}.bias"]
  _linear(part.feed.up, weights, f"{prefix}.mlp.fc1")
  _linear(part.feed.down, weights, f"{prefix}.mlp.fc2")


def _linear(linear, weights, name):
  weight = weights[f"{name}.weight"]
  linear.kernel[...] = weight.reshape(weight.shape[:2]).T
  if f"{name}.bias" in weights:
    linear.bias[...] = weights[f"{name}.bias"]
