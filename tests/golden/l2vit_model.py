"""The whole L2ViT against the authors' code, on sides that divide and that do not."""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from attnjax.variants.linear import l2vit
from tests import networks
from tests.golden import l2vit as blocks


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  # Blocks of linear attention are the second ones; a stage may have a block alone.
  stage = next(i for i, depth in enumerate(meta["depths"]) if depth > 1)
  block = f"param.stages.{stage}.1"

  def build():
    return l2vit.Model(
      meta["channels"],
      meta["classes"],
      dims=tuple(meta["dims"]),
      depths=tuple(meta["depths"]),
      heads=tuple(meta["num_heads"]),
      window=meta["window_size"],
      mlp_ratio=meta["mlp_ratio"],
      den_min=meta["den_min"],
      position_kernel=arrays[f"{block}.cpe.0.proj.weight"].shape[-1],
      local_kernel=arrays[f"{block}.local_mp.conv1.weight"].shape[-1],
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  model, body = filled.model, filled.model.stages
  _stem(filled, model.stem, "downsample_layers.0")
  for i, (merge, stage) in enumerate(zip(body.merges, body.stages)):
    if merge is not None:
      filled.norm(merge.norm, f"downsample_layers.{i}.norm")
      filled.convolution(merge.project, f"downsample_layers.{i}.proj")
    for j, block in enumerate(stage.sequence):
      name = f"stages.{i}.{j}."
      if j % 2:
        blocks.fill_global(block, filled.below(name))
        filled.norm(block.mix.concentrate.norm, f"{name}local_mp.bn")
      else:
        blocks.fill_window(block, filled.below(name))
  filled.norm(body.norms[-1], "norm")
  filled.linear(model.head, "head")
  yield from networks.compare(filled)


def _stem(filled, stem, name):
  filled.convolution(stem.first, f"{name}.proj.proj.0")
  filled.norm(stem.norms[0], f"{name}.proj.proj.1")
  filled.convolution(stem.second, f"{name}.proj.proj.3")
  filled.norm(stem.norms[1], f"{name}.proj.proj.4")
  filled.norm(stem.last, f"{name}.norm")
