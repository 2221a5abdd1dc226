"""The whole DaViT against the authors' code."""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from attnjax.variants.local import davit
from tests import networks
from tests.golden import davit as blocks


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""

  def build():
    return davit.Model(
      meta["channels"],
      meta["classes"],
      dims=tuple(meta["dims"]),
      depths=tuple(meta["depths"]),
      heads=tuple(meta["heads"]),
      window=meta["window"],
      stride=(arrays["param.patch_embeds.0.proj.weight"].shape[-1] + 1) // 2,
      mlp_ratio=meta["mlp_ratio"],
      qkv_bias="param.main_blocks.0.0.0.attn.qkv.bias" in arrays,
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  body = filled.model.stages
  for i, (merge, stage) in enumerate(zip(body.merges, body.stages)):
    filled.convolution(merge.project, f"patch_embeds.{i}.proj")
    filled.norm(merge.norm, f"patch_embeds.{i}.norm")
    for j, block in enumerate(stage.sequence):
      blocks.fill(block, filled.below(f"main_blocks.{i}.{j // 2}.{j % 2}."))
  filled.norm(filled.model.norm, "norms")
  filled.linear(filled.model.head, "head")
  yield from networks.compare(filled)
