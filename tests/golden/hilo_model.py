"""LITv2, the whole network of HiLo, against the authors' code."""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from attnjax.variants.local import hilo
from tests import networks
from tests.golden import hilo as layers


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  windows = tuple(w * has for w, has in zip(meta["local_ws"], meta["has_msa"]))

  def build():
    return hilo.Model(
      meta["channels"],
      meta["classes"],
      dim=meta["embed_dim"],
      depths=tuple(meta["depths"]),
      heads=tuple(meta["num_heads"]),
      windows=windows,
      alpha=meta["alpha"],
      patch=arrays["param.patch_embed.proj.weight"].shape[-1],
      deformable="param.layers.0.downsample.dconv.conv_offset.weight" in arrays,
      mlp_ratio=meta["mlp_ratio"],
      qkv_bias=meta["qkv_bias"],
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  model, body = filled.model, filled.model.stages
  filled.convolution(model.stem.patches.project, "patch_embed.proj")
  filled.norm(model.stem.norm, "patch_embed.norm")
  for i, (merge, stage) in enumerate(zip(body.merges, body.stages)):
    if merge is not None:
      _merge(filled, merge, f"layers.{i - 1}.downsample")
    for j, block in enumerate(stage.sequence):
      _block(filled, block, f"layers.{i}.blocks.{j}")
  filled.norm(body.norms[-1], "norm")
  filled.linear(model.head, "head")
  # Taps that move amplify rounding: the file's gradient differs from that of float64 by
  # 1e-4 of its largest element, as does attnjax's in float32.
  yield from networks.compare(filled, _offsets, wide=True)


def _offsets(model, i, y):
  """Returns how far the taps after a stage move, (B, h, w, 8)."""
  merges = model.stages.merges
  if i + 1 == len(merges) or merges[i + 1].move is None:
    return {}
  moves = merges[i + 1].moves(y)
  return {f"offset{i}": moves.reshape(*moves.shape[:3], -1)}


def _merge(filled, merge, name):
  filled.convolution(merge.project, f"{name}.dconv")
  if merge.move is not None:
    filled.convolution(merge.move, f"{name}.dconv.conv_offset")
  filled.norm(merge.norm, f"{name}.norm_layer")


def _block(filled, block, name):
  if block.mixer is not None:
    filled.norm(block.norm, f"{name}.norm1")
    layers.fill(block.mixer, filled.below(f"{name}.attn."))
  filled.norm(block.feed_norm, f"{name}.norm2")
  filled.linear(block.feed.up, f"{name}.mlp.fc1")
  filled.depthwise(block.feed.convolution, f"{name}.mlp.dwconv.dwconv")
  filled.linear(block.feed.down, f"{name}.mlp.fc2")
