"""The whole Agent-Swin against the authors' code."""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from attnjax.variants.linear import agent_attention
from tests import networks
from tests.golden import agent_attention_pvt as pvt


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  depths = meta["depths"]

  def build():
    return agent_attention.Model(
      meta["channels"],
      meta["classes"],
      kind="swin",
      dims=tuple(meta["embed_dim"] * 2**i for i in range(len(depths))),
      depths=tuple(depths),
      heads=tuple(meta["num_heads"]),
      agents=tuple(meta["agent_num"]),
      agent_blocks=tuple(
        sum(block["type"] == "AgentAttention" for block in stage)
        for stage in meta["used"]
      ),
      mlp_ratios=(float(meta["mlp_ratio"]),) * len(depths),
      sr_ratios=(1,) * len(depths),
      agent_window=meta["window_size"],
      window=max(7, meta["window_size"] // 8),  # their rule
      patch=meta["patch_size"],
      image=meta["image"][0],
      epsilon=meta["norm_eps"],
      qkv_bias=meta["qkv_bias"],
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  model, body = filled.model, filled.model.stages
  filled.convolution(model.stem.patches.project, "patch_embed.proj")
  filled.norm(model.stem.norm, "patch_embed.norm")
  for i, (merge, stage) in enumerate(zip(body.merges, body.stages)):
    if merge is not None:
      filled.norm(merge.norm, f"layers.{i - 1}.downsample.norm")
      filled.linear(merge.project, f"layers.{i - 1}.downsample.reduction")
    for j, block in enumerate(stage.sequence):
      name = f"layers.{i}.blocks.{j}"
      if hasattr(block.mixer, "bias_table"):
        _table(filled, block.mixer.bias_table, name)
      pvt.fill(filled, block, name)
  filled.norm(body.norms[-1], "norm")
  filled.linear(model.head, "head")
  yield from networks.compare(filled)


def _table(filled, table, name):
  """Sets biases (N, rows, columns); theirs are by places of queries minus keys."""
  theirs = filled.below(f"{name}.attn.relative_position_bias_table")[""]
  networks.fill(table, theirs.T.reshape(table.shape)[:, ::-1, ::-1])
