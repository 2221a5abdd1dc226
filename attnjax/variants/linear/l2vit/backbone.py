"""The paper's network: a stem, stages of both blocks in turn, a linear head."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.nn import running
from attnjax.nn.backbone import Classifier
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.nn.transformer import layer_norm, rates
from attnjax.variants.linear.l2vit.blocks import GlobalBlock, WindowBlock
from attnjax.variants.linear.l2vit.layer import EPSILON, norm

_INIT = nnx.initializers.truncated_normal(0.02)


def _size(dim, depths, heads, **more) -> dict[str, Any]:
  dims = tuple(dim * 2**i for i in range(len(depths)))
  return {"dims": dims, "depths": depths, "heads": heads} | more


# The published sizes. For images of 28 x 28 there is "mini", which is invented: 14 x
# 14, then 7 x 7 tokens; of so few the denominators are far below the paper's 100.
SIZES = {
  "tiny": _size(96, (2, 2, 6, 2), (3, 6, 12, 24)),
  "small": _size(96, (2, 2, 18, 2), (3, 6, 12, 24)),
  "base": _size(128, (2, 2, 18, 2), (4, 8, 16, 32)),
  "mini": _size(32, (2, 2), (2, 4), stem_strides=(2, 1), den_min=1.0),
}
PARAMETERS: dict[str, float] = {}  # neither the abstract nor the code has them


def Model(
  channels: int,
  classes: int,
  *,
  dims: tuple[int, ...] = (96, 192, 384, 768),
  depths: tuple[int, ...] = (2, 2, 6, 2),
  heads: tuple[int, ...] = (3, 6, 12, 24),
  window: int = 7,
  stem_strides: tuple[int, int] = (2, 2),
  mlp_ratio: float = 4.0,
  norm: str = "batch",
  den_min: float = 100.0,
  position_kernel: int = 3,
  local_kernel: int = 7,
  drop: float = 0.0,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Two convolutions of stride 2; then stages, between them a norm and patches of 2 x 2.
  Images and maps that a stride does not divide are filled with zeros at the right and
  bottom, maps after their norm, as in the authors' code.
  In a stage blocks of even number are `WindowBlock`, the others `GlobalBlock`.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    window        side of the windows
    stem_strides  of the first convolutions
    norm          of the first convolutions and of the concentration, "batch" or "layer"
    den_min, position_kernel, local_kernel  as in `Layer`

  The authors' code has a rate of dropped paths, `drop`, and leaves it at 0.
  """
  one_a_stage(dims=dims, depths=depths, heads=heads)
  stem, stages = _Stem(channels, dims[0], stem_strides, norm, rngs=rngs), []
  merges: list[Any] = [None]
  layer = dict(norm=norm, den_min=den_min, impl=impl)
  layer |= dict(position_kernel=position_kernel, local_kernel=local_kernel)
  for stage, drops in enumerate(rates(drop, depths)):
    dim = dims[stage]
    if stage:
      merges.append(_Merge(dims[stage - 1], dim, rngs=rngs))
    options = {"heads": heads[stage], "hidden": int(mlp_ratio * dim), "rngs": rngs}
    blocks = _blocks(dim, drops, options, layer, window)
    stages.append(Stage(blocks, remat=remat))
  last = layer_norm(dims[-1], EPSILON, rngs=rngs)
  head = nnx.Linear(dims[-1], classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(stem, Stages(stages, merges=merges, norm=last), head)


def _blocks(dim, drops, options, layer, window) -> list:
  return [
    GlobalBlock(dim, drop=drop, **options, **layer)
    if number % 2
    else WindowBlock(dim, drop=drop, window=window, **options)
    for number, drop in enumerate(drops)
  ]


def _convolution(below, dim, size, stride, pad, rngs):
  return nnx.Conv(
    below,
    dim,
    (size, size),
    strides=stride,
    padding=((pad, pad), (pad, pad)),
    kernel_init=_INIT,
    rngs=rngs,
  )


class _Stem(nnx.Module):
  init_stats = running.init_stats

  def __init__(self, channels, dim, strides, kind, *, rngs):
    self.first = _convolution(channels, dim // 2, 3, strides[0], 1, rngs)
    self.second = _convolution(dim // 2, dim, 3, strides[1], 1, rngs)
    self.norms = nnx.List(norm(kind, width, rngs=rngs) for width in (dim // 2, dim))
    self.last = layer_norm(dim, EPSILON, rngs=rngs)
    self.stride = math.prod(strides)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    x = jax.nn.relu(carry(self.norms[0], self.first(_whole(x, self.stride))))
    return carry.result(self.last(carry(self.norms[1], self.second(x))))


class _Merge(nnx.Module):
  def __init__(self, below, dim, *, rngs):
    self.norm = layer_norm(below, EPSILON, rngs=rngs)
    self.project = _convolution(below, dim, 2, 2, 0, rngs)

  def __call__(self, x):
    return self.project(_whole(self.norm(x), 2))


def _whole(x, stride):
  """Returns zeros at the right and bottom up to a multiple of the stride."""
  around = ((0, -side % stride) for side in x.shape[1:3])
  return jnp.pad(x, ((0, 0), *around, (0, 0)))
