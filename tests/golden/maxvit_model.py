"""The whole MaxViT against timm's in the configuration of the official weights."""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from attnjax.variants.local import maxvit
from tests import networks
from tests.golden import maxvit as blocks


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  first = "param.stages.0.blocks.0"
  dim, hidden = arrays[f"{first}.conv.conv3_1x1.weight"].shape[:2]

  def build():
    return maxvit.Model(
      meta["channels"],
      meta["classes"],
      depths=tuple(meta["depths"]),
      dims=tuple(meta["dims"]),
      stem=meta["stem"],
      partition=meta["partition"],
      head_dim=meta["head_dim"],
      expand=hidden / dim,
      squeeze=arrays[f"{first}.conv.se.fc1.weight"].shape[0] / dim,
      mlp_ratio=arrays[f"{first}.attn_block.mlp.fc1.weight"].shape[0] / dim,
      momentum=0.9,  # timm's: its batch norms are made by torch's defaults
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  model = filled.model
  filled.convolution(model.stem.first, "stem.conv1")
  filled.norm(model.stem.norm, "stem.norm1")
  filled.convolution(model.stem.second, "stem.conv2")
  for i, stage in enumerate(model.stages.stages):
    for j, block in enumerate(stage.sequence):
      name = f"stages.{i}.blocks.{j}."
      blocks.fill(block, filled.below(name))
      for norm, end in zip(block.convolve.norms, blocks.NORMS):
        filled.norm(norm, name + end)
  filled.norm(model.norm.norm, "head.norm")
  filled.linear(model.norm.linear, "head.pre_logits.fc")
  filled.linear(model.head, "head.fc")
  yield from networks.compare(filled)
