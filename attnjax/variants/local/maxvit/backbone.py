"""The paper's network: a stem, stages of blocks, a head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.nn import running, transformer
from attnjax.nn.backbone import Classifier
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.variants.local.maxvit.blocks import Block, norm

_INIT = nnx.initializers.normal(0.02)


def _size(depths, dim, stem, drop, **more) -> dict[str, Any]:
  dims = tuple(dim * 2**i for i in range(len(depths)))
  return {"depths": depths, "dims": dims, "stem": stem, "drop": drop} | more


# Table 1 of the paper, and the official configurations. For images of 28 x 28 there is
# "mini", which is invented: 7 x 7, then 4 x 4 tokens, and statistics of batch norm that
# follow within tens of steps, not hundreds.
SIZES = {
  "tiny": _size((2, 2, 5, 2), 64, 64, 0.2),
  "small": _size((2, 2, 5, 2), 96, 64, 0.3),
  "base": _size((2, 6, 14, 2), 96, 64, 0.4),
  "large": _size((2, 6, 14, 2), 128, 128, 0.6),
  "xlarge": _size((2, 6, 14, 2), 192, 192, 0.6),
  "mini": _size((1, 2), 32, 16, 0.1, partition=4, head_dim=16, momentum=0.9),
}
PARAMETERS = {"tiny": 31e6, "small": 69e6, "base": 120e6, "large": 212e6}
PARAMETERS |= {"xlarge": 475e6}


def Model(
  channels: int,
  classes: int,
  *,
  depths: tuple[int, ...] = (2, 2, 5, 2),
  dims: tuple[int, ...] = (64, 128, 256, 512),
  stem: int = 64,
  partition: int = 7,
  head_dim: int = 32,
  expand: float = 4.0,
  squeeze: float = 0.25,
  momentum: float = 0.99,
  mlp_ratio: float = 4.0,
  drop: float = 0.2,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  Two convolutions, the first of stride 2; then stages, each beginning with stride 2.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    stem       channels of the first convolutions
    partition  side of windows and grids, in all stages: 7 for images of 224
    head_dim   H
    expand, squeeze, momentum  as in `MBConv`
  """
  one_a_stage(dims=dims, depths=depths)
  first = _Stem(channels, stem, momentum, rngs=rngs)
  options = {"window": partition, "grid": partition, "head_dim": head_dim}
  options |= {"expand": expand, "squeeze": squeeze, "mlp_ratio": mlp_ratio}
  options |= {"momentum": momentum, "impl": impl, "rngs": rngs}
  stages = [
    Stage(_blocks(below, dim, rates, **options), remat=remat)
    for below, dim, rates in zip((stem, *dims), dims, transformer.rates(drop, depths))
  ]
  top = _Top(dims[-1], rngs=rngs)
  head = nnx.Linear(dims[-1], classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(first, Stages(stages), head, norm=top)


def _blocks(below, dim, rates, **options) -> list[Block]:
  return [
    Block(dim if i else below, dim, stride=1 if i else 2, drop=rate, **options)
    for i, rate in enumerate(rates)
  ]


class _Stem(nnx.Module):
  """Convolution of stride 2, norm, GELU, convolution."""

  init_stats = running.init_stats

  def __init__(self, channels: int, dim: int, momentum: float, *, rngs: nnx.Rngs):
    def convolution(below, stride):
      given = {"padding": "SAME", "kernel_init": _INIT, "rngs": rngs}
      return nnx.Conv(below, dim, (3, 3), strides=stride, **given)

    self.first, self.second = convolution(channels, 2), convolution(dim, 1)
    self.norm = norm(dim, momentum)

  def __call__(self, images, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    x = jax.nn.gelu(carry(self.norm, self.first(images)))
    return carry.result(self.second(x))


class _Top(nnx.Module):
  """A norm, then a linear map and tanh."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.norm = transformer.layer_norm(dim, rngs=rngs)
    self.linear = nnx.Linear(dim, dim, kernel_init=_INIT, rngs=rngs)

  def __call__(self, y):
    return jnp.tanh(self.linear(self.norm(y)))
