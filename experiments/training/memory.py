"""Segment memory in training: batches go on where the ones before ended.

  --config.memory=256     every layer also sees its last 256 inputs of earlier batches

Row r of each batch continues row r of the batch before, see `pipeline`. What the model
remembers is a part of the train state, so that a run resumes bit for bit. Row r forgets
where its stream begins anew, which BEGINS of a batch says. No gradient goes into a
memory.

Zihang Dai et al. Transformer-XL. 2019. arXiv:1901.02860, section 3.2.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool

from attnjax.nn.segment_memory import SegmentMemory
from experiments.data.pipeline import BEGINS

__all__ = ["BEGINS", "begun", "empty", "fresh", "parts", "placed", "whole"]

_BATCH = 1  # the axis of the rows; the first one is of the layers


def empty(model: Any, batch: int, length: int, dtype: Any) -> Any:
  """Returns the memory before the first batch; `()` for length 0.

  Raises:
    ValueError: if the model has no memory.
  """
  if not length:
    return ()
  if not hasattr(model, "init_memory"):
    raise ValueError(f"memory = {length}: {type(model).__module__} has no memory")
  return model.init_memory(batch, length, jnp.dtype(dtype))


def begun(memory: Any, begins: Bool[Array, "B"]) -> Any:
  """Returns the memory with nothing in the rows where a stream begins."""

  def one(held):
    rows = begins[None, :, None]
    return SegmentMemory(
      jnp.where(rows[..., None], 0, held.x).astype(held.x.dtype),
      jnp.where(rows, -1, held.segment_ids),
    )

  return jax.tree.map(one, memory, is_leaf=lambda x: isinstance(x, SegmentMemory))


def fresh(memory: Any) -> Any:
  """Returns the memory before the first batch, of the same shapes."""
  rows = [leaf.shape[_BATCH] for leaf in jax.tree.leaves(memory)]
  return begun(memory, jnp.ones(rows[:1], bool)) if rows else memory


def placed(shapes: Any, mesh: Mesh) -> Any:
  """Returns the shardings of a memory: its rows are divided as those of a batch."""
  place = NamedSharding(mesh, P(*(None,) * _BATCH, "data"))
  return jax.tree.map(lambda _: place, shapes)


def parts(memory: Any, number: int) -> Any:
  """Returns the memory of each part of a batch, on a first axis."""

  def cut(leaf):
    shape = leaf.shape[0], number, leaf.shape[_BATCH] // number, *leaf.shape[2:]
    return jnp.moveaxis(leaf.reshape(shape), 1, 0)

  return jax.tree.map(cut, memory)


def whole(memory: Any) -> Any:
  """Returns the memory of a batch from those of its parts."""

  def join(leaf):
    leaf = jnp.moveaxis(leaf, 0, 1)
    return leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:])

  return jax.tree.map(join, memory)
