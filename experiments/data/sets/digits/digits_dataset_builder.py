"""The TFDS builder of scikit-learn's digits."""

import tensorflow_datasets as tfds

from experiments.data import images


class Builder(images.Table):
  """Pixels from 0 to 16 and the class."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The images in scikit-learn."}
  SHAPE = (8, 8, 1)
  FILE = ("sklearn", "datasets/data/digits.csv.gz", "scikit-learn")
  HOMEPAGE = "https://archive.ics.uci.edu/dataset/80"
  LICENSE = "Data: CC BY 4.0. Package scikit-learn: BSD-3-Clause."
