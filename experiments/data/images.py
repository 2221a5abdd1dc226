"""Image classification: records of a TFDS data source, scaled to [0, 1]."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import prepare, progress
from experiments.data.task import SPLITS, Source, Task, check_split, in_range

_EDGES = (0.8, 0.9)  # train, validation and test have 80, 10 and 10% of each class


@dataclasses.dataclass(frozen=True)
class Images:
  """Examples made from records with the fields `image` and `label`.

  Attributes:
    records: random access to dictionaries.
    shape: (H, W, C) of an image.
    top: the pixel value that becomes 1.
    image: name of the field with the image.
    label: name of the field with the class.
  """

  records: Source
  shape: tuple[int, ...]
  top: float
  image: str = "image"
  label: str = "label"

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self.records[in_range(index, len(self))]
    image = np.asarray(record[self.image], np.float32).reshape(self.shape)
    scaled = image / np.float32(self.top)
    return {"image": scaled, "label": np.asarray(record[self.label], np.int32)}


def features(shape: tuple[int, int, int], classes: int):
  """Returns the features of a builder: an 8-bit image and its class."""
  return tfds.features.FeaturesDict(
    {
      "image": tfds.features.Tensor(shape=shape, dtype=np.uint8),
      "label": tfds.features.ClassLabel(num_classes=classes),
    }
  )


def stratified(labels: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
  """Returns shuffled indices for each split, with an equal share of every class."""
  rng = np.random.default_rng(seed)
  order = rng.permutation(labels.size)
  share = np.empty(labels.size)
  for label in np.unique(labels):
    members = np.flatnonzero(labels[order] == label)
    share[members] = np.arange(members.size) / members.size
  part = np.searchsorted(_EDGES, share, side="right")
  # Mixed again, since classes do not reach their last share at the same place.
  return {split: rng.permutation(order[part == i]) for i, split in enumerate(SPLITS)}


def records(pixels: np.ndarray, labels: np.ndarray, label: str):
  """Yields (key, record) for `_generate_examples` of a builder with `features`."""
  for i, image in enumerate(progress.track(list(pixels), label)):
    yield i, {"image": image, "label": int(labels[i])}


def packaged(
  builder: type[tfds.core.GeneratorBasedBuilder], *, top: float, cache_dir: str
) -> Task:
  """Returns the task on a packaged image set, which is prepared on first use."""
  made = prepare.prepared(builder, cache_dir)
  shape = made.info.features["image"].shape
  classes = made.info.features["label"].num_classes

  @functools.cache
  def source(split: str) -> Images:
    records = made.as_data_source(check_split(split))
    # Small enough to be decoded once and kept.
    return Images(records.__getitems__(range(len(records))), shape, top)

  return Task(builder.name, "images", 0, classes, shape, "accuracy", source)
