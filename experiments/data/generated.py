"""Sources whose examples are made, not read."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from experiments.data.task import SPLITS, Task, check_least, check_split, in_range

Example = dict[str, np.ndarray]
Make = Callable[[np.random.Generator], Example]


@dataclasses.dataclass(frozen=True)
class Generated:
  """A source whose example i is a pure function of (seed, split, i).

  Attributes:
    make: random generator -> example.
    seed: the seed of the whole data set.
    split: one of SPLITS.
    size: number of examples.
  """

  make: Make
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
  make: Make | Mapping[str, Make],
  *,
  vocab: int,
  length: int,
  examples: int,
  held_out: int,
  seed: int,
) -> Task:
  """Returns a task of generated tokens (length,), measured by its accuracy.

  Args:
    name: the data set's name.
    make: random generator -> example; or one for each of SPLITS, by name.
    vocab: number of symbols of tokens and labels.
    length: T, tokens of an example.
    examples: number of examples of the split train.
    held_out: number of examples of each other split.
    seed: the seed of the whole data set.
  """
  source = source_of(make, examples, held_out, seed)
  return Task(
    name, "tokens", vocab, 0, (length,), "accuracy", source, unit="tokens", units=length
  )


def images(
  name: str,
  make: Make,
  *,
  classes: int,
  shape: tuple[int, int, int],
  examples: int,
  held_out: int,
  seed: int,
) -> Task:
  """Returns a task of generated images and their classes, measured by its accuracy.

  Args:
    name: the data set's name.
    make: random generator -> example with `image` and `label`.
    classes: number of classes.
    shape: (H, W, C) of an image.
    examples: number of examples of the split train.
    held_out: number of examples of each other split.
    seed: the seed of the whole data set.
  """
  source = source_of(make, examples, held_out, seed)
  return Task(name, "images", 0, classes, shape, "accuracy", source)


def maps(
  name: str,
  make: Make | Mapping[str, Make],
  *,
  outputs: int,
  shape: tuple[int, int, int],
  objective: str,
  metrics: tuple[str, ...],
  examples: int,
  held_out: int,
  seed: int,
) -> Task:
  """Returns a task of generated images and maps of the same size.

  Args:
    name: the data set's name.
    make: random generator -> example with `image` and `target`; or one for each of
      SPLITS, by name.
    outputs: channels of the maps, or classes of their pixels.
    shape: (H, W, C) of an image.
    objective: the name of the loss.
    metrics: the names of the metrics, the headline number first.
    examples: number of examples of the split train.
    held_out: number of examples of each other split.
    seed: the seed of the whole data set.
  """
  return Task(
    name,
    "image_maps",
    0,
    0,
    shape,
    metrics[0],
    source_of(make, examples, held_out, seed),
    objective=objective,
    sizes={"outputs": outputs},
    also=metrics[1:],
  )


def picture(image: np.ndarray, label: int) -> Example:
  """Returns the example of an image (H, W, C), clipped to [0, 1], and its class."""
  return {
    "image": np.clip(image, 0.0, 1.0).astype(np.float32),
    "label": np.array(label, np.int32),
  }


def lengths(length: int, test_length: int) -> dict[str, int]:
  """Returns the tokens of an example by split; a `test_length` of 0 is `length`."""
  check_least(length=(length, 1), test_length=(test_length, 0))
  return dict.fromkeys(SPLITS, length) | ({"test": test_length} if test_length else {})


def shifted(symbols: list[int], targets: list[int], length: int) -> Example:
  """Returns the first `length` symbols, labelled with the targets one further.

  Args:
    symbols: `length` of them or one more.
    targets: what is to be predicted of each symbol, itself or -1 for nothing.
    length: T; a position with no symbol after it has no label.
  """
  labels = [*targets[1:], -1][:length]
  return {
    "tokens": np.array(symbols[:length], np.int32),
    "labels": np.array(labels, np.int32),
  }


def source_of(
  make: Make | Mapping[str, Make], examples: int, held_out: int, seed: int
) -> Callable[[str], Generated]:
  """Returns the function from a split to its source; ValueError if one is empty."""
  check_least(examples=(examples, 1), held_out=(held_out, 1), seed=(seed, 0))

  def source(split: str) -> Generated:
    size = examples if check_split(split) == "train" else held_out
    one = make if callable(make) else make[split]
    return Generated(one, seed, split, size)

  return source
