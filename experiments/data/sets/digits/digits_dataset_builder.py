"""The TFDS builder of scikit-learn's digits."""

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import images, packaged

_SHAPE = (8, 8, 1)


class Builder(tfds.core.GeneratorBasedBuilder):
  """Pixels from 0 to 16 and the class."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The images in scikit-learn."}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=images.features(_SHAPE, classes=10),
      supervised_keys=("image", "label"),
      disable_shuffling=True,
      homepage="https://archive.ics.uci.edu/dataset/80",
      license="Data: CC BY 4.0. Package scikit-learn: BSD-3-Clause.",
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    file = packaged.find(
      "sklearn", "datasets/data/digits.csv.gz", install="scikit-learn"
    )
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    splits = images.stratified(table[:, -1])
    return {
      split: self._generate_examples(split, table[i]) for split, i in splits.items()
    }

  def _generate_examples(self, split, table):
    pixels = table[:, :-1].reshape(-1, *_SHAPE)
    return images.records(pixels, table[:, -1], f"digits {split}")
