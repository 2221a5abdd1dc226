"""1,797 handwritten digits, 8 x 8: the smallest images here.

Split 80/10/10, balanced, with a fixed seed. From the package scikit-learn (BSD-3, the
data from the UCI repository, CC BY).
"""

from experiments.data import images
from experiments.data.sets.digits import digits_dataset_builder
from experiments.data.task import Task


def task(*, cache_dir: str = "") -> Task:
  """Returns the task on images (8, 8, 1) of 10 classes."""
  return images.packaged(digits_dataset_builder.Builder, top=16, cache_dir=cache_dir)
