"""Needles of several keys, of which one is asked for: the others distract.

Cheng-Ping Hsieh et al. RULER: What's the Real Context Size of Your Long-Context
Language Models? 2024. arXiv:2404.06654, section 3.1; https://github.com/NVIDIA/RULER.

As `needle`, with one needle for each of `keys` different keys; the question is of one.
Its needle stands at `depth`, the others anywhere.

RULER: 4 keys in essays, or a haystack of nothing but needles; 500 examples at each T of
4,096 to 131,072. The mean of its 13 tasks at 4,096 and at 131,072 is 95.5 and 77.0 for
Llama 3.1 of 8B, 96.6 and 81.2 for GPT-4 (1106); 85.6, of Llama 2 of 7B at 4,096, is its
bound of a length that a model masters. Not here: a haystack of needles alone, and codes
that are words or have 32 digits.
"""

from experiments.data import needles
from experiments.data.task import Task


def task(
  *,
  keys: int = 4,
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
    "needle_multi_key",
    keys=keys,
    values=1,
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
