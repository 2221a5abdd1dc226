"""The classifier of images around stages of blocks, see `attnjax.nn.stages`."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract.trace import Edit, Edits, Trace
from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import running
from attnjax.nn.class_token import map_of, rows_of


class Classifier(nnx.Module):
  """images (B, H, W, C) of any size -> logits (B, classes), float32 or wider.

    maps = stages(stem(images));  logits = head(norm(pool(maps[-1])))

  Args:
    stem: images to the first map; None if the first merge takes images.
    stages: `Stages`, or what is called alike.
    head: (B, D) to (B, classes).
    pool: pool(map (B, h, w, D), *, key) -> (B, D); the mean over the map if None. Where
      the last map has a class token, see `attnjax.nn.class_token`, it takes that.
    norm: of what is pooled; None if there is none.
  """

  init_stats = running.init_stats

  def __init__(
    self, stem: Any, stages: Any, head: Any, *, pool: Any = None, norm: Any = None
  ):
    self.stem, self.stages, self.head = stem, stages, head
    self.pool, self.norm = pool, norm

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns logits of the classes, and new statistics if some are given.

    Args:
      images: of any size.
      key: turns on what is dropped in training: paths, units.
      stats: running statistics, where there is batch norm.
      train: whether batch norm measures the batch.
    """
    carry = running.Carry(self, stats, train)
    maps = carry(self.stages, self._embedded(carry, images), key=key)
    return carry.result(self._classified(carry, maps, key))

  def features(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the map (B, h, w, D) of every stage for dense tasks, the finest first.

    It also returns new statistics if some are given. Arguments are as in `__call__`.
    """
    carry = running.Carry(self, stats, train)
    x = self._embedded(carry, images)
    maps = carry(self.stages, x, key=key)
    return carry.result([map_of(y) for y in maps])

  def weights(
    self, images: Float[Array, "B H W C"], *, stats: Any = None
  ) -> list[Array]:
    """Returns the weights (B, N, T, S) of all attentions, the first block's first."""
    carry = running.Carry(self, stats, False)
    x, own = self._embedded(carry, images), carry.of(self.stages)
    found = self.stages.weights(x, stats=own)
    if hasattr(self.pool, "weights"):
      found += self.pool.weights(carry(self.stages, x)[-1])
    return found

  def trace(
    self,
    images: Float[Array, "B H W C"],
    *,
    edit: Edit | Edits | None = None,
    stats: Any = None,
  ) -> Trace:
    """Returns the intermediate values of the network, its logits as `output`."""
    carry = running.Carry(self, stats, False)
    x, own = self._embedded(carry, images), carry.of(self.stages)
    found = self.stages.trace(x, edit=edit, stats=own)
    logits = self._classified(carry, found.output, None)
    hidden = tuple(rows_of(x) for x in found.hidden)
    return dataclasses.replace(found, hidden=hidden, output=logits)

  def _embedded(self, carry, images):
    return images if self.stem is None else carry(self.stem, images)

  def _classified(self, carry, maps, key):
    if self.pool is None:
      y = maps[-1].mean(axis=(1, 2))
    else:
      own = None if key is None else jax.random.fold_in(key, len(maps))
      y = carry(self.pool, maps[-1], key=own)
    logits = self.head(y if self.norm is None else self.norm(y))
    return logits.astype(accumulator_dtype(logits))
