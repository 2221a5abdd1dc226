"""Digit captions: say the name of a handwritten digit, letter by letter.

The pictures are those of the data set digits, 1,797 of 8 x 8 pixels, and a caption is
<begin> s e v e n <end>; the labels are the next letters. A task that has shifted, for
adapters of a model of the first one, has other pictures (`inverted`: 1 - x) and other
names (`renamed`: a digit d has the name of 3 d + 1 modulo 10).

The accuracy is that of letters, of which most follow from those before them;
`exact_rows` is the share of whole names.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from experiments.data.sets import digits
from experiments.data.task import Source, Task

NAMES = ("zero", "one", "two", "three", "four")
NAMES += ("five", "six", "seven", "eight", "nine")
WORDS = ("", "<begin>", "<end>", *sorted(set("".join(NAMES))))
NOTHING, BEGIN, END = range(3)
LENGTH = 1 + max(map(len, NAMES))


@dataclasses.dataclass(frozen=True)
class Captions:
  """Pictures of a source of digits with the letters of their names."""

  digits: Source
  inverted: bool
  renamed: bool

  def __len__(self) -> int:
    return len(self.digits)

  def __getitem__(self, index: int) -> dict[str, Any]:
    found = self.digits[index]
    image, label = found["image"], int(found["label"])
    name = NAMES[(3 * label + 1) % 10 if self.renamed else label]
    letters = [WORDS.index(letter) for letter in name]
    blank = LENGTH - 1 - len(letters)
    tokens = [BEGIN, *letters, *[NOTHING] * blank]
    labels = [*letters, END, *[-1] * blank]
    return {
      "image": np.float32(1) - image if self.inverted else image,
      "tokens": np.asarray(tokens, np.int32),
      "labels": np.asarray(labels, np.int32),
    }


def task(*, inverted: bool = False, renamed: bool = False, cache_dir: str = "") -> Task:
  """Returns the task on pictures (8, 8, 1) and letters (6,).

  Args:
    inverted: whether white is black.
    renamed: whether digits have the names of others.
    cache_dir: where the pictures are prepared.
  """
  found = digits.task(cache_dir=cache_dir)

  @functools.cache
  def source(split: str) -> Captions:
    return Captions(found.source(split), inverted, renamed)

  return Task(
    "digit_captions",
    "image_text",
    len(WORDS),
    0,
    found.shape,
    "exact_rows",
    source,
    decode=decode,
    also=("accuracy",),
  )


def decode(tokens: Any) -> str:
  """Returns the letters of tokens, as a name; what is no letter is left out."""
  return "".join(WORDS[int(t)] for t in tokens if int(t) > END)
