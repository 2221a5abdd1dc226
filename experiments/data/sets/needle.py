"""Needle in a haystack: tell a code that a long text has said once, in bytes.

After Greg Kamradt. Needle In A Haystack. 2023. https://github.com/gkamradt/
LLMTest_NeedleInAHaystack, and Cheng-Ping Hsieh et al. RULER. 2024. arXiv:2404.06654;
the sentences and the training on the same format are this library's.

T tokens are bytes: a haystack, with the needle "The code of <letters> is <digits>. " in
it, then on a line of its own the question "The code of <letters> is " and all digits
but the last. The labels are the digits, each at the byte before it. The 6 letters and 6
digits are drawn independently. The needle stands at a boundary of sentences (after ". "
or a newline, or at the beginning), of all within T the nearest to `depth` times the
haystack's length; with `depth` -1 that share is drawn anew for each example.

The haystack is cut at a random place from `corpus`: one of the byte corpora (kjv,
enwiki, stdlib), each split from its own share of the text, or "sentences", which are
drawn from a few words and need no package: "The old baker followed the quiet river. " A
corpus is prepared in `cache_dir` on first use.

The accuracy is that of single digits, 0.1 by chance. Literature: grids of T by `depth`,
a cell right if all its digits are. `length` and `depth` make one cell, and
`experiments.frontier` the grid of a trained run; with `test_length` the split test is
longer than what a run was trained on. Not here: RULER's codes of words and of 32
hexadecimal digits.
"""

import functools

import numpy as np

from experiments.data import generated, haystack
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task


def task(
  *,
  length: int = 256,
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
  """Returns the task; ValueError if the needle and its question do not fit."""
  haystack.check(letters=letters, digits=digits, depth=depth, corpus=corpus)
  shortest = 2 * (len(haystack.said(b"", b"")) + letters + digits) - 2
  lengths = generated.lengths(length, test_length)
  for one in lengths.values():
    if one < shortest:
      raise ValueError(
        f"length = {one}; a needle and a question of {letters} letters and {digits}"
        f" digits have {shortest} bytes"
      )

  def make(split: str) -> generated.Make:
    hay = haystack.source(corpus, cache_dir, split)
    sizes = {"letters": letters, "digits": digits, "depth": depth}
    return functools.partial(example, hay=hay, length=lengths[split], **sizes)

  return generated.task(
    "needle",
    {split: make(split) for split in SPLITS},
    vocab=256,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator,
  *,
  hay: haystack.Hay,
  length: int,
  letters: int,
  digits: int,
  depth: float,
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  name = bytes(rng.integers(ord("a"), ord("z") + 1, letters, dtype=np.uint8))
  code = bytes(rng.integers(ord("0"), ord("9") + 1, digits, dtype=np.uint8))
  share = rng.random() if depth == -1 else depth
  needle = haystack.said(name, code)
  end = b"\n" + needle[: -len(b". ") - 1]  # and all digits but the last
  text = hay(rng, length - len(needle) - len(end))
  whole = haystack.inserted(text, [(haystack.boundary(text, share), needle)]) + end
  labels = np.full(length, -1, np.int32)
  labels[-digits:] = np.frombuffer(code, np.uint8)
  return {"tokens": np.frombuffer(whole, np.uint8).astype(np.int32), "labels": labels}
