"""The bytes of Python's standard library: a real text that every machine has.

Windows are cut at random places of `experiments.data.sets.stdlib`, each split from its
own files. The data sets of text read whole windows in their order and are measured by
bits; small models see a few thousand windows and are scored in nats a byte.
"""

import functools
from typing import Any

import numpy as np

from experiments import data, small
from experiments.small import problem as problems

VOCAB = 256


def problem(*, length: int = 64, train: int = 8192, held_out: int = 512):
  """Returns the problem of the next byte, scored by the cross-entropy in nats.

  Args:
    length: T, bytes of a window.
    train: number of training windows.
    held_out: number of windows to validate on, and of as many to test on.
  """

  @functools.cache
  def examples(seed, split):
    source: Any = data.load("stdlib").source(split)
    text = np.asarray(source.bytes)
    rng = np.random.default_rng([seed, data.SPLITS.index(split)])
    count = train if split == "train" else held_out
    starts = rng.integers(text.size - length, size=count)
    windows = text[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    return {"tokens": windows[:, :-1], "labels": windows[:, 1:]}

  return small.Problem(examples, problems.labels_loss, problems.labels_loss)
