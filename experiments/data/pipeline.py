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

# The name of a batch's array that says in which rows a stream begins, bool (B,).
BEGINS = "begins"
# The arrays that ask for something; those of examples that only fill ask nothing.
_ASKED = ("label", "labels", "target")
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
  consecutive: bool = False,
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
    consecutive: nothing is shuffled; row r of each batch continues row r of the batch
      before, see `Streams`.

  Raises:
    ValueError: if the source is empty or `batch` has no equal shares.
  """
  share = _share(batch, process_index, process_count)
  if not len(source):
    raise ValueError("no examples to train on")
  if seed < 0:
    raise ValueError(f"seed = {seed}; it must be at least 0")
  if consecutive:
    examples = grain.MapDataset.source(Streams(source, batch, seed)).repeat()
  else:
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
  consecutive: bool = False,
) -> Iterable[dict[str, Any]]:
  """Returns one pass in order, in batches of one shape; it may be iterated again.

  The last batch is padded with examples whose labels are all -1, and maps to be hit
  NaN. Every process has the same number of batches.

  Args:
    source: the examples.
    batch: examples of all processes together.
    process_index: index of this process's share.
    process_count: number of shares.
    limit: number of batches; 0 is all.
    consecutive: row r has the r-th of `batch` equal parts of the source, in order, and
      `begins`, as `Streams` have.

  Raises:
    ValueError: if the source is empty, `batch` has no equal shares, or `limit` < 0.
  """
  share = _share(batch, process_index, process_count)
  if not len(source):
    raise ValueError("no examples to evaluate on")
  if limit < 0:
    raise ValueError(f"limit = {limit} batches; it must be at least 0, which is all")
  number = -(-len(source) // batch)
  rows = range(process_index * share, (process_index + 1) * share)
  if consecutive:
    rows, step = [number * row for row in rows], 1
    source = _Beginning(source)
  else:
    step = batch
  return _Pass(source, tuple(rows), step, min(limit or number, number))


@dataclasses.dataclass(frozen=True)
class Streams:
  """The examples of a source as `batch` streams, one for each row of a batch.

  Example n batch + r is that of row r of batch n: the source's example first + r L + n,
  counted round, where L = floor(length / batch) and `first` is drawn by the seed. Each
  stream thus goes through the whole source, and the same batches come again after
  `length` of them. `begins` is True in the source's first example, which continues
  none.
  """

  source: Source
  batch: int
  seed: int

  def __len__(self) -> int:
    return len(self.source) * self.batch

  def __getitem__(self, index: int) -> dict[str, Any]:
    (number, row), length = divmod(index, self.batch), len(self.source)
    first = int(np.random.default_rng(self.seed).integers(length))
    place = first + row * (length // self.batch) + number
    return _Beginning(self.source)[place % length]


@dataclasses.dataclass(frozen=True)
class _Beginning:
  """The examples of a source with `begins`: True in the first."""

  source: Source

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.source[index] | {BEGINS: np.bool_(index == 0)}


@dataclasses.dataclass(frozen=True)
class _Pass:
  source: Source
  first: tuple[int, ...]  # the examples of this process's rows in the first batch
  step: int  # from a row to that of the next batch
  number: int

  def __len__(self) -> int:
    return self.number

  def __iter__(self) -> Iterator[dict[str, Any]]:
    for i in range(self.number):
      rows = [self._row(first + i * self.step) for first in self.first]
      yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def _row(self, index: int) -> dict[str, Any]:
    if index < len(self.source):
      return self.source[index]
    row = self.source[len(self.source) - 1]
    return row | {name: _blank(row[name]) for name in _ASKED if name in row}


def _blank(asked: Any) -> np.ndarray:
  """Returns what stands for an array where nothing is asked."""
  return np.full_like(asked, np.nan if np.asarray(asked).dtype.kind == "f" else -1)


def _share(batch: int, process_index: int, process_count: int) -> int:
  if not 0 <= process_index < process_count:
    raise ValueError(f"process {process_index} of {process_count}")
  if batch < 1 or batch % process_count:
    raise ValueError(
      f"batch = {batch} does not divide by process_count = {process_count}"
    )
  return batch // process_count
