"""Haystacks of bytes: text from a few words or a corpus, and sentences told in it."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import data
from experiments.data.task import check_least

Hay = Callable[[np.random.Generator, int], bytes]  # (rng, size) -> text
CORPORA = ("sentences", "kjv", "enwiki", "stdlib")
_KINDS = b"old young quiet small great green grey kind proud slow".split()
_NAMES = b"baker river king horse garden ship mountain teacher stone bird".split()
_DEEDS = b"followed saw found left heard crossed remembered carried".split()


def check(*, letters: int, digits: int, depth: float, corpus: str) -> None:
  """Raises ValueError for options of needles that are out of their range."""
  check_least(letters=(letters, 1), digits=(digits, 1))
  if corpus not in CORPORA:
    raise ValueError(f"corpus = {corpus!r}; it must be one of {', '.join(CORPORA)}")
  if depth != -1 and not 0 <= depth <= 1:
    raise ValueError(f"depth = {depth}; it must be from 0 to 1, or -1 to draw it")


def source(corpus: str, cache_dir: str, split: str) -> Hay:
  """Returns the function that draws text of a corpus; see `needle`."""
  return sentences if corpus == "sentences" else _text(corpus, cache_dir, split)


def said(name: bytes, code: bytes) -> bytes:
  """Returns the sentence that tells a code."""
  return b"The code of %s is %s. " % (name, code)


def boundary(text: bytes, share: float) -> int:
  """Returns the beginning of a sentence nearest to this share of the text."""
  places = [0, *(found.end() for found in re.finditer(rb"\. |\n", text))]
  return min(places, key=lambda place: abs(place - share * len(text)))


def inserted(text: bytes, told: Sequence[tuple[int, bytes]]) -> bytes:
  """Returns the text with sentences at ascending places of it, (place, sentence)."""
  parts, last = [], 0
  for place, sentence in told:
    parts += [text[last:place], sentence]
    last = place
  return b"".join([*parts, text[last:]])


def sentences(rng: np.random.Generator, size: int) -> bytes:
  """Draws sentences; the last is cut."""
  places, text = (_KINDS, _NAMES, _DEEDS, _KINDS, _NAMES), b""
  while len(text) < size:
    drawn = rng.integers([len(words) for words in places])
    words = [words[i] for words, i in zip(places, drawn)]
    text += b"The %s %s %s the %s %s. " % tuple(words)
  return text[:size]


def _text(corpus: str, cache_dir: str, split: str) -> Hay:
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
