"""Byte corpora: documents in TFDS records, windows of bytes for the model."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import prepare, progress
from experiments.data.task import SPLITS, Task, check_least, check_split, in_range

# One record a document, its bytes as they are.
FEATURES = tfds.features.FeaturesDict(
  {"text": tfds.features.Tensor(shape=(None,), dtype=np.uint8)}
)


def contiguous(
  documents: Sequence[bytes], edges: tuple[float, float] = (0.9, 0.95)
) -> dict[str, Sequence[bytes]]:
  """Cuts documents in three splits at the borders nearest to these shares of bytes."""
  borders = np.cumsum([0, *map(len, documents)])
  near = [int(np.abs(borders - edge * borders[-1]).argmin()) for edge in edges]
  cuts = [0, *near, len(documents)]
  return {split: documents[a:b] for split, a, b in zip(SPLITS, cuts, cuts[1:])}


def records(documents: Sequence[bytes], label: str) -> Iterator[tuple[int, Any]]:
  """Yields (key, record) for `_generate_examples` of a builder with FEATURES."""
  for i, document in enumerate(progress.track(documents, label)):
    yield i, {"text": np.frombuffer(document, np.uint8)}


class Windows:
  """Windows of `length` tokens with their labels, over documents joined in a row.

  Window i has the bytes from i x length on; its labels are the bytes one further, so
  that each byte but the first is predicted once. The last window is padded with
  label -1. The separator belongs to the document before it.

  With `documents`, segment_ids number the documents in the window; the first byte of
  a document has no label, since nothing that comes before it may be seen. There are no
  positions: models need only the distances of tokens within a document.
  """

  def __init__(
    self,
    texts: Iterable[bytes],
    *,
    length: int,
    separator: bytes = b"\n",
    documents: bool = False,
  ):
    check_least(length=(length, 1))
    texts = list(texts)
    self.bytes = np.frombuffer(separator.join(texts), np.uint8)
    if self.bytes.size < 2:
      raise ValueError(f"a text of {self.bytes.size} bytes has nothing to predict")
    sizes = [len(text) + len(separator) for text in texts]
    self.starts = np.unique(np.cumsum([0, *sizes[:-1]]))
    self.length, self.documents = length, documents

  def __len__(self) -> int:
    return -(-(self.bytes.size - 1) // self.length)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    first = in_range(index, len(self)) * self.length
    window = self.bytes[first : first + self.length + 1].astype(np.int32)
    tokens, labels = window[:-1], window[1:]
    example = {"tokens": self._pad(tokens, 0), "labels": self._pad(labels, -1)}
    return example | self._segments(first, labels) if self.documents else example

  def _segments(self, first: int, labels: np.ndarray) -> dict[str, np.ndarray]:
    place = np.arange(first, first + labels.size + 1)
    document = np.searchsorted(self.starts, place, side="right") - 1
    inside = document[1:] == document[:-1]
    document = document[:-1]
    return {
      "labels": self._pad(np.where(inside, labels, -1), -1),
      "segment_ids": self._pad(document - document[0], -1),
    }

  def _pad(self, x: np.ndarray, value: int) -> np.ndarray:
    padded = np.full(self.length, value, np.int32)
    padded[: x.size] = x
    return padded


def decode(tokens: Any) -> str:
  """Decodes bytes as text; what is not UTF-8 becomes U+FFFD."""
  return bytes(np.asarray(tokens).astype(np.uint8)).decode("utf-8", errors="replace")


def task(
  name: str,
  read: Callable[[str], Iterable[bytes]],
  *,
  length: int,
  documents: bool,
  separator: bytes = b"\n",
) -> Task:
  """Returns the task of predicting the next byte.

  Args:
    name: the data set's name.
    read: split -> its documents.
    length: T, tokens of a window.
    documents: whether windows have segment_ids.
    separator: the bytes between two documents.
  """
  check_least(length=(length, 1))

  @functools.cache
  def source(split: str) -> Windows:
    texts = read(check_split(split))
    try:
      return Windows(texts, length=length, separator=separator, documents=documents)
    except ValueError as error:
      raise ValueError(f"{name}, split {split}: {error}") from error

  return Task(
    name,
    "tokens",
    256,
    0,
    (length,),
    "bits_per_byte",
    source,
    decode,
    unit="tokens",
    units=length,
    consecutive=not documents,
  )


def packaged(
  builder: type[tfds.core.GeneratorBasedBuilder],
  *,
  length: int,
  documents: bool,
  cache_dir: str,
  separator: bytes,
) -> Task:
  """Returns the task on a packaged corpus, which is prepared on first use."""
  made = prepare.prepared(builder, cache_dir)

  def read(split: str) -> list[bytes]:
    return [record["text"].tobytes() for record in made.as_data_source(split)]

  return task(
    builder.name, read, length=length, documents=documents, separator=separator
  )
