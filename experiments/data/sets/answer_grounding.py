"""Answer grounding: the pixels of the shape that a sentence names.

Pictures of four coloured shapes and vectors of sentences such as "red disc"; see
`experiments.data.grounding`. All splits have one encoder of sentences. A model that
does not read the sentence can at best guess which of four shapes is meant.
"""

import functools
from typing import Any

from experiments.data import generated, grounding
from experiments.data.task import Task, check_least


def task(
  *,
  side: int = 48,
  width: int = 32,
  noise: float = 0.1,
  sentence_noise: float = 0.1,
  examples: int = 20_000,  # of the split train
  held_out: int = 500,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on images (side, side, 3), sentences (width,) and labels.

  Args:
    side: pixels of an image.
    width: numbers of a sentence.
    noise: of each pixel.
    sentence_noise: of each number of a sentence, whose own have a deviation of 1.
    examples: number of examples of the split train.
    held_out: number of examples of each other split.
    seed: the seed of the encoder and of all examples.

  Raises:
    ValueError: if an option is out of its range.
  """
  check_least(side=(side, grounding.LEAST), width=(width, 1), seed=(seed, 0))
  for name, value in (("noise", noise), ("sentence_noise", sentence_noise)):
    if value < 0:
      raise ValueError(f"{name} = {value}; it must be at least 0")
  make = functools.partial(
    grounding.example,
    vectors=grounding.encoder(seed, width),
    side=side,
    noise=noise,
    sentence_noise=sentence_noise,
  )
  return Task(
    "answer_grounding",
    "image_sentence_maps",
    vocab=0,
    classes=0,
    shape=(side, side, 3),
    metric="foreground_iou",
    source=generated.source_of(make, examples, held_out, seed),
    decode=phrase,
    sizes={"outputs": 2, "sentence_width": width},
    also=("foreground_iou_of_images", "accuracy"),
  )


def phrase(number: Any) -> str:
  """Returns the words of a sentence from its array "phrase"."""
  return grounding.PHRASES[int(number)]
