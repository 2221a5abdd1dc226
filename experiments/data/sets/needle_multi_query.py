"""Needles of several keys, several of which are asked for one after the other.

Cheng-Ping Hsieh et al. RULER: What's the Real Context Size of Your Long-Context
Language Models? 2024. arXiv:2404.06654, section 3.1; https://github.com/NVIDIA/RULER.

As `needle`, with one needle for each of `keys` different keys; `queries` of them are
asked for at the end, in random order: "The code of <letters> is <digits>. The code of
<letters> is <digits>". The keys are given, the digits labelled. With a `depth` the
needles that are asked for stand there, one behind the other.

RULER: 4 keys and all 4 asked for in one question; its models by length are in
`needle_multi_key`. arXiv:2504.17768 finds that sparse attention fails on this task at a
sparsity of .8 to .9, where a single needle bears .95.
"""

from experiments.data import needles
from experiments.data.task import Task


def task(
  *,
  keys: int = 4,
  queries: int = 4,
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
    "needle_multi_query",
    keys=keys,
    values=1,
    queries=queries,
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
