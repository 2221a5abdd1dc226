"""Sources whose examples are made, not read."""

import dataclasses
from collections.abc import Callable

import numpy as np

from experiments.data.task import SPLITS, Task, check_least, check_split, in_range

Example = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Generated:
  """A source whose example i is a pure function of (seed, split, i).

  Attributes:
    make: random generator -> example.
    seed: the seed of the whole data set.
    split: one of SPLITS.
    size: number of examples.
  """

  make: Callable[[np.random.Generator], Example]
  seed: int
  split: str
  size: int

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: int) -> Example:
    index = in_range(index, self.size)
    return self.make(
      np.random.default_rng([self.seed, SPLITS.index(self.split), index])
    )


def task(
  name: str,
  make: Callable[[np.random.Generator], Example],
  *,
  vocab: int,
  length: int,
  examples: int,
  held_out: int,
  seed: int,
) -> Task:
  """Returns a task of generated tokens (length,), measured by its accuracy."""
  check_least(examples=(examples, 1), held_out=(held_out, 1), seed=(seed, 0))

  def source(split: str) -> Generated:
    size = examples if check_split(split) == "train" else held_out
    return Generated(make, seed, split, size)

  return Task(
    name, "tokens", vocab, 0, (length,), "accuracy", source, unit="tokens", units=length
  )
