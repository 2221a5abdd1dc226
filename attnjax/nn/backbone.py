"""Networks of stages for images: the loops over stages and blocks, and a classifier.

A hierarchical model is built of parts that are called alike:

  block   block(x, *, index, key) -> y: maps (B, h, w, D), of which it may change the
          width and the resolution. `index` is its number in the stage, `key` turns the
          dropping of paths on. A block that attends has `weights(x, *, index, stats)`,
          the list of the weights (B, N, T, S) of its attentions.
  stage   stage(x, *, key) -> y and stage.weights(x, *, stats): `Stage`, whose blocks
          may differ, or `nn.stack.Stack`, which scans over equal ones
  merge   merge(x) -> y, before a stage: fewer and wider tokens

Parts with batch norm inside also take `stats` and `train` and return (y, new
statistics), see `attnjax.nn.running`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import check_known
from attnjax.core.softmax import wide
from attnjax.nn import running
from attnjax.nn.stack import REMAT
from attnjax.nn.transformer import keys


class Stage(nnx.Module):
  """Blocks of one stage, which run one after the other.

  Args:
    blocks: as in the module's docstring.
    remat: what `jax.checkpoint` keeps of each block, see `nn.stack.REMAT`.
  """

  init_stats = running.init_stats

  def __init__(self, blocks: Sequence[Any], *, remat: str = "none"):
    check_known("remat", remat, REMAT)
    # Not `blocks`: leaves below that name have an axis of blocks, see `sharding`.
    self.sequence = nnx.List(blocks)
    self.remat = remat

  def __call__(
    self,
    x: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the last block's map (B, h, w, D), and new statistics if some are given.

    Every block gets its own part of `key`.
    """
    carry = running.Carry(self, stats, train)
    for number, (block, own) in enumerate(
      zip(self.sequence, keys(key, len(self.sequence)))
    ):
      run = functools.partial(running.apply, index=number, train=train)
      run = checkpointed(run, self.remat)
      x, new = run(block, x, key=own, stats=carry.of(block))
      carry.keep(block, new)
    return carry.result(x)

  def weights(self, x: Float[Array, "B H W C"], *, stats: Any = None) -> list[Array]:
    """Returns the weights (B, N, T, S) of the attentions of every block."""
    carry, found = running.Carry(self, stats, False), []
    for number, block in enumerate(self.sequence):
      own = carry.of(block)
      if hasattr(block, "weights"):
        found += block.weights(x, index=number, stats=own)
      x = carry(block, x, index=number)
    return found


class Stages(nnx.Module):
  """Stages of blocks, each behind an optional merge: the loop of hierarchical models.

  Args:
    stages: `Stage` or `Stack` each.
    merges: one before each stage; None where there is none.
    norm: of the last stage's map.
    norms: of every stage's map instead, as it is given out: the next stage gets the map
      without it.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    stages: Sequence[Any],
    *,
    merges: Sequence[Any] = (),
    norm: Any = None,
    norms: Sequence[Any] = (),
  ):
    self.merges = nnx.List(merges or [None] * len(stages))
    self.stages = nnx.List(stages)
    self.norms = nnx.List(norms or [None] * (len(stages) - 1) + [norm])
    one_a_stage(stages=self.stages, merges=self.merges, norms=self.norms)

  def __call__(
    self,
    x: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the map (B, h, w, D) of every stage, and new statistics if given some."""
    carry, found = running.Carry(self, stats, train), []
    for number, stage in enumerate(self.stages):
      x = self._merged(carry, number, x)
      own = None if key is None else jax.random.fold_in(key, number)
      x, norm = carry(stage, x, key=own), self.norms[number]
      found.append(x if norm is None else carry(norm, x))
    return carry.result(found)

  def weights(self, x: Float[Array, "B H W C"], *, stats: Any = None) -> list[Array]:
    """Returns the weights (B, N, T, S) of all attentions of all stages."""
    carry, found = running.Carry(self, stats, False), []
    for number, stage in enumerate(self.stages):
      x = self._merged(carry, number, x)
      found += stage.weights(x, stats=carry.of(stage))
      x = carry(stage, x)
    return found

  def _merged(self, carry, number, x):
    merge = self.merges[number]
    return x if merge is None else carry(merge, x)


class Classifier(nnx.Module):
  """images (B, H, W, C) of any size -> logits (B, classes), float32 or wider.

    maps = stages(stem(images));  logits = head(norm(pool(maps[-1])))

  Args:
    stem: images to the first map; None if the first merge takes images.
    stages: `Stages`, or what is called alike.
    head: (B, D) to (B, classes).
    pool: pool(map (B, h, w, D), *, key) -> (B, D); the mean over the map if None.
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
    if self.pool is None:
      y = maps[-1].mean(axis=(1, 2))
    else:
      own = None if key is None else jax.random.fold_in(key, len(maps))
      y = carry(self.pool, maps[-1], key=own)
    logits = self.head(y if self.norm is None else self.norm(y))
    return carry.result(logits.astype(wide(logits)))

  def features(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the map (B, h, w, D) of every stage for dense tasks, the finest first.

    And new statistics if some are given; the arguments are those of a call.
    """
    carry = running.Carry(self, stats, train)
    x = self._embedded(carry, images)
    return carry.result(carry(self.stages, x, key=key))

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

  def _embedded(self, carry, images):
    return images if self.stem is None else carry(self.stem, images)


def checkpointed(function: Callable, remat: str) -> Callable:
  """Returns the function, or with `jax.checkpoint` by a policy of `nn.stack.REMAT`."""
  policy = REMAT[remat]
  return function if policy is None else jax.checkpoint(function, policy=policy)


def one_a_stage(**options: Sequence[Any]) -> None:
  """Raises ValueError unless all of these have as many entries."""
  if len({len(values) for values in options.values()}) > 1:
    given = ", ".join(f"{n} = {tuple(values)}" for n, values in options.items())
    raise ValueError(f"{given}: one entry a stage")
