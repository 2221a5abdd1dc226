"""The paper's networks: bottlenecks whose middle is halo attention."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnjax import contract
from attnjax.contract import check_known
from attnjax.nn import running
from attnjax.nn.backbone import Classifier
from attnjax.nn.norms import BatchNorm
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.variants.local.halo.layer import Layer

WIDTHS, HEADS = (64, 128, 256, 512), (4, 8, 8, 8)
# The stem's pooling pads as the code that is followed does; TensorFlow's "same" pads an
# even side at its end only.
POOLS = {"pixel": ((1, 1), (1, 1)), "same": "SAME", "none": None}


def _size(block, halo, values, width, third, last) -> dict[str, Any]:
  return {
    "block": block,
    "halo": halo,
    "value_ratio": values,
    "bottleneck_ratio": width,
    "depths": (3, 3, third, 3),
    "last": last,
  }


# Tables 2 and 3 of the paper: b, h, r_v, r_b, blocks of the third stage, d_f. For
# images of 28 x 28 there is "mini", which is invented: 14 x 14, then 7 x 7 tokens.
SIZES = {
  "h0": _size(8, 3, 1.0, 0.5, 7, 0),
  "h1": _size(8, 3, 1.0, 1.0, 10, 0),
  "h2": _size(8, 3, 1.0, 1.25, 11, 0),
  "h3": _size(10, 3, 1.0, 1.5, 12, 1024),
  "h4": _size(12, 2, 1.0, 3.0, 12, 1280),
  "h5": _size(14, 2, 2.5, 2.0, 23, 1536),
  "h6": _size(8, 4, 3.0, 2.75, 24, 1536),
  "h7": _size(10, 3, 4.0, 3.5, 26, 2048),
  "mini": {
    "block": 4,
    "halo": 2,
    "widths": (32, 64),
    "depths": (1, 2),
    "heads": (2, 4),
    "stem_pool": "none",
  },
}
_MILLIONS = (5.5, 8.1, 9.4, 11.8, 19.1, 30.7, 43.4, 67.0)
PARAMETERS = {f"h{number}": 1e6 * count for number, count in enumerate(_MILLIONS)}


class Bottleneck(nnx.Module):
  """shortcut(x) + 1 x 1, halo attention, 1 x 1; with batch norms and SiLU.

  Args:
    below: channels of x.
    width: D of the attention.
    dim: channels of the result.
    stride: 2 halves the map.
    rngs: for the parameters.
    options: more of `Layer`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    below: int,
    width: int,
    dim: int,
    *,
    stride: int = 1,
    rngs: nnx.Rngs,
    **options,
  ):
    self.first = _Projection(below, width, rngs=rngs)
    self.mix = Layer(width, stride=stride, rngs=rngs, **options)
    values = int(width * options.get("value_ratio", 1.0))
    self.norm = BatchNorm(values)
    self.last = _Projection(values, dim, rngs=rngs)
    same = stride == 1 and below == dim
    self.shortcut = None if same else _Projection(below, dim, rngs=rngs)
    self.stride = stride

  def __call__(
    self,
    x: Float[Array, "B R C D"],
    *,
    index: int = 0,
    key: Any = None,
    stats: Any = None,
    train: bool = False,
  ) -> tuple[Float[Array, "B r c E"], Any]:
    """Returns (the block's output, new statistics)."""
    del index, key  # equal at every depth, and nothing is dropped
    carry = running.Carry(self, stats, train)
    y = self.mix(jax.nn.silu(carry(self.first, x)))
    y = carry(self.last, jax.nn.silu(carry(self.norm, y)))
    if self.shortcut is not None:
      x = carry(self.shortcut, x[:, :: self.stride, :: self.stride])
    return carry.result(jax.nn.silu(x + y))

  def weights(
    self, x: Float[Array, "B R C D"], *, index: int = 0, stats: Any = None
  ) -> list[Array]:
    """Returns the weights (B, N, T, S); stride 2 has every second query on an axis."""
    del index
    y = running.Carry(self, stats, False)(self.first, x)
    return [contract.weights(self.mix, jax.nn.silu(y))]


def Model(
  channels: int,
  classes: int,
  *,
  block: int = 8,
  halo: int = 3,
  value_ratio: float = 1.0,
  bottleneck_ratio: float = 1.0,
  widths: tuple[int, ...] = WIDTHS,
  depths: tuple[int, ...] = (3, 3, 10, 3),
  heads: tuple[int, ...] = HEADS,
  last: int = 0,
  stem_pool: str = "pixel",
  pool: bool = False,
  positional: bool = True,
  scale_positions: bool = False,
  true_offsets: bool = False,
  mask_padding: bool = False,
  qkv_bias: bool = False,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  A convolution of 7 x 7 and stride 2, the greatest of 3 x 3 with stride 2, then stages
  of bottlenecks, each after the first one beginning with stride 2.

  Beside the hyper-parameters of all networks, `attnjax.contract.forms.backbone`:

    value_ratio       width of the values, in the bottleneck's (the paper's r_v)
    bottleneck_ratio  width of a stage's maps, in that of its bottlenecks (r_b)
    widths            of the bottlenecks of each stage
    last              channels of a last projection; none if 0
    stem_pool         the stem's greatest of 3 x 3, padded by a "pixel" on every side as
                      in timm, or as TensorFlow's "same"; or "none"
    block, halo, pool, ..., qkv_bias  as in `Layer`
  """
  one_a_stage(widths=widths, depths=depths, heads=heads)
  stem, stages, below = _Stem(channels, widths[0], stem_pool, rngs=rngs), [], widths[0]
  options = dict(block=block, halo=halo, value_ratio=value_ratio, pool=pool, impl=impl)
  options |= dict(positional=positional, mask_padding=mask_padding, qkv_bias=qkv_bias)
  options |= dict(scale_positions=scale_positions, true_offsets=true_offsets, rngs=rngs)
  for stage, (width, depth, count) in enumerate(zip(widths, depths, heads)):
    dims = [below, *[int(width * bottleneck_ratio)] * depth]
    stages.append(Stage(_blocks(width, dims, count, stage > 0, options), remat=remat))
    below = dims[-1]
  top = _Last(below, last, rngs=rngs) if last else None
  head = nnx.Linear(last or below, classes, rngs=rngs)
  return Classifier(stem, Stages(stages), head, pool=top)


def _blocks(width, dims, heads, smaller: bool, options) -> list[Bottleneck]:
  strides = (2 if smaller and not number else 1 for number in range(len(dims) - 1))
  size = {"heads": heads, "head_dim": width // heads}
  return [
    Bottleneck(below, width, dim, stride=stride, **size, **options)
    for below, dim, stride in zip(dims, dims[1:], strides)
  ]


class _Stem(nnx.Module):
  """A convolution of 7 x 7 with stride 2, a norm, SiLU; perhaps a pooling."""

  init_stats = running.init_stats

  def __init__(self, channels: int, dim: int, pool: str, *, rngs: nnx.Rngs):
    check_known("stem_pool", pool, POOLS)
    around = ((3, 3), (3, 3))
    self.convolution = nnx.Conv(
      channels, dim, (7, 7), 2, padding=around, use_bias=False, rngs=rngs
    )
    self.norm, self.padding = BatchNorm(dim), POOLS[pool]

  def __call__(self, images, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    x = jax.nn.silu(carry(self.norm, self.convolution(images)))
    if self.padding is not None:
      x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=self.padding)
    return carry.result(x)


class _Last(nnx.Module):
  """A projection of the last map, SiLU, and the mean over the map."""

  init_stats = running.init_stats

  def __init__(self, below: int, dim: int, *, rngs: nnx.Rngs):
    self.project = _Projection(below, dim, rngs=rngs)

  def __call__(self, x, *, key=None, stats=None, train=False):
    del key  # nothing is dropped
    carry = running.Carry(self, stats, train)
    return carry.result(jax.nn.silu(carry(self.project, x)).mean(axis=(1, 2)))


class _Projection(nnx.Module):
  """Each pixel's channels, then a batch norm."""

  def __init__(self, below, dim, *, rngs):
    self.linear = nnx.Linear(below, dim, use_bias=False, rngs=rngs)
    self.norm = BatchNorm(dim)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    return carry.result(carry(self.norm, self.linear(x)))
