"""Stages of blocks for images: the loops of hierarchical models.

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

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import check_known
from attnjax.contract.trace import Edit, Edits, Trace
from attnjax.nn import running
from attnjax.nn.remat import REMAT, checkpointed
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
    x: Float[Array, "B *S C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
    **context,
  ) -> Any:
    """Returns the last block's map (B, *s, D), and new statistics if some are given.

    Every block gets its own part of `key`, and all of them `context`.
    """
    carry = running.Carry(self, stats, train)
    for number, (block, own) in enumerate(
      zip(self.sequence, keys(key, len(self.sequence)))
    ):
      run = functools.partial(running.apply, index=number, train=train, **context)
      run = checkpointed(run, self.remat)
      x, new = run(block, x, key=own, stats=carry.of(block))
      carry.keep(block, new)
    return carry.result(x)

  def weights(
    self, x: Float[Array, "B *S C"], *, stats: Any = None, **context
  ) -> list[Array]:
    """Returns the weights (B, N, T, S) of the attentions of every block."""
    carry, found = running.Carry(self, stats, False), []
    for number, block in enumerate(self.sequence):
      own = carry.of(block)
      if hasattr(block, "weights"):
        found += block.weights(x, index=number, stats=own, **context)
      x = carry(block, x, index=number, **context)
    return found

  def trace(
    self,
    x: Float[Array, "B *S C"],
    *,
    edit: Edit | Edits | None = None,
    stats: Any = None,
    first: int = 0,
    **context,
  ) -> Trace:
    """Returns the maps between the blocks; what attends inside them shows no heads.

    Raises:
      NotImplementedError: for an `edit`.
    """
    if edit is not None:
      raise NotImplementedError(
        f"edit: blocks {first}, ... have attentions of their own"
      )
    carry, hidden = running.Carry(self, stats, False), [x]
    for number, block in enumerate(self.sequence):
      hidden.append(carry(block, hidden[-1], index=number, **context))
    nothing = (None,) * len(self.sequence)
    return Trace(tuple(hidden), nothing, nothing, hidden[-1], nothing, nothing)


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

  def trace(
    self,
    x: Float[Array, "B H W C"],
    *,
    edit: Edit | Edits | None = None,
    stats: Any = None,
  ) -> Trace:
    """Returns the traces of all stages; the output are the stages' maps."""
    carry, whole, found = running.Carry(self, stats, False), Trace(), []
    for number, stage in enumerate(self.stages):
      x = self._merged(carry, number, x)
      own = {"stats": carry.of(stage), "first": len(whole.heads)}
      whole = whole + stage.trace(x, edit=edit, **own)
      x, norm = whole.output, self.norms[number]
      found.append(x if norm is None else carry(norm, x))
    return dataclasses.replace(whole, output=found)

  def _merged(self, carry, number, x):
    merge = self.merges[number]
    return x if merge is None else carry(merge, x)


def one_a_stage(**options: Sequence[Any]) -> None:
  """Raises ValueError unless all of these have as many entries."""
  if len({len(values) for values in options.values()}) > 1:
    given = ", ".join(f"{n} = {tuple(values)}" for n, values in options.items())
    raise ValueError(f"{given}: one entry a stage")
