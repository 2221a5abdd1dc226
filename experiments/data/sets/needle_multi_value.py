"""Needles of one key with several values, all of which are asked for.

Cheng-Ping Hsieh et al. RULER: What's the Real Context Size of Your Long-Context
Language Models? 2024. arXiv:2404.06654, section 3.1; https://github.com/NVIDIA/RULER.

As `needle`, with `values` needles of one key. The question is answered with all their
codes in the order of the text, "The code of <letters> is <digits>, <digits>"; what lies
between the codes has no label. With a `depth` all needles stand there, one behind the
other.

RULER: 4 values, in any order, where a part of them gives a part of the score; its
models by length are in `needle_multi_key`. Not here: answers in another order.
"""

from experiments.data import needles
from experiments.data.task import Task


def task(
  *,
  values: int = 4,
  length: int = 512,
  letters: int = 6,
  digits: int = 6,
  depth: float = -1.0,
  corpus: str = "sentences",
  cache_dir: str = "",
  test_length: int = 0,  # of the split test; 0 is `length`
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if the needles and the questions do not fit."""
  return needles.task(
    "needle_multi_value",
    keys=1,
    values=values,
    queries=1,
    length=length,
    letters=letters,
    digits=digits,
    depth=depth,
    corpus=corpus,
    cache_dir=cache_dir,
    test_length=test_length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )
