"""The Terminator: blocks at one resolution, without attention or residuals."""

from collections.abc import Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.variants.mixers.hyperzzw.blocks import SFNEBlock
from attnjax.variants.mixers.hyperzzw.standardise import Pool, Statistics, of_batch


class Terminator(nnx.Module):
  """The network from images (B, S, S, C) to logits (B, classes) and slow kernels.

  Block i multiplies the channels by factors[i]. Beside its input it sees the outputs
  of extras[i] earlier blocks: i - 2, and i - 3.

  Args:
    channels: number of the images' channels.
    classes: number of classes.
    size: S, pixels a side.
    factors: the growth of the channels in each block.
    slow_depths: hidden layers of each block's global slow net.
    extras: number of earlier outputs that each block sees.
    dropout: share of channels that each block drops.
    rngs: for the parameters.
    options: as in `MultiBranch`, for all blocks.
  """

  def __init__(
    self,
    *,
    channels: int = 3,
    classes: int,
    size: int,
    factors: Sequence[int] = (4, 3, 2, 2, 2),
    slow_depths: Sequence[int] = (3, 2, 2, 2, 2),
    extras: Sequence[int] = (0, 0, 1, 1, 2),
    dropout: Sequence[float] = (0.0, 0.05, 0.05, 0.05, 0.05),
    rngs: nnx.Rngs,
    **options,
  ):
    lengths = {len(x) for x in (factors, slow_depths, extras, dropout)}
    if len(lengths) > 1:
      raise ValueError(
        f"factors {factors}, slow_depths {slow_depths}, extras {extras}, dropout"
        f" {dropout} must have one entry for each block"
      )
    for i, extra in enumerate(extras):
      if not 0 <= extra <= min(2, max(i - 1, 0)):
        raise ValueError(f"extras[{i}] = {extra}: there are no such earlier blocks")
    self.blocks = nnx.List([])
    for factor, depth, extra, drop in zip(factors, slow_depths, extras, dropout):
      self.blocks.append(
        SFNEBlock(
          channels,
          factor * channels,
          size=size,
          slow_depth=depth,
          extras=extra,
          dropout=drop,
          rngs=rngs,
          **options,
        )
      )
      channels *= factor
    self.head = nnx.Linear(channels, classes, rngs=rngs)
    self.extras = tuple(extras)

  def __call__(
    self,
    images: Float[Array, "B S S C"],
    *,
    key: Key[Array, ""] | None = None,
    pool: Pool = of_batch,
  ) -> tuple[Float[Array, "B classes"], list[Array]]:
    """Returns (logits, kernels (S, S, C_i)); a key turns dropout on.

    `pool` may be a `Statistics`.
    """
    maps, kernels = self.features(images, key=key, pool=pool)
    return self.logits(maps), kernels

  def logits(self, maps: Sequence[Float[Array, "B S S _"]]) -> Array:
    """Returns the logits (B, classes) of what `features` found."""
    return self.head(maps[-1].mean(axis=(1, 2)))

  def features(
    self,
    images: Float[Array, "B S S C"],
    *,
    key: Key[Array, ""] | None = None,
    pool: Pool = of_batch,
  ) -> tuple[list[Array], list[Array]]:
    """Returns the output map of each block, and each block's slow kernel."""
    x, maps, kernels = images, [], []
    for i, (block, extra) in enumerate(zip(self.blocks, self.extras)):
      earlier = [maps[i - 2 - n] for n in range(extra)]
      own = None if key is None else jax.random.fold_in(key, i)
      x, kernel = block(x, earlier, pool, own)
      maps.append(x)
      kernels.append(kernel)
    return maps, kernels

  def statistics(self, images: Float[Array, "B S S C"]) -> list[Array]:
    """Returns the batch statistics, for `pool=Statistics(held)` with other images."""
    pool = Statistics()
    self.features(images, pool=pool)
    return pool.seen
