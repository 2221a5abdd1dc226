"""The Python standard library's source, one file a document; on every machine.

Files ending in .py, sorted by path, without tests, idlelib and installed packages,
split 90/5/5 by bytes at file borders. The corpus depends on the version of Python,
which is in the name of the prepared files: 3.12.1 has 626 files, 10,810,081 bytes,
170 different ones. Licence: PSF-2.0.
"""

from experiments.data import text
from experiments.data.sets.stdlib import stdlib_dataset_builder
from experiments.data.task import Task


def task(*, length: int = 256, documents: bool = False, cache_dir: str = "") -> Task:
  """Returns the task on windows of `length` bytes; `documents` adds segment_ids."""
  return text.packaged(
    stdlib_dataset_builder.Builder,
    length=length,
    documents=documents,
    cache_dir=cache_dir,
    separator=b"",
  )
