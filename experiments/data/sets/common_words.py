"""Common words: tell which words of a long list are there more often than the others.

Cheng-Ping Hsieh et al. RULER: What's the Real Context Size of Your Long-Context
Language Models? 2024. arXiv:2404.06654, section 3.3; https://github.com/NVIDIA/RULER.

With V symbols, of which V - 1 asks: `common` words and `others` are drawn from 0..V-2,
all different. They fill the first T - common tokens in random order, a common word
`ratio` times as often as another, rounded down, and the others as often as each other,
but for one. Then comes V - 1, then the common words in ascending order, which are the
labels, each at the token before it; the last is a label only.

RULER: 10 common words, 30 times each and the others 3 times, and as many others as fill
T, in any order; its models by length are in `needle_multi_key`. Sparse attention fails
on it at a sparsity of .5 to .67 (arXiv:2504.17768). Here the counts grow with T and the
words do not, so that a small model has seen all words in its training. Not here: a list
that is numbered, answers in another order, and an example of the task before the list.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task, check_least


def task(
  *,
  vocab: int = 64,
  length: int = 128,
  common: int = 3,
  others: int = 12,
  ratio: int = 5,
  test_length: int = 0,  # of the split test; 0 is `length`
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if the words exceed the length or the vocabulary."""
  check_least(common=(common, 1), others=(others, 1), ratio=(ratio, 2))
  if common + others > vocab - 1:
    raise ValueError(
      f"common = {common} and others = {others} need as many different words and a"
      f" symbol that asks, a vocab of {common + others + 1}; vocab = {vocab}"
    )
  lengths = generated.lengths(length, test_length)
  for one in lengths.values():
    times = counts(one, common, others, ratio)
    if times.min() < 1 or times[common:].max() >= times[0]:
      raise ValueError(
        f"length = {one}; {common} common words, {ratio} times as often as {others}"
        f" others, come to {times[0]} times, the others to {times[common:].min()} or"
        f" {times[common:].max()}; these must be 1 or more, and fewer"
      )
  sizes = {"vocab": vocab, "common": common, "others": others, "ratio": ratio}
  makes = {
    split: functools.partial(example, length=lengths[split], **sizes)
    for split in SPLITS
  }
  return generated.task(
    "common_words",
    makes,
    vocab=vocab,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator,
  *,
  vocab: int,
  length: int,
  common: int,
  others: int,
  ratio: int,
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  words = rng.choice(vocab - 1, common + others, replace=False)
  asked = np.sort(words[:common])
  body, times = length - common, counts(length, common, others, ratio)
  tokens = np.empty(length, np.int32)
  tokens[:body] = rng.permutation(np.repeat(words, times))
  tokens[body:] = vocab - 1, *asked[:-1]
  labels = np.full(length, -1, np.int32)
  labels[body:] = asked
  return {"tokens": tokens, "labels": labels}


def counts(length: int, common: int, others: int, ratio: int) -> np.ndarray:
  """Returns how often each word of an example is there, the common ones first."""
  body = length - common
  often = body * ratio // (common * ratio + others)
  rest = body - common * often
  seldom = np.diff(np.arange(others + 1) * rest // others)
  return np.concatenate([np.full(common, often), seldom])
