"""Batches for training and evaluation, with Grain.

Batches are dictionaries of NumPy arrays with the batch as their first axis. `batch` is
always the global size; each process gets its share of batch / process_count examples.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import grain
import numpy as np

from experiments.data.task import Source

# Threads prepare batches while the device computes; sources are cheap, so that a few
# batches ahead are enough.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


def training(
  source: Source,
  *,
  seed: int,
  batch: int,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.DatasetIterator:
  """Returns an endless iterator over batches, shuffled anew in each epoch.

  The n-th global batch holds the same examples whatever the number of processes is;
  the processes' shares are disjoint. `get_state()` is a small dictionary and
  `set_state()` resumes exactly; the iterator is a checkpointable of Orbax.

  Args:
    source: the examples.
    seed: the seed of the shuffling, >= 0.
    batch: examples of all processes together.
    process_index: index of this process's share.
    process_count: number of shares.

  Raises:
    ValueError: if the source is empty or `batch` has no equal shares.
  """
  share = _share(batch, process_index, process_count)
  if not len(source):
    raise ValueError("no examples to train on")
  if seed < 0:
    raise ValueError(f"seed = {seed}; it must be at least 0")
  examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
  batches = examples[process_index::process_count].batch(share)
  return iter(batches.to_iter_dataset(_READ))


def evaluation(
  source: Source,
  *,
  batch: int,
  process_index: int = 0,
  process_count: int = 1,
  limit: int = 0,
) -> Iterable[dict[str, Any]]:
  """Returns one pass in order, in batches of one shape; it may be iterated again.

  The last batch is padded with examples whose labels are all -1. Every process has
  the same number of batches.

  Args:
    source: the examples.
    batch: examples of all processes together.
    process_index: index of this process's share.
    process_count: number of shares.
    limit: number of batches; 0 is all.

  Raises:
    ValueError: if the source is empty, `batch` has no equal shares, or `limit` < 0.
  """
  share = _share(batch, process_index, process_count)
  if not len(source):
    raise ValueError("no examples to evaluate on")
  if limit < 0:
    raise ValueError(f"limit = {limit} batches; it must be at least 0, which is all")
  number = -(-len(source) // batch)
  return _Pass(
    source, batch, process_index * share, share, min(limit or number, number)
  )


@dataclasses.dataclass(frozen=True)
class _Pass:
  source: Source
  batch: int
  start: int  # the first of this process's rows in a global batch
  share: int
  number: int

  def __len__(self) -> int:
    return self.number

  def __iter__(self) -> Iterator[dict[str, Any]]:
    for i in range(self.number):
      first = i * self.batch + self.start
      rows = [self._row(j) for j in range(first, first + self.share)]
      yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def _row(self, index: int) -> dict[str, Any]:
    if index < len(self.source):
      return self.source[index]
    row = self.source[len(self.source) - 1]
    blank = {n: np.full_like(row[n], -1) for n in ("label", "labels") if n in row}
    return row | blank


def _share(batch: int, process_index: int, process_count: int) -> int:
  if not 0 <= process_index < process_count:
    raise ValueError(f"process {process_index} of {process_count}")
  if batch < 1 or batch % process_count:
    raise ValueError(
      f"batch = {batch} does not divide by process_count = {process_count}"
    )
  return batch // process_count
