"""The interface of a data set to the trainer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

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
    positions: int32, (T,), for models whose positions are not 0, 1, 2, ...
  Examples of kind "images":
    image: float32, (H, W, C), in [0, 1].
    label: int32, ().
  Examples of kind "image_text": `image`, and `tokens` and `labels` of words.
  Examples of kind "image_maps":
    image: float32, (H, W, C), in [0, 1].
    target: float32, (H, W, K), a picture in [0, 1] or heat maps; or int32, (H, W), the
      class of each pixel, -1 where it is not counted.

  Other kinds are what a host and a data set agree on.

  Attributes:
    name: as in `load`.
    kind: the kind of the examples, which a host TAKES.
    vocab: number of symbols of tokens; 0 for images.
    classes: number of classes of images; 0 for tokens.
    shape: the shape of one example, (T,) or (H, W, C).
    metric: the headline number, one of `experiments.training.measures`.
    source: split, one of SPLITS -> Source.
    decode: tokens of a byte corpus, or words, -> text; None where they are neither.
    objective: the name of the loss, one of `experiments.training.objectives`.
    sizes: other sizes that a host may ask for, by name.
    unit: the unit in which speed is counted.
    units: number of these units in an example.
    also: other metrics that are logged.
    consecutive: whether example i + 1 continues example i, so that a model may keep a
      memory of it.
  """

  name: str
  kind: str
  vocab: int
  classes: int
  shape: tuple[int, ...]
  metric: str
  source: Callable[[str], Source]
  decode: Callable[[Any], str] | None = None
  objective: str = "cross_entropy"
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  unit: str = "examples"
  units: int = 1
  consecutive: bool = False
  also: tuple[str, ...] = ()

  @property
  def channels(self) -> int:
    """Returns the length of the last axis of an example."""
    return self.shape[-1] if self.shape else 0

  def size(self, name: str) -> int:
    """Returns the size of that name; ValueError if the data set has none."""
    value = self.sizes.get(name, getattr(self, name, 0))
    if not isinstance(value, int) or value < 1:
      raise ValueError(f"data set {self.name!r} has no {name}")
    return value


def check_split(split: str) -> str:
  """Returns the split; ValueError if there is none of that name."""
  check_known("split", split, SPLITS)
  return split


def check_least(**values: tuple[int, int]) -> None:
  """Raises ValueError for the first of `name=(value, least)` that is too small."""
  for name, (value, least) in values.items():
    if value < least:
      raise ValueError(f"{name} = {value}; it must be at least {least}")


def in_range(index: int, length: int) -> int:
  """Returns the index; IndexError unless 0 <= index < length."""
  if not 0 <= index < length:
    raise IndexError(f"example {index} of {length}")
  return index
