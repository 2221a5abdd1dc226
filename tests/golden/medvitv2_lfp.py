"""MedViTV2's local block against the authors', with the layout of their weights."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx

from attnjax.variants.local import medvitv2
from tests.golden.medvitv2 import fill_embed, fill_linear, fill_norm, put, results


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  block: Any = medvitv2.LFP(
    meta["in_channels"],
    meta["out_channels"],
    stride=meta["stride"],
    window=(arrays["param.attn.rpb"].shape[-1] + 1) // 2,
    kernel=meta["kernel_size"],
    head_dim=meta["head_dim"],
    expand=meta["mlp_ratio"],
    layout_bug=True,
    rngs=nnx.Rngs(0),
  )
  yield from results(block, fill(block, arrays), arrays)


def fill(block, arrays):
  """Fills the parameters; the running statistics."""
  stats = fill_embed(block, "embed", arrays, "patch_embed")
  mix = block.mix
  heads = mix.qkv.query.out_features
  kernels = arrays["param.attn.qkv.weight"].reshape(
    3, -1, mix.qkv.query.kernel.shape[0]
  )
  biases = arrays["param.attn.qkv.bias"].reshape(3, *heads)
  parts = mix.qkv.query, mix.qkv.key, mix.qkv.value
  for part, kernel, bias in zip(parts, kernels, biases):
    put(part.kernel, kernel.T.reshape(-1, *heads))
    put(part.bias, bias)
  put(mix.out.kernel, arrays["param.attn.proj.weight"].T.reshape(*heads, -1))
  put(mix.out.bias, arrays["param.attn.proj.bias"])
  put(mix.bias_table, np.moveaxis(arrays["param.attn.rpb"], 0, -1))
  feed = block.feed
  for linear, name in (
    (feed.up, "0"),
    (feed.squeeze, "6.fc.0"),
    (feed.excite, "6.fc.2"),
    (feed.down, "7"),
  ):
    fill_linear(linear, arrays, f"conv.conv.{name}")
  put(feed.kernel, arrays["param.conv.conv.3.weight"][:, 0].transpose(1, 2, 0))
  stats["feed"] = {
    f"norms/{i}": fill_norm(feed.norms[i], arrays, f"conv.conv.{name}")
    for i, name in enumerate("148")
  }
  for i, name in enumerate(("norm1", "norm2")):
    stats[f"norms/{i}"] = fill_norm(block.norms[i], arrays, name)
  return stats
