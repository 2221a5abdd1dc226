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
a cell right if all its digits are. `length` and `depth` make one cell. Not here: the
grid, and the evaluation of a run at lengths other than that of its training.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import data
from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task, check_least

CORPORA = ("sentences", "kjv", "enwiki", "stdlib")
_KINDS = b"old young quiet small great green grey kind proud slow".split()
_NAMES = b"baker river king horse garden ship mountain teacher stone bird".split()
_DEEDS = b"followed saw found left heard crossed remembered carried".split()


def task(
  *,
  length: int = 256,
  letters: int = 6,
  digits: int = 6,
  depth: float = -1.0,
  corpus: str = "sentences",
  cache_dir: str = "",
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if the needle and its question do not fit."""
  check_least(letters=(letters, 1), digits=(digits, 1))
  if corpus not in CORPORA:
    raise ValueError(f"corpus = {corpus!r}; it must be one of {', '.join(CORPORA)}")
  if depth != -1 and not 0 <= depth <= 1:
    raise ValueError(f"depth = {depth}; it must be from 0 to 1, or -1 to draw it")
  shortest = 2 * (len(_said(b"", b"")) + letters + digits) - 2
  if length < shortest:
    raise ValueError(
      f"length = {length}; a needle and a question of {letters} letters and {digits}"
      f" digits have {shortest} bytes"
    )

  def make(split: str) -> generated.Make:
    hay = _sentences if corpus == "sentences" else _text(corpus, cache_dir, split)
    return functools.partial(
      example, hay=hay, length=length, letters=letters, digits=digits, depth=depth
    )

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
  hay: Callable[[np.random.Generator, int], bytes],
  length: int,
  letters: int,
  digits: int,
  depth: float,
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  name = bytes(rng.integers(ord("a"), ord("z") + 1, letters, dtype=np.uint8))
  code = bytes(rng.integers(ord("0"), ord("9") + 1, digits, dtype=np.uint8))
  share = rng.random() if depth == -1 else depth
  needle = _said(name, code)
  end = b"\n" + needle[: -len(b". ") - 1]  # and all digits but the last
  text = hay(rng, length - len(needle) - len(end))
  place = _boundary(text, share)
  whole = text[:place] + needle + text[place:] + end
  labels = np.full(length, -1, np.int32)
  labels[-digits:] = np.frombuffer(code, np.uint8)
  return {"tokens": np.frombuffer(whole, np.uint8).astype(np.int32), "labels": labels}


def _said(name: bytes, code: bytes) -> bytes:
  return b"The code of %s is %s. " % (name, code)


def _boundary(text: bytes, share: float) -> int:
  """Returns the beginning of a sentence nearest to this share of the text."""
  places = [0, *(found.end() for found in re.finditer(rb"\. |\n", text))]
  return min(places, key=lambda place: abs(place - share * len(text)))


def _sentences(rng: np.random.Generator, size: int) -> bytes:
  """Draws sentences; the last is cut."""
  places, text = (_KINDS, _NAMES, _DEEDS, _KINDS, _NAMES), b""
  while len(text) < size:
    drawn = rng.integers([len(words) for words in places])
    words = [words[i] for words, i in zip(places, drawn)]
    text += b"The %s %s %s the %s %s. " % tuple(words)
  return text[:size]


def _text(
  corpus: str, cache_dir: str, split: str
) -> Callable[[np.random.Generator, int], bytes]:
  """Returns the function that cuts `size` bytes out of a split of a corpus."""

  @functools.cache
  def whole() -> np.ndarray:
    source: Any = data.load(corpus, {"cache_dir": cache_dir}).source(split)
    return source.bytes

  def cut(rng: np.random.Generator, size: int) -> bytes:
    text = whole()
    if size > text.size:
      raise ValueError(
        f"a haystack of {size} bytes; {corpus}, split {split} has {text.size}"
      )
    first = int(rng.integers(text.size - size + 1))
    return text[first : first + size].tobytes()

  return cut
