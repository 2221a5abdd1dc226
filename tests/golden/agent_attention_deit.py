"""The whole Agent-DeiT against the authors' code."""

import itertools
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn.transformer import Block
from attnjax.variants.linear import agent_attention
from tests import networks
from tests.golden import agent_attention_pvt as pvt

# Their rule of how many agents pairs of blocks have: a place in the list of numbers.
_PLACES = (0, 1, 2, 2, 2, 3)


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  depth = meta["depth"]
  layers = meta["agent_layer"] if meta["agent_layer"] > 0 else depth
  groups = itertools.groupby(range(depth), lambda block: _PLACES[block // 2])
  stages = [(meta["agent_num"][place], list(blocks)) for place, blocks in groups]
  agents, blocks = zip(*stages)

  def build():
    return agent_attention.Model(
      meta["channels"],
      meta["classes"],
      kind="deit",
      dims=(meta["embed_dim"],) * len(stages),
      depths=tuple(map(len, blocks)),
      heads=(meta["num_heads"],) * len(stages),
      agents=agents,
      agent_blocks=tuple(sum(block < layers for block in own) for own in blocks),
      mlp_ratios=(float(meta["mlp_ratio"]),) * len(stages),
      sr_ratios=(1,) * len(stages),
      patch=meta["patch_size"],
      image=meta["image"][0],
      epsilon=meta["norm_eps"],
      qkv_bias=meta["qkv_bias"],
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  model, body = filled.model, filled.model.stages
  filled.convolution(model.stem.project, "patch_embed.proj")
  networks.fill(body.token, filled.below("cls_token")[""][0, 0])
  places = filled.below("pos_embed")[""][0]
  networks.fill(body.place, places[0])
  networks.fill(body.positions.table, places[1:].reshape(body.positions.table.shape))
  number = itertools.count()
  for block in (block for stage in body.stages for block in stage.sequence):
    pvt.fill(filled, block, f"blocks.{next(number)}")
  filled.norm(body.norm, "norm")
  filled.linear(model.head, "head")
  yield from networks.compare(filled, parts={"block": Block}, joined=_tokens)


def _tokens(maps):
  """Returns the class token, then the last map's, (B, 1 + H W, D)."""
  rows = [y.reshape(len(y), -1, y.shape[-1]) for y in (maps[-1], maps[-2])]
  return jnp.concatenate(rows, axis=1)
