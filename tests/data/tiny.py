"""Small builders of TFDS, as a user may have them."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

LINES = [f"Line {i} of é." for i in range(40)]


class TinyText(tfds.core.GeneratorBasedBuilder):
  """Only a split train, with a text and a number."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {"text": tfds.features.Text(), "n": np.int64, "title": np.str_}
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i, line in enumerate(LINES):
      yield i, {"text": line, "n": i, "title": "none"}


class TinyImage(tfds.core.GeneratorBasedBuilder):
  """Splits train and test, two configs, images of one size or of any."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="fixed"),
    tfds.core.BuilderConfig(name="any"),
  ]

  def _info(self):
    size = 6 if self.builder_config.name == "fixed" else None
    features = {
      "image": tfds.features.Image(shape=(size, 5, 3)),
      "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(40), "test": self._generate_examples(8)}

  def _generate_examples(self, number):
    for i in range(number):
      file = io.BytesIO()
      Image.fromarray(np.full((6, 5, 3), i, np.uint8)).save(file, "png")
      file.seek(0)
      yield i, {"image": file, "label": i % 3}
