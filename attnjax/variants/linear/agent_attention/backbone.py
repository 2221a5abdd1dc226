"""Agent-DeiT, Agent-PVT and Agent-Swin, the paper's models.

Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

  kind          one of KINDS
  agents        number of agents in each stage
  agent_blocks  number of blocks with agents in each stage
  mlp_ratios    as mlp_ratio, of each stage
  sr_ratios     of each stage of "pvt", as in `Layer`
  agent_window  of "swin": side of the windows with agents; the whole map if larger
  window        of "swin": side of the other windows
  patch         side of the patches
  image         side of the images that biases and positions are made for; on others
                they are interpolated
  epsilon       of the norms
  qkv_bias      as in `Layer`
"""

import itertools
from functools import partial
from typing import Any

from flax import nnx

from attnjax.contract import check_options
from attnjax.nn.backbone import Classifier
from attnjax.nn.patches import Patches
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.nn.transformer import Block, layer_norm, rates
from attnjax.variants.linear.agent_attention.embedding import Embedding, Merging, Placed
from attnjax.variants.linear.agent_attention.layer import Layer
from attnjax.variants.linear.agent_attention.softmax import Softmax
from attnjax.variants.linear.agent_attention.tokens import TokenStages

KINDS = ("deit", "pvt", "swin")
_INIT = nnx.initializers.truncated_normal(0.02)


def _deit(dim, agents, agent_blocks, drop, image=224) -> dict[str, Any]:
  heads = (dim // 64,) * 4
  options = {"kind": "deit", "dims": (dim,) * 4, "depths": (2, 2, 6, 2), "patch": 16}
  options |= {"agents": (agents,) * 4, "agent_blocks": agent_blocks, "image": image}
  return options | {"heads": heads, "mlp_ratios": (4.0,) * 4, "drop": drop}


def _pvt(depths, drop, image=224) -> dict[str, Any]:
  return {"depths": depths, "agent_blocks": depths, "drop": drop, "image": image}


def _swin(dim, depths, agent_blocks, drop, image=224) -> dict[str, Any]:
  options = {"kind": "swin", "dims": tuple(dim * 2**i for i in range(4))}
  options |= {"depths": depths, "agent_blocks": agent_blocks, "epsilon": 1e-5}
  options |= {"agent_window": image // 4, "window": max(7, image // 32)}
  options |= {"heads": tuple(dim // 32 * 2**i for i in range(4)), "image": image}
  return options | {"mlp_ratios": (4.0,) * 4, "drop": drop}


# The sizes of the official configurations, with the resolution where it is not 224. For
# images of 28 x 28 there is "mini", which is invented: 14 x 14 tokens with agents, then
# 7 x 7 without.
SIZES: dict[str, dict[str, Any]] = {
  "pvt_tiny": _pvt((2, 2, 2, 2), 0.1),
  "pvt_small": _pvt((3, 4, 6, 3), 0.1),
  "pvt_medium": _pvt((3, 4, 18, 3), 0.3),
  "pvt_medium_256": _pvt((3, 4, 18, 3), 0.3, image=256),
  "pvt_large": _pvt((3, 8, 27, 3), 0.3),
  "deit_tiny": _deit(192, 49, (2, 2, 6, 2), 0.0),
  "deit_small": _deit(384, 49, (2, 2, 6, 2), 0.1),
  "deit_small_448": _deit(384, 49, (2, 2, 6, 2), 0.1, image=448),
  "deit_base": _deit(768, 81, (2, 2, 0, 0), 0.3),
  "swin_tiny": _swin(96, (2, 2, 6, 2), (2, 2, 6, 0), 0.2),
  "swin_small": _swin(96, (2, 2, 18, 2), (2, 2, 0, 0), 0.3),
  "swin_small_288": _swin(96, (2, 2, 18, 2), (2, 2, 0, 0), 0.3, image=288),
  "swin_base": _swin(128, (2, 2, 18, 2), (2, 2, 2, 0), 0.5),
  "swin_base_384": _swin(128, (2, 2, 18, 2), (2, 2, 2, 0), 0.5, image=384),
  "mini": {
    "kind": "swin",
    "dims": (16, 32),
    "depths": (1, 1),
    "heads": (2, 4),
    "agents": (9, 9),
    "agent_blocks": (1, 0),
    "mlp_ratios": (2.0, 2.0),
    "sr_ratios": (1, 1),
    "patch": 2,
    "image": 28,
  },
}
# The others have their published numbers, too: to 0.2 % those of PVT, to 0.3 % of DeiT,
# to 0.7 % of Swin, which are published in millions.
PARAMETERS = {
  "pvt_tiny": 11.6e6,
  "deit_tiny": 6.0e6,
  "deit_base": 87.2e6,
  "swin_tiny": 29e6,
}


def Model(
  channels: int,
  classes: int,
  *,
  kind: str = "pvt",
  dims: tuple[int, ...] = (64, 128, 320, 512),
  depths: tuple[int, ...] = (2, 2, 2, 2),
  heads: tuple[int, ...] = (1, 2, 5, 8),
  agents: tuple[int, ...] = (9, 16, 49, 49),
  agent_blocks: tuple[int, ...] = (2, 2, 2, 2),
  mlp_ratios: tuple[float, ...] = (8.0, 8.0, 4.0, 4.0),
  sr_ratios: tuple[int, ...] = (1, 1, 1, 1),
  agent_window: int = 56,
  window: int = 7,
  patch: int = 4,
  image: int = 224,
  epsilon: float = 1e-6,
  qkv_bias: bool = True,
  drop: float = 0.1,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Maps that patches or windows do not tile get zeros at their end.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    kind          the network: "deit", of one resolution, "pvt" or "swin"
    agents        number of agents, of each stage
    agent_blocks  blocks of each stage with agents, the first ones; others have softmax
    mlp_ratios    hidden widths over widths, of each stage
    sr_ratios     strides at which "pvt" pools keys and values, of each stage
    agent_window  side of windows with agents, and `window` of those without, in "swin"
    patch, image  sides of the patches, and of the images that biases are planned for
    epsilon       of the norms
    qkv_bias      as in `Layer`
  """
  check_options(kind=(kind, KINDS))
  given: Any = dict(dims=dims, depths=depths, heads=heads, agents=agents)
  given |= dict(agent_blocks=agent_blocks, mlp_ratios=mlp_ratios, sr_ratios=sr_ratios)
  one_a_stage(**given)
  options, shared = dict(qkv_bias=qkv_bias, impl=impl), dict(epsilon=epsilon, rngs=rngs)
  sides, windows = _sides(kind, image, patch, dims), (agent_window, window)
  blocks = _stages(kind, given, drop, (sides, windows), options, shared)
  stages = [Stage(own, remat=remat) for own in blocks]
  stem, body = _body(kind, channels, dims, patch, sides, stages, shared)
  head = nnx.Linear(dims[-1], classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(stem, body, head)


def _stages(kind, given, drop, places, options, shared) -> list[list[Block]]:
  """Returns the blocks of every stage."""
  sides, windows = places
  found = []
  for i, drops in enumerate(rates(drop, given["depths"])):
    stage = {name: values[i] for name, values in given.items()}
    stage |= {"side": sides[i], "windows": windows}
    found.append(_blocks(kind, stage, drops, options, shared))
  return found


def _sides(kind, image, patch, dims) -> list[int]:
  """Returns the side of each stage's map of the images that are planned for."""
  sides = [-(-image // patch)]
  for _ in dims[1:]:
    sides.append(sides[-1] if kind == "deit" else -(-sides[-1] // 2))
  return sides


def _blocks(kind, stage, drops, options, shared) -> list[Block]:
  """Returns the blocks of a stage, whose options are named as those of `Model`."""
  dim, hidden = stage["dims"], int(stage["mlp_ratios"] * stage["dims"])
  mixers = [_mixer(kind, stage, number, options) for number in range(len(drops))]
  return [
    Block(dim, mixer, hidden=hidden, drop=drop, **shared)
    for mixer, drop in zip(mixers, drops)
  ]


def _mixer(kind, stage, number, options) -> partial:
  """Returns what makes the attention of a block, with agents or without."""
  own, few = {"heads": stage["heads"]} | options, number < stage["agent_blocks"]
  side = grid = stage["side"]
  if kind == "pvt":
    own["sr_ratio"] = stage["sr_ratios"]
  if kind == "swin":
    window = stage["windows"][0 if few else 1]
    # One window that is the whole map has no shift.
    own["shift"] = window // 2 if number % 2 and window < side else 0
    own["window"] = grid = min(window, side)
  if not few:
    return partial(Softmax, stage["dims"], **own)
  token = kind == "deit"
  own |= {"form": "sequence" if token else "image", "class_token": token}
  return partial(Layer, stage["dims"], num_agents=stage["agents"], grid=grid, **own)


def _body(kind, channels, dims, patch, sides, stages, shared) -> tuple[Any, Any]:
  """Returns the stem and the stages with what is between and behind them."""
  rngs = shared["rngs"]
  if kind == "pvt":
    below = (channels, *dims)
    merges = [
      Placed(below[i], dim, 2 if i else patch, side=sides[i], rngs=rngs)
      for i, dim in enumerate(dims)
    ]
    return None, Stages(stages, merges=merges)
  norm = layer_norm(dims[-1], **shared)
  if kind == "deit":
    stem = Patches(channels, dims[0], patch, rngs=rngs)
    return stem, TokenStages(dims[0], sides[0], stages, norm, rngs=rngs)
  merges = [None, *(Merging(*pair, **shared) for pair in itertools.pairwise(dims))]
  stem = Embedding(channels, dims[0], patch, **shared)
  return stem, Stages(stages, merges=merges, norm=norm)
