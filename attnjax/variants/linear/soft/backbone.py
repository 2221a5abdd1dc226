"""The paper's network: stages of SOFT, then one of softmax with a class token."""

import functools
from typing import Any, Unpack

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import class_token, projections, running, transformer
from attnjax.nn.backbone import Classifier
from attnjax.nn.class_token import Mark, Rows
from attnjax.nn.learned_positions import LearnedPositions
from attnjax.nn.norms import BatchNorm
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.ops import self_attention
from attnjax.variants.linear.soft.attention import PUBLISHED
from attnjax.variants.linear.soft.layer import Block

EPSILON = 1e-6
_INIT = nnx.initializers.truncated_normal(0.02)
# SOFT; SOFT++ with the inverse of SOFT; and SOFT++ as in its authors' code, where the
# examples of a batch share the start of the inverse.
KINDS: dict[str, dict[str, Any]] = {
  "soft": {},
  "normalised": {"normalise": True},
  "released": {"normalise": True, "jitter": 0.0, "gradient": "autodiff"}
  | {"start": "batch"},
}


def _size(width, heads, depths, **more) -> dict[str, Any]:
  dims = {"dims": (64, 128, width, 512), "heads": (2, 4, heads, 16)}
  return dims | {"depths": depths} | more


_PAPER: dict[str, dict[str, Any]] = {
  "tiny": _size(320, 10, (1, 2, 3, 2)),
  "small": _size(320, 10, (1, 3, 20, 4)),
  "medium": _size(288, 9, (1, 3, 29, 5)),
  "large": _size(320, 10, (1, 3, 40, 5)),
  "huge": _size(352, 11, (1, 5, 49, 5)),
}
# The published sizes; the ones of SOFT++ end in "norm". For images of 28 x 28 there is
# "mini", which is invented: 14 x 14 tokens with 9 landmarks, then 7 x 7 with softmax.
SIZES = (
  _PAPER
  | {f"{name}_norm": size | {"kind": "released"} for name, size in _PAPER.items()}
  | {
    "mini": {
      "dims": (32, 64),
      "depths": (1, 1),
      "heads": (2, 4),
      "ratios": (4,),
      "kernels": (3,),
      "places": (14, 7),
      "stem_widths": (16,),
      "stem_strides": (2, 1),
      "iterations": 0,
    }
  }
)
# In millions: 13, 24, 45, 64 and 87. The authors' code, as it is here, has 38.9 for
# small, 45.8 for medium and 64.7 for large.
PARAMETERS = {"tiny": 13.0e6}


def Model(
  channels: int,
  classes: int,
  *,
  dims: tuple[int, ...] = (64, 128, 320, 512),
  depths: tuple[int, ...] = (1, 2, 3, 2),
  heads: tuple[int, ...] = (2, 4, 10, 16),
  ratios: tuple[int, ...] = (8, 4, 2),
  kernels: tuple[int, ...] = (9, 5, 3),
  places: tuple[int, ...] = (56, 28, 14, 7),
  stem_widths: tuple[int, ...] = (32, 32),
  stem_strides: tuple[int, ...] = (2, 1, 2),
  mlp_ratio: float = 4.0,
  last_mlp_ratio: float = 4.0,
  qkv_bias: bool = True,
  kind: str = "soft",
  iterations: int = PUBLISHED["iterations"],
  drop: float = 0.1,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Before each stage there are convolutions, and each adds learned positions. All are of
  `Block`, where `drop` is a share of numbers, but the last: its blocks of softmax
  attention have a class token. Beside the hyper-parameters of all networks,
  `attnjax.contract.forms.backbone`:

    ratios, kernels  as in `Layer`, of each stage but the last
    places  side of the grid of each stage's positions, interpolated on others
    stem_widths, stem_strides  of the first convolutions; the last has the width dims[0]
    last_mlp_ratio, qkv_bias  of the last stage
    kind  one of KINDS
    iterations  as in `attend`; the authors' 20 are too few for landmarks that are alike
  """
  one_a_stage(dims=dims, depths=depths, heads=heads, places=places)
  one_a_stage(dims_but_the_last=dims[:-1], ratios=ratios, kernels=kernels)
  widths, drops = (*stem_widths, dims[0]), transformer.rates(drop, depths)
  check_known("kind", kind, KINDS)
  layer = KINDS[kind] | {"iterations": iterations, "impl": impl, "rngs": rngs}
  stages = []
  for i, dim in enumerate(dims[:-1]):
    own = {"heads": heads[i], "ratio": ratios[i], "kernel": kernels[i]}
    own |= {"hidden": int(mlp_ratio * dim)} | layer
    stages.append(_stage(dim, places[i], drops[i], own, remat))
  own = {"heads": heads[-1], "bias": qkv_bias, "impl": impl, "rngs": rngs}
  hidden = int(last_mlp_ratio * dims[-1])
  stages.append(_last_stage(dims[-1], places[-1], drops[-1], hidden, own, remat))
  return _classifier(channels, classes, widths, stem_strides, dims, stages, rngs)


def _stage(dim, place, drops, options, remat) -> Stage:
  """Returns positions, then blocks of SOFT."""
  first = LearnedPositions(dim, (place, place), rngs=options["rngs"])
  blocks = [Block(dim, drop=rate, **options) for rate in drops]
  return Stage([first, *blocks], remat=remat)


def _last_stage(dim, place, drops, hidden, options, remat) -> Stage:
  """Returns a class token, then blocks of softmax attention."""
  rngs = options.pop("rngs")
  given = {"hidden": hidden, "epsilon": EPSILON, "rngs": rngs}
  mixer = functools.partial(_Attention, dim, **options)
  blocks = [Rows(transformer.Block(dim, mixer, drop=rate, **given)) for rate in drops]
  return Stage([Mark(dim, (place, place), rngs=rngs), *blocks], remat=remat)


def _classifier(channels, classes, widths, strides, dims, stages, rngs) -> Classifier:
  one_a_stage(stem_strides=strides, stem_widths=widths)
  stem = _Embed(channels, widths, strides, rngs=rngs)
  pairs = zip(dims, dims[1:])
  merges = [None, *(_Embed(dim, (above,), (2,), rngs=rngs) for dim, above in pairs)]
  norm = Rows(transformer.layer_norm(dims[-1], EPSILON, rngs=rngs))
  head = nnx.Linear(dims[-1], classes, kernel_init=_INIT, rngs=rngs)
  body = Stages(stages, merges=merges, norm=norm)
  return Classifier(stem, body, head, pool=class_token.token)


class _Attention(nnx.Module):
  """Softmax attention between the tokens."""

  def __init__(self, dim, *, heads, bias, impl, rngs):
    size = projections.head_size(dim, heads)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.impl = impl

  def project(self, x: Float[Array, "B T D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token."""
    return self_attention.heads(x, context, self.qkv, form="sequence")

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns the attention's result for each head."""
    return attention.attend(heads.q, heads.k, heads.v, impl=self.impl)[0]

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B T D"]:
    """Returns the projection of all heads' outputs."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B T D"], **context: Unpack[Context]
  ) -> Float[Array, "B T D"]:
    """Returns the attention's result for each token."""
    return contexts.run(self, x, context)


class _Embed(nnx.Module):
  """Convolutions of 3 x 3, each with batch norm and ReLU."""

  init_stats = running.init_stats

  def __init__(self, below, widths, strides, *, rngs):
    self.convolutions = nnx.List(
      nnx.Conv(
        before, width, (3, 3), strides=stride, padding=((1, 1), (1, 1)), rngs=rngs
      )
      for before, width, stride in zip((below, *widths), widths, strides)
    )
    self.norms = nnx.List(BatchNorm(width) for width in widths)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    for convolution, norm in zip(self.convolutions, self.norms):
      x = jax.nn.relu(carry(norm, convolution(x)))
    return carry.result(x)
