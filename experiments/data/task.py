"""What a data set gives to the trainer."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

from attnjax.contract import check_known

SPLITS = ("train", "validation", "test")


class Source(Protocol):
  """Random access to examples: dictionaries of NumPy arrays."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Task:
  """A data set and what a model needs to know of it.

  Examples of kind "tokens":
    tokens: int32, (T,).
    labels: int32, (T,), what to predict at each position, already shifted; -1 is not
      counted.
    segment_ids: int32, (T,), only if asked for: the number of the document within
      the window, -1 at padding.
    positions: int32, (T,), for models that read other places than 0, 1, 2, ...
  Examples of kind "images":
    image: float32, (H, W, C), in [0, 1].
    label: int32, ().

  Attributes:
    name: as in `load`.
    kind: of the examples.
    vocab: number of symbols of tokens; 0 for images.
    classes: number of classes of images; 0 for tokens.
    shape: of one example, (T,) or (H, W, C).
    metric: the headline number.
    source: split, one of SPLITS -> Source.
    decode: tokens of a byte corpus -> text; None where tokens are not bytes.
  """

  name: str
  kind: Literal["tokens", "images"]
  vocab: int
  classes: int
  shape: tuple[int, ...]
  metric: Literal["bits_per_byte", "accuracy"]
  source: Callable[[str], Source]
  decode: Callable[[Any], str] | None = None


def check_split(split: str) -> str:
  """The split; ValueError if there is none of that name."""
  check_known("split", split, SPLITS)
  return split


def check_least(**values: tuple[int, int]) -> None:
  """Raises ValueError for the first of `name=(value, least)` that is too small."""
  for name, (value, least) in values.items():
    if value < least:
      raise ValueError(f"{name} = {value}; it must be at least {least}")


def in_range(index: int, length: int) -> int:
  """The index; IndexError unless 0 <= index < length."""
  if not 0 <= index < length:
    raise IndexError(f"example {index} of {length}")
  return index
