"""Concept videos: find the video that a caption tells two frames of.

Videos of `frames` vectors, each a concept with noise, and captions that sum two of
their concepts; see `experiments.data.concepts`. All splits show one world of concepts.
`told` are the two frames, `shown` the concepts of all; `label` is 0, and -1 at a pair
that only fills the last batch of a split.
"""

import functools

import numpy as np

from experiments.data import concepts as worlds
from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least, check_split


def task(
  *,
  concepts: int = 400,
  width: int = 64,
  frames: int = 12,
  frame_noise: float = 0.15,
  text_noise: float = 0.3,
  examples: int = 100_000,  # of the split train
  held_out: int = 512,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on captions (width,) and videos (frames, width).

  Args:
    concepts: number of concepts of the world.
    width: numbers of a vector.
    frames: of a video.
    frame_noise: length of the noise of a frame, whose concept has the length 1.
    text_noise: length of the noise of a caption.
    examples: number of pairs of the split train.
    held_out: number of pairs of each other split.
    seed: the seed of the world and of all pairs.

  Raises:
    ValueError: if an option is out of its range.
  """
  check_least(width=(width, 1), frames=(frames, worlds.SHOWN), seed=(seed, 0))
  check_least(concepts=(concepts, frames))
  check_least(examples=(examples, 1), held_out=(held_out, 1))
  _check_noise(frame_noise=frame_noise, text_noise=text_noise)
  noise = {"frame_noise": frame_noise, "text_noise": text_noise}
  world = worlds.world(seed, concepts, width)
  make = functools.partial(example, world=world, frames=frames, **noise)

  source = functools.partial(_source, make, seed, examples, held_out)
  return Task(
    "concept_videos",
    "text_frames",
    shape=(frames, width),
    vocab=0,
    classes=0,
    metric="recall_at_1",
    source=source,
    objective="info_nce",
    sizes={"text_width": width, "frame_width": width},
    unit="pairs",
    also=("recall_at_5", "mean_rank"),
  )


def _check_noise(**noise: float) -> None:
  for name, value in noise.items():
    if value < 0:
      raise ValueError(f"{name} = {value}; it must be at least 0")


def _source(make, seed, examples, held_out, split) -> generated.Generated:
  size = examples if check_split(split) == "train" else held_out
  return generated.Generated(make, seed, split, size)


def example(rng: np.random.Generator, **options) -> Example:
  """Draws a pair."""
  return worlds.example(rng, **options) | {"label": np.array(0, np.int32)}
