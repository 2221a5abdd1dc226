"""The paper's network: four stages of blocks that take turns."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.nn import drop_path, transformer
from attnjax.nn.backbone import Classifier
from attnjax.nn.depthwise import Depthwise
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.variants.local.davit.layer import Layer

_INIT = nnx.initializers.truncated_normal(0.02)
# Table 1 of the paper: depths count pairs of blocks. The published numbers of
# parameters of "huge" and "giant" are with overlapping convolutions; their windows are
# not known, and those of "large" are taken. For images of 28 x 28 there is "mini",
# which is invented: 14 x 14 tokens in windows of 7 x 7, then 7 x 7 in one.
SIZES: dict[str, dict[str, Any]] = {
  "tiny": {"dims": (96, 192, 384, 768), "depths": (1, 1, 3, 1)},
  "small": {"dims": (96, 192, 384, 768), "depths": (1, 1, 9, 1)},
  "base": {
    "dims": (128, 256, 512, 1024),
    "depths": (1, 1, 9, 1),
    "heads": (4, 8, 16, 32),
  },
  "large": {
    "dims": (192, 384, 768, 1536),
    "depths": (1, 1, 9, 1),
    "heads": (6, 12, 24, 48),
    "window": 12,
  },
  "huge": {
    "dims": (256, 512, 1024, 2048),
    "depths": (1, 1, 9, 1),
    "heads": (8, 16, 32, 64),
    "window": 12,
    "overlap": True,
  },
  "giant": {
    "dims": (384, 768, 1536, 3072),
    "depths": (1, 1, 12, 3),
    "heads": (12, 24, 48, 96),
    "window": 12,
    "overlap": True,
  },
  "mini": {"dims": (32, 64), "depths": (1, 1), "heads": (2, 4), "stride": 2},
}
PARAMETERS = {
  "tiny": 28360168,
  "small": 49745896,
  "base": 87954408,
  "large": 196811752,
  "huge": 362e6,
  "giant": 1437e6,
}


class Block(nnx.Module):
  """Attention of one kind and an MLP, each after a convolution for positions.

    x = x + convolve(x);  x = x + attend(norm x);
    x = x + convolve(x);  x = x + mlp(norm x)

  Args:
    dim: D.
    kind: "window" or "channel".
    hidden: width of the MLP.
    drop: the share of examples whose residual is left out in training.
    rngs: for the parameters.
    options: more of `Layer`.
  """

  def __init__(
    self,
    dim: int,
    *,
    kind: str,
    hidden: int,
    drop: float = 0.0,
    rngs: nnx.Rngs,
    **options,
  ):
    self.positions = nnx.List(Depthwise(dim, 3, rngs=rngs) for _ in range(2))
    self.norms = nnx.List(transformer.layer_norm(dim, rngs=rngs) for _ in range(2))
    self.mix = Layer(dim, form="image", kind=kind, rngs=rngs, **options)
    self.feed = transformer.Feed(dim, hidden, rngs=rngs)
    self.drop = drop

  def __call__(
    self,
    x: Float[Array, "B H W D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B H W D"]:
    """Returns the block's output; `key` turns the dropping of residuals on."""
    del index  # the kind is given
    first, second = (None, None) if key is None else jax.random.split(key)
    x = x + self.positions[0](x)
    x = x + drop_path.drop(self.mix(self.norms[0](x)), self.drop, first)
    x = x + self.positions[1](x)
    return x + drop_path.drop(self.feed(self.norms[1](x)), self.drop, second)

  def weights(
    self, x: Float[Array, "B H W D"], *, index: int = 0, stats: Any = ()
  ) -> list[Array]:
    """Returns the weights (B, N, T, T) of windows; none of tokens between channels."""
    del index, stats
    if self.mix.kind == "channel":
      return []
    return [self.mix.weights(self.norms[0](x + self.positions[0](x)))]


def Model(
  channels: int,
  classes: int,
  *,
  dims: tuple[int, ...] = (96, 192, 384, 768),
  depths: tuple[int, ...] = (1, 1, 3, 1),
  heads: tuple[int, ...] = (3, 6, 12, 24),
  window: int = 7,
  stride: int = 4,
  overlap: bool = False,
  mlp_ratio: float = 4.0,
  drop: float = 0.1,
  scale_by: str = "channels",
  mask_padding: bool = False,
  qkv_bias: bool = True,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  An overlapping convolution and a norm; before each later stage a norm and a
  convolution of 2 x 2 and stride 2, or of 3 x 3. Maps that a stride does not divide are
  padded with zeros at the right and bottom.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    depths  of each stage, in pairs of a window block and a channel block
    window  side of the windows
    stride  of the first convolution, whose side is 2 stride - 1
    overlap  whether the later convolutions overlap, too: their side is then 3
    scale_by, mask_padding, qkv_bias  as in `Layer`
  """
  one_a_stage(dims=dims, depths=depths, heads=heads)
  strides = (stride, *(2 for _ in dims[1:]))
  merges = [
    _Merge(below, dim, step, first=not stage, overlap=overlap, rngs=rngs)
    for stage, (below, dim, step) in enumerate(zip((channels, *dims), dims, strides))
  ]
  given = dict(scale_by=scale_by, mask_padding=mask_padding, qkv_bias=qkv_bias)
  given |= dict(window=window, impl=impl, rngs=rngs)
  rates = transformer.rates(drop, tuple(2 * depth for depth in depths))
  stages = [
    Stage(_blocks(dim, int(mlp_ratio * dim), own, heads=count, **given), remat=remat)
    for dim, count, own in zip(dims, heads, rates)
  ]
  norm = transformer.layer_norm(dims[-1], rngs=rngs)
  head = nnx.Linear(dims[-1], classes, kernel_init=_INIT, rngs=rngs)
  return Classifier(None, Stages(stages, merges=merges), head, norm=norm)


def _blocks(dim, hidden, rates, **options) -> list[Block]:
  return [
    Block(dim, kind=("window", "channel")[i % 2], hidden=hidden, drop=rate, **options)
    for i, rate in enumerate(rates)
  ]


class _Merge(nnx.Module):
  """Between stages a norm and patches of 2 x 2; first overlapping ones, then a norm."""

  def __init__(self, below, dim, stride, *, first, overlap, rngs):
    size, pad = (2 * stride - 1, stride - 1) if first or overlap else (stride, 0)
    self.project = nnx.Conv(
      below,
      dim,
      (size, size),
      strides=stride,
      padding=((pad, pad),) * 2,
      kernel_init=_INIT,
      rngs=rngs,
    )
    self.norm = transformer.layer_norm(dim if first else below, rngs=rngs)
    self.first, self.stride = first, stride

  def __call__(self, x):
    x = x if self.first else self.norm(x)
    around = [(0, -n % self.stride) for n in x.shape[1:3]]
    x = self.project(jnp.pad(x, ((0, 0), *around, (0, 0))))
    return self.norm(x) if self.first else x
