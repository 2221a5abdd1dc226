"""The mean loss of the sums of rows and columns."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from attnjax.core import devices
from attnjax.core.contrastive.axes import Axes
from attnjax.core.contrastive.gradients import Data, Passes, differentiable, logarithm
from attnjax.core.contrastive.marks import Marks

_ROWS = P("batch")
_GIVEN = (_ROWS, _ROWS, P()), _ROWS


def mean_loss(
  q, items, scale, labels, groups, mask, *, symmetric: bool, passes: Passes, axes: Axes
):
  """Computes the loss by an implementation's passes.

  Args:
    q: (Nq, D).
    items: (Ni, D), of the type of q.
    scale: of q . items, ().
    labels: (Nq,) int32, numbers among all items, or negative; None is the own number.
    groups: (of queries, of items) int32, or None.
    mask: (Nq, all items) booleans, or None.
    symmetric: whether the columns' cross entropies are added.
    passes: of the implementation.
    axes: the mesh axes, inside `jax.shard_map`, over which rows are divided.
  """
  data, often, count = _data(q, items, labels, groups, mask, axes)
  arrays, data = devices.aligned(((q, items, scale), data), _GIVEN)
  sums = differentiable(axes.spread(passes), symmetric=symmetric)(arrays, data)
  some = data.queries.label >= 0
  terms = jnp.where(some, logarithm(sums.top, sums.total) - sums.positive, 0).sum()
  if symmetric:
    often = devices.aligned((arrays[1], often), (_ROWS, _ROWS))[1]
    columns = often * logarithm(sums.tops, sums.totals)
    columns = columns.sum() - jnp.where(some, sums.positive, 0).sum()
    terms = (terms + columns) / 2
  return axes.sum(terms) / jnp.maximum(axes.sum(count), 1)


def _data(q, items, labels, groups, mask, axes: Axes) -> tuple[Data, Any, Any]:
  """Returns (the passes' Data, how often each item is positive, positive pairs)."""
  (Nq, Ni), int32 = (q.shape[0], items.shape[0]), jnp.int32
  number = axes.first(Ni) + jnp.arange(Ni, dtype=int32)
  if labels is None:
    labels = axes.first(Nq) + jnp.arange(Nq, dtype=int32)
    often = (jnp.arange(Ni) < Nq).astype(int32)
    count = jnp.asarray(Nq)
  else:
    labels = jnp.where((labels >= 0) & (labels < axes.size * Ni), labels, -1)
    every = axes.gathered(_whole(labels)) - axes.first(Ni)
    inside = (every >= 0) & (every < Ni)
    often = jnp.zeros(Ni, int32).at[jnp.where(inside, every, Ni)].add(1, mode="drop")
    count = (labels >= 0).sum()
  queries, others = None, None
  if groups is not None:  # negative ids equal none of the other side
    queries, others = (
      jnp.maximum(groups[0], -1),
      jnp.where(groups[1] < 0, -2, groups[1]),
    )
  mask = None if mask is None else mask.astype(jnp.int8)
  return Data(Marks(labels, queries), Marks(number, others), mask), often, count


def _whole(x):
  """Returns an array that no explicit axis of a mesh divides."""
  divided = any(entry is not None for entry in jax.typeof(x).sharding.spec)
  return reshard(x, P()) if divided else x
