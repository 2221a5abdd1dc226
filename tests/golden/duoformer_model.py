"""DuoFormer, the whole network, against the authors'."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn.norms import Stats
from attnjax.variants.local import duoformer
from tests.arrays import below
from tests.golden.duoformer import fill_encoder, grid_of, put

# Channels out of a block, in those of its 3 x 3 convolutions.
_EXPANSION = {"BasicBlock": 1, "Bottleneck": 4}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  model, stats = _filled(arrays, meta)

  @jax.jit
  def run(model, images, stats):
    images = jnp.moveaxis(images, 1, -1)
    *maps, scales = model.features(images, stats=stats)[0]
    found = {"logits": model(images, stats=stats)[0]}
    found["lists"] = model.stages.lists(maps)[:, np.array(meta["cells"])]
    found["scales"] = scales.reshape(scales.shape[0], -1, scales.shape[-1])
    found["patches"] = model.pool.each(scales)[-1][:, 0]
    for number, (one, (channels, places)) in enumerate(zip(maps, meta["thin"])):
      thin = one[:, ::places, ::places, ::channels]
      found[f"map{number}"] = jnp.moveaxis(thin, -1, 1)
    return found

  for name, y in run(model, jnp.asarray(arrays["in.x"]), stats).items():
    yield f"out.{name}", y, arrays[f"out.{name}"]


def _filled(arrays, meta) -> tuple[Any, dict]:
  """The network and its running statistics."""
  weight = below(arrays, "param.")
  former = "vision_transformer."
  encoder = below(weight, former)
  grid = grid_of(encoder["pos_embed"].shape[1] - 1)
  model: Any = jax.eval_shape(
    lambda: duoformer.Model(
      meta["channels"],
      meta["classes"],
      blocks=tuple(meta["layers"]),
      expansion=_EXPANSION[meta["block"]],
      scales=meta["num_layers"],
      dim=meta["embed_dim"],
      heads=meta["num_heads"],
      depth=meta["depth"],
      grid=grid,
      mlp_ratio=meta["mlp_ratio"],
      patch_block="bare",
      head_norm=False,
      rngs=nnx.Rngs(0),
    )
  )
  stages = model.stages
  coarsest = len(meta["layers"]) - 1
  for number, part in enumerate(stages.lists.projections):
    _fill_linear(part, weight, f"projection.proj_heads{coarsest - number}")
  put(stages.lists.token, weight["channel_token"].ravel())
  fill_encoder(stages.scales, model.pool, encoder, grid)
  _fill_linear(model.head, encoder, "head")
  return model, {"stages": {"network": _fill_network(stages.network, weight)}}


def _fill_network(network, weight):
  """Fills the convolutional network; its running statistics."""
  name = "resnet_projector."
  stats = {}
  for number, stage in enumerate(network.stages.stages):
    own = stats[f"stages/{number}"] = {}
    for i, block in enumerate(stage.sequence):
      start = f"{name}{4 + number}.{i}."
      own[f"sequence/{i}"] = found = {
        f"units/{n}": _fill_unit(
          unit, weight, f"{start}conv{n + 1}", f"{start}bn{n + 1}"
        )
        for n, unit in enumerate(block.units)
      }
      if block.short is not None:
        down = f"{start}downsample."
        found["short"] = _fill_unit(block.short, weight, f"{down}0", f"{down}1")
  stem = _fill_unit(network.stem, weight, f"{name}0", f"{name}1")
  return {"stem": stem, "stages": stats}


def _fill_unit(unit, weight, convolution, norm):
  kernel = weight[f"{convolution}.weight"]
  put(unit.convolution.kernel, np.transpose(kernel, (2, 3, 1, 0)))
  put(unit.norm.scale, weight[f"{norm}.weight"])
  put(unit.norm.bias, weight[f"{norm}.bias"])
  running = (weight[f"{norm}.running_{what}"] for what in ("mean", "var"))
  return {"norm": Stats(*(jnp.asarray(x) for x in running))}


def _fill_linear(part, weight, name):
  """Fills a linear map from a linear layer or a convolution of 1 x 1."""
  kernel = weight[f"{name}.weight"]
  put(part.kernel, kernel.reshape(kernel.shape[:2]).T)
  put(part.bias, weight[f"{name}.bias"])
