"""The whole Agent-PVT against the authors' code."""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from attnjax.variants.linear import agent_attention
from attnjax.variants.linear.agent_attention.embedding import Embedding
from tests import networks
from tests.golden import agent_attention as layers


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  has = [kind == "A" for kind in meta["attn_type"]]
  ratios = zip(has, map(int, meta["agent_sr_ratios"]), meta["sr_ratios"])

  def build():
    return agent_attention.Model(
      meta["channels"],
      meta["classes"],
      kind="pvt",
      dims=tuple(meta["embed_dims"]),
      depths=tuple(meta["depths"]),
      heads=tuple(meta["num_heads"]),
      agents=tuple(meta["agent_num"]),
      agent_blocks=tuple(n * own for n, own in zip(meta["depths"], has)),
      mlp_ratios=tuple(map(float, meta["mlp_ratios"])),
      sr_ratios=tuple(few if own else other for own, few, other in ratios),
      patch=meta["patch_size"],
      image=meta["image"][0],
      epsilon=meta["norm_eps"],
      qkv_bias=meta["qkv_bias"],
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  body = filled.model.stages
  for i, (merge, stage) in enumerate(zip(body.merges, body.stages), 1):
    filled.convolution(merge.embedding.patches.project, f"patch_embed{i}.proj")
    filled.norm(merge.embedding.norm, f"patch_embed{i}.norm")
    table = merge.positions.table
    networks.fill(table, filled.below(f"pos_embed{i}")[""].reshape(table.shape))
    for j, block in enumerate(stage.sequence):
      fill(filled, block, f"block{i}.{j}")
  filled.linear(filled.model.head, "head")
  yield from networks.compare(filled, parts={"embed": Embedding})


def fill(filled, block, name):
  """Sets the parameters of a block, with agents or without."""
  filled.norm(block.norm, f"{name}.norm1")
  layers.fill(block.mixer, filled.below(f"{name}.attn."))
  filled.norm(block.feed_norm, f"{name}.norm2")
  filled.linear(block.feed.up, f"{name}.mlp.fc1")
  filled.linear(block.feed.down, f"{name}.mlp.fc2")
