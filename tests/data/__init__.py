"""Tests of the data sets; all of them run in one process, which prepares each once."""

import atexit
import functools
import tempfile

from experiments import data
from experiments.data import text


@functools.cache
def folder() -> str:
  """An empty cache folder of this process, removed at its end."""
  temporary = tempfile.TemporaryDirectory()
  atexit.register(temporary.cleanup)
  return temporary.name


def load(name, **options) -> data.Task:
  """The data set in `folder()`."""
  return data.load(name, {"cache_dir": folder(), **options})


def content(task: data.Task) -> list[bytes]:
  """The bytes of each split of a corpus."""
  windows = [task.source(split) for split in data.SPLITS]
  return [w.bytes.tobytes() for w in windows if isinstance(w, text.Windows)]


def decode(task: data.Task, tokens) -> str:
  """By the task's `decode`, which a corpus has."""
  assert task.decode is not None
  return task.decode(tokens)
