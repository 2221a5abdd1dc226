"""CrossFormer and CrossFormer++, the papers' models."""

import dataclasses
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.core.softmax import wide
from attnjax.nn.depthwise import Depthwise
from attnjax.nn.transformer import Block, keys, layer_norm, rates
from attnjax.variants.local.crossformer.embedding import CrossScale
from attnjax.variants.local.crossformer.layer import Layer

STEM, MERGE = (4, 8, 16, 32), (2, 4)  # sizes of patches
COOLING = 3  # blocks from one cooling layer to the next
_INIT = nnx.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class Size:
  """One of the published sizes.

  Attributes:
    dim: width of the first stage, which doubles from stage to stage.
    depths: number of blocks of each stage.
    heads: of each stage.
    drop: share of dropped paths in the last block.
    groups: of each stage.
    intervals: of each stage; 0 where a group spans the image.
    cooling: whether there are amplitude cooling layers.
  """

  dim: int
  depths: tuple[int, ...]
  heads: tuple[int, ...]
  drop: float
  groups: tuple[int, ...] = (7, 7, 7, 7)
  intervals: tuple[int, ...] = (0, 0, 0, 0)
  cooling: bool = False


def _plus(dim, depths, heads, drop) -> Size:
  return Size(dim, depths, heads, drop, (4, 4, 14, 7), (4, 2, 1, 1), True)


SIZES = {
  "T": Size(64, (1, 1, 8, 6), (2, 4, 8, 16), 0.1),
  "S": Size(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
  "B": Size(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
  "L": Size(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
  "S++": _plus(64, (2, 2, 18, 2), (2, 4, 8, 16), 0.2),
  "B++": _plus(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
  "L++": _plus(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
  "H++": _plus(128, (6, 6, 18, 2), (4, 8, 16, 32), 0.5),
}


class Model(nnx.Module):
  """images (B, H, W, C) of any size -> logits (B, classes).

  Four stages, each behind a cross-scale embedding, in whose blocks short and long
  distances take turns.

  Args:
    channels: C.
    classes: number of logits.
    size: what to build, for instance SIZES["S"].
    mlp_ratio: hidden width of the MLPs, in the stage's width.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    channels: int,
    classes: int,
    *,
    size: Size = SIZES["S"],
    mlp_ratio: float = 4.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    stages = {len(x) for x in (size.depths, size.heads, size.groups, size.intervals)}
    if len(stages) > 1:
      raise ValueError(f"{size}: all but dim and drop need one entry a stage")
    self.embeddings, self.stages = nnx.List([]), nnx.List([])
    self.coolings = nnx.List([])
    for stage, drops in enumerate(rates(size.drop, size.depths)):
      dim = size.dim * 2**stage
      embed = (dim // 2, dim, MERGE) if stage else (channels, dim, STEM)
      self.embeddings.append(CrossScale(*embed, first=stage > 0, rngs=rngs))
      mixer = partial(
        Layer,
        dim,
        heads=size.heads[stage],
        group=size.groups[stage],
        interval=size.intervals[stage],
        impl=impl,
      )
      hidden = int(mlp_ratio * dim)
      self.stages.append(
        nnx.List(Block(dim, mixer, hidden=hidden, drop=d, rngs=rngs) for d in drops)
      )
      count = (len(drops) - 1) // COOLING if size.cooling else 0
      self.coolings.append(nnx.List(_Cooling(dim, rngs=rngs) for _ in range(count)))
    self.norm = layer_norm(dim, rngs=rngs)
    self.head = nnx.Linear(dim, classes, kernel_init=_INIT, rngs=rngs)

  def __call__(
    self, images: Float[Array, "B H W C"], *, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B classes"]:
    """Logits of the classes; `key` turns the dropping of paths on."""
    pooled = self.features(images, key=key)[-1].mean(axis=(1, 2))
    logits = self.head(pooled)
    return logits.astype(wide(logits))

  def features(
    self, images: Float[Array, "B H W C"], *, key: Key[Array, ""] | None = None
  ) -> list[Array]:
    """The map (B, h, w, D) of every stage, for dense tasks; the last is normalised."""
    x, found = images, []
    for stage, blocks in enumerate(self.stages):
      x = self.embeddings[stage](x)
      own = None if key is None else jax.random.fold_in(key, stage)
      coolings = self.coolings[stage]
      for number, (block, part) in enumerate(zip(blocks, keys(own, len(blocks)))):
        x = block(x, index=number, key=part)
        done = number + 1
        if done % COOLING == 0 and done // COOLING <= len(coolings):
          x = coolings[done // COOLING - 1](x)
      found.append(x)
    return [*found[:-1], self.norm(found[-1])]


class _Cooling(nnx.Module):
  """The amplitude cooling layer: a depthwise convolution and a norm, no residual."""

  def __init__(self, dim, *, rngs):
    self.convolution = Depthwise(dim, 3, rngs=rngs)
    self.norm = layer_norm(dim, rngs=rngs)

  def __call__(self, x):
    return self.norm(self.convolution(x))
