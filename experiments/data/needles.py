"""Several needles in one haystack: keys of several values, of which some are asked for.

After Cheng-Ping Hsieh et al. RULER: What's the Real Context Size of Your Long-Context
Language Models? 2024. arXiv:2404.06654, section 3.1. The sentences are those of the
data set `needle`.
"""

import functools

import numpy as np

from experiments.data import generated, haystack
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task, check_least

_BETWEEN = b", "  # two values of a key
_LETTERS = 12  # 26^12 names have a number of 64 bits


def task(
  name: str,
  *,
  keys: int,
  values: int,
  queries: int,
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
  """Returns the task of `example` with these options.

  Args:
    name: the data set's name.
    keys: names of `letters` letters, each told with its values.
    values: codes of `digits` digits of each key.
    queries: keys that are asked for.
    length: T, bytes of an example.
    letters: 1 to 12.
    digits: at least 1.
    depth: of needles that are asked for, as in `needle`; so are the next three.
    corpus: of the haystack.
    cache_dir: of the corpus.
    test_length: T of the split test.
    examples: as in `generated.task`; so are the next two.
    held_out: of each other split.
    seed: of all.

  Raises:
    ValueError: if an option is out of its range, or the needles and questions do not
      fit the length.
  """
  haystack.check(letters=letters, digits=digits, depth=depth, corpus=corpus)
  options = {"letters": letters, "digits": digits, "keys": keys}
  options |= {"values": values, "queries": queries}
  lengths = generated.lengths(length, test_length)
  make = _makes(lengths, {**options, "depth": depth}, corpus, cache_dir)
  sizes = {"examples": examples, "held_out": held_out, "seed": seed}
  return generated.task(name, make, vocab=256, length=length, **sizes)


def _makes(lengths, options, corpus: str, cache_dir: str) -> dict[str, generated.Make]:
  """Returns what draws examples of each split."""
  found: dict[str, generated.Make] = {}
  for split in SPLITS:
    _check(lengths[split], **{n: v for n, v in options.items() if n != "depth"})
    given = {"hay": haystack.source(corpus, cache_dir, split), "length": lengths[split]}
    found[split] = functools.partial(example, **given, **options)
  return found


def example(
  rng: np.random.Generator,
  *,
  hay: haystack.Hay,
  length: int,
  letters: int,
  digits: int,
  depth: float,
  keys: int,
  values: int,
  queries: int,
) -> Example:
  """Draws tokens and labels, int32, (length,).

  The first `queries` keys are asked for, in the order in which they are drawn; the
  values of a key in the order of the text.
  """
  names = _names(rng.choice(26**letters, keys, replace=False), letters)
  codes = rng.integers(ord("0"), ord("9") + 1, (keys, values, digits), dtype=np.uint8)
  shares = rng.random((keys, values))
  if depth != -1:
    shares[:queries] = depth
  needed = _bytes(letters, digits, keys, values, queries)
  text = hay(rng, length - needed)
  told, answers = [], []
  for key, (name, own) in enumerate(zip(names, codes)):
    places = [haystack.boundary(text, share) for share in shares[key]]
    order = np.argsort(places, kind="stable")
    told += [(places[i], haystack.said(name, bytes(own[i]))) for i in order]
    answers.append(_answer(name, [bytes(own[i]) for i in order]))
  told.sort(key=lambda one: one[0])
  body = haystack.inserted(text, told) + b"\n"
  asked = b"".join(part for part, _ in answers[:queries])[: -len(b". ")]
  counted = np.concatenate([where for _, where in answers[:queries]])[: len(asked)]
  whole = np.frombuffer(body + asked, np.uint8).astype(np.int32)
  counted = np.concatenate([np.zeros(len(body), bool), counted])
  labels = np.where(counted[1:], whole[1:], -1).astype(np.int32)
  return {"tokens": whole[:-1], "labels": labels}


def _check(length: int, *, letters, digits, keys, values, queries) -> None:
  """Raises ValueError for counts out of their range or more bytes than the length."""
  check_least(keys=(keys, 1), values=(values, 1), queries=(queries, 1))
  if queries > keys:
    raise ValueError(f"queries = {queries} of keys = {keys}; each is asked for once")
  if letters > _LETTERS or keys > 26**letters:
    raise ValueError(
      f"letters = {letters}, keys = {keys}; a key has 1 to {_LETTERS} letters, and no"
      " two keys are equal"
    )
  shortest = _bytes(letters, digits, keys, values, queries)
  if length < shortest:
    raise ValueError(
      f"length = {length}; {keys} x {values} needles and {queries} questions of"
      f" {letters} letters and {digits} digits have {shortest} bytes"
    )


def _bytes(letters: int, digits: int, keys: int, values: int, queries: int) -> int:
  """Returns the bytes of all needles, and of the questions but for the last digit."""
  needle = len(haystack.said(b"x" * letters, b"0" * digits))
  answer, _ = _answer(b"x" * letters, [b"0" * digits] * values)
  return keys * values * needle + len(b"\n") + queries * len(answer) - len(b"0. ")


def _answer(name: bytes, codes: list[bytes]) -> tuple[bytes, np.ndarray]:
  """Returns (the sentence that tells all codes of a key, where it has digits)."""
  text = haystack.said(name, _BETWEEN.join(codes))
  first = text.index(b" is ") + len(b" is ")
  counted = np.zeros(len(text), bool)
  for number, code in enumerate(codes):
    start = first + number * (len(code) + len(_BETWEEN))
    counted[start : start + len(code)] = True
  return text, counted


def _names(numbers: np.ndarray, letters: int) -> list[bytes]:
  """Returns the names of numbers below 26^letters, their digits to the base 26."""
  digits = numbers[:, None] // 26 ** np.arange(letters)[::-1] % 26
  return [bytes((ord("a") + row).astype(np.uint8)) for row in digits]
