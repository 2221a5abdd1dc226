"""The whole HaloNet against timm's."""

from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from attnjax.variants.local import halo
from tests import networks
from tests.golden import halo as layers


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  first = "param.stages.0.0"
  width = arrays[f"{first}.conv1_1x1.conv.weight"].shape[0]

  def build():
    return halo.Model(
      meta["channels"],
      meta["classes"],
      block=meta["block"],
      halo=meta["halo"],
      value_ratio=arrays[f"{first}.post_attn.weight"].shape[0] / width,
      bottleneck_ratio=meta["bottleneck_ratio"],
      widths=tuple(meta["widths"]),
      depths=tuple(meta["depths"]),
      heads=tuple(meta["heads"]),
      last=meta["last"],
      qkv_bias=f"{first}.self_attn.q.bias" in arrays,
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  model = filled.model
  filled.convolution(model.stem.convolution, "stem.conv1.conv")
  filled.norm(model.stem.norm, "stem.conv1.bn")
  for i, stage in enumerate(model.stages.stages):
    for j, block in enumerate(stage.sequence):
      name = f"stages.{i}.{j}"
      layers.fill(block.mix, filled.below(f"{name}.self_attn."))
      filled.norm(block.norm, f"{name}.post_attn")
      _project(filled, block.first, f"{name}.conv1_1x1")
      _project(filled, block.last, f"{name}.conv3_1x1")
      if block.shortcut is not None:
        _project(filled, block.shortcut, f"{name}.shortcut")
  if model.pool is not None:
    _project(filled, model.pool.project, "final_conv")
  filled.linear(model.head, "head.fc")
  yield from networks.compare(filled)


def _project(filled, part, name):
  filled.linear(part.linear, f"{name}.conv")
  filled.norm(part.norm, f"{name}.bn")
