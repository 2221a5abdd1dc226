"""The TFDS builder of pages of the English Wikipedia."""

import bz2

import tensorflow_datasets as tfds

from experiments.data import packaged, text

_DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


class Builder(tfds.core.GeneratorBasedBuilder):
  """One record a page; all records in a row are the dump."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The dump in gensim 4.4.0."}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=text.FEATURES,
      disable_shuffling=True,
      homepage="https://dumps.wikimedia.org",
      license="Text: CC BY-SA 3.0, by the authors of Wikipedia. Package gensim:"
      " LGPL-2.1.",
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    splits = text.contiguous(_pages())
    return {split: self._generate_examples(split, splits[split]) for split in splits}

  def _generate_examples(self, split, documents):
    return text.records(documents, f"enwiki {split}")


def _pages() -> list[bytes]:
  dump = packaged.find("gensim", f"test/test_data/{_DUMP}", install="gensim==4.4.0")
  start = b"  <page>\n"
  head, *pages = bz2.decompress(dump.read_bytes()).split(start)
  pages = [start + page for page in pages]
  return [head + pages[0], *pages[1:]]
