"""The paper's networks: filters in the first blocks, attention in the others."""

import itertools
from collections.abc import Sequence
from typing import Any

from flax import nnx

from attnjax.contract import check_known
from attnjax.nn.backbone import Classifier
from attnjax.nn.learned_positions import LearnedPositions
from attnjax.nn.linear import linear
from attnjax.nn.patches import Patches
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.nn.transformer import layer_norm, rates
from attnjax.variants.mixers.spectformer.blocks import (
  EPSILON,
  STYLES,
  SpectralBlock,
  attention_block,
)
from attnjax.variants.mixers.spectformer.embedding import Down, Norm, Stem
from attnjax.variants.mixers.spectformer.pooling import ClassAttention, TokenHead

MIXERS = ("spectral", "attention")
_INIT = nnx.initializers.truncated_normal(0.02)


def _vanilla(dim, depth, heads, drop=0.0) -> dict[str, Any]:
  return {"dims": (dim,), "depths": (depth,), "heads": (heads,), "drop": drop}


def _hierarchical(dims, depths, stem, drop) -> dict[str, Any]:
  options = {"style": "hierarchical", "dims": dims, "depths": depths, "stem": stem}
  options |= {"heads": tuple(dim // 32 for dim in dims), "alpha": sum(depths[:2])}
  options |= {"mlp_ratios": (8.0, 8.0, 4.0, 4.0), "grids": (56, 28, 14, 7)}
  return options | {"token_labels": True, "drop": drop}


# The published sizes, for images of 224 x 224. The official file has 6 heads in all of
# the first four, which its authors change by hand: 6 does not divide two of the widths.
# For images of 28 x 28 there is "mini", which is invented: 7 x 7 tokens.
SIZES: dict[str, dict[str, Any]] = {
  "ti": _vanilla(256, 12, 4),
  "xs": _vanilla(384, 12, 6),
  "s": _vanilla(384, 19, 6, 0.15),
  "b": _vanilla(512, 19, 8, 0.25),
  "hier_s": _hierarchical((64, 128, 320, 448), (3, 4, 6, 3), 32, 0.1),
  "hier_b": _hierarchical((64, 128, 320, 512), (3, 4, 12, 3), 64, 0.1),
  "hier_l": _hierarchical((96, 192, 384, 512), (3, 6, 18, 3), 64, 0.3),
  "mini": _vanilla(32, 2, 4, 0.1) | {"alpha": 1, "patch": 4, "grids": (7,)},
}
# Of the authors' logs, and of the table of their repository. A test has the others: xs
# 20,028,520, s 32,449,768, b 57,159,656, exactly; hier_b 33.1 and hier_l 54.7 million.
PARAMETERS: dict[str, float] = {"ti": 9_158_376, "hier_s": 22.2e6}


def Model(
  channels: int,
  classes: int,
  *,
  style: str = "vanilla",
  dims: tuple[int, ...] = (384,),
  depths: tuple[int, ...] = (12,),
  heads: tuple[int, ...] = (6,),
  alpha: int = 4,
  mixers: tuple[str, ...] = (),
  mlp_ratios: tuple[float, ...] = (4.0,),
  patch: int = 16,
  stem: int = 32,
  grids: tuple[int | tuple[int, int], ...] = (14,),
  token_labels: bool = False,
  drop: float = 0.0,
  method: str = "auto",
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    style       one of STYLES: one stage behind patches, with positions; or stages that
                halve the map, with convolutions in MLPs, and class attention behind
    alpha       number of blocks with filters, from the first on, over all stages: 0 is
                a Vision Transformer, and all of them are GFNet
    mixers      kind of each block instead, one of MIXERS; () for those of alpha
    mlp_ratios  hidden widths over widths, of each stage
    patch, stem  side of the patches (vanilla), width of the first convolutions (not so)
    grids       side, or rows and columns, of the map that each stage's filters and
                positions are made for; on others they are interpolated
    token_labels  whether tokens have logits, see `TokenHead`; not for the vanilla style
    method      of the filters, as in `spectral_gate`
  """
  given: Any = {"dim": dims, "depth": depths, "heads": heads, "mlp_ratio": mlp_ratios}
  _check(style, given | {"grid": grids}, token_labels)
  shared = {"style": style, "method": method, "impl": impl, "rngs": rngs}
  blocks = _blocks(given | {"grid": grids}, drop, _kinds(depths, alpha, mixers), shared)
  stages = [Stage(own, remat=remat) for own in blocks]
  if style == "vanilla":
    return _flat(channels, classes, dims[0], patch, stages, rngs)
  last: Any = {"heads": heads[-1], "hidden": int(mlp_ratios[-1] * dims[-1])}
  pool = ClassAttention(dims[-1], tokens=token_labels, impl=impl, **last, rngs=rngs)
  return _deep((channels, stem, *dims), classes, pool, stages, rngs)


def _check(style, stages, token_labels) -> None:
  check_known("style", style, STYLES)
  one_a_stage(**stages)
  if style == "vanilla" and (len(stages["dim"]) > 1 or token_labels):
    raise ValueError(
      f"dims = {stages['dim']}, token_labels = {token_labels}: the style 'vanilla' has"
      " one stage and no class token"
    )


def _blocks(stages, drop, kinds, shared) -> list[list]:
  """Returns the blocks of every stage, with what is before or behind them."""
  left, found = iter(kinds), []
  for i, drops in enumerate(rates(drop, stages["depth"])):
    own = {name: values[i] for name, values in stages.items()} | shared
    body = [_block(next(left), rate, **own) for rate in drops]
    found.append(_ended(body, own, i == len(stages["dim"]) - 1))
  return found


def _kinds(depths, alpha: int, mixers: Sequence[str]) -> Sequence[str]:
  """Returns the kind of each block."""
  depth = sum(depths)
  if alpha < 0:
    raise ValueError(f"alpha = {alpha}: a number of blocks is at least 0")
  if mixers and len(mixers) != depth:
    raise ValueError(f"mixers = {mixers}: there are {depth} blocks")
  for kind in mixers:
    check_known("mixer", kind, MIXERS)
  return mixers or [MIXERS[number >= alpha] for number in range(depth)]


def _block(kind, drop, *, dim, heads, mlp_ratio, grid, style, method, impl, rngs, **_):
  """Returns a block of one of MIXERS."""
  own = {"style": style, "hidden": int(mlp_ratio * dim), "drop": drop, "rngs": rngs}
  if kind == "spectral":
    return SpectralBlock(dim, grid=grid, method=method, **own)
  return attention_block(dim, heads=heads, impl=impl, **own)


def _ended(body, options, last) -> list:
  """Returns the blocks of a stage with what is before or behind them."""
  dim, grid, rngs = options["dim"], options["grid"], options["rngs"]
  if options["style"] == "vanilla":
    sides = (grid, grid) if isinstance(grid, int) else grid
    return [LearnedPositions(dim, sides, rngs=rngs), *body]
  return body if last else [*body, Norm(dim, rngs=rngs)]


def _flat(channels, classes, dim, patch, stages, rngs) -> Classifier:
  """Returns the vanilla network around its stage."""
  stem = Patches(channels, dim, patch, rngs=rngs)
  stem.project = linear(patch * patch * channels, dim, rngs=rngs)
  body = Stages(stages, norm=layer_norm(dim, EPSILON, rngs=rngs))
  head = nnx.Linear(dim, classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(stem, body, head)


def _deep(widths, classes, pool, stages, rngs) -> Classifier:
  """Returns the hierarchical network around its stages."""
  channels, width, *dims = widths
  stem = Stem(channels, width, dims[0], rngs=rngs)
  merges = [None, *(Down(*pair, rngs=rngs) for pair in itertools.pairwise(dims))]
  norm = layer_norm(dims[-1], EPSILON, rngs=rngs)
  if pool.tokens:
    head: Any = TokenHead(dims[-1], classes, rngs=rngs)
  else:
    head = nnx.Linear(dims[-1], classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(stem, Stages(stages, merges=merges), head, pool=pool, norm=norm)
