"""Pages of the English Wikipedia in XML, the format of enwik8, one page a document.

6,089,746 bytes, 201 different ones, 206 pages, split 90/5/5 by bytes at page borders.
The dump is a test file of the package gensim (LGPL-2.1); the text is CC BY-SA.
"""

from experiments.data import text
from experiments.data.sets.enwiki import enwiki_dataset_builder
from experiments.data.task import Task


def task(*, length: int = 256, documents: bool = False, cache_dir: str = "") -> Task:
  """Returns the task on windows of `length` bytes; `documents` adds segment_ids."""
  return text.packaged(
    enwiki_dataset_builder.Builder,
    length=length,
    documents=documents,
    cache_dir=cache_dir,
    separator=b"",
  )
