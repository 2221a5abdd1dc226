"""The proxy task: find the value of a key in a JSON text, and copy it."""

import dataclasses
import json
import string
from collections.abc import Callable, Iterator, Sequence

import numpy as np

_SUBJECTS = "The teacher|A farmer|My sister|The old sailor|Her friend|A young doctor"
_VERBS = "found|carried|painted|forgot|repaired|described|sold|counted"
_OBJECTS = "a wooden boat|the last letter|two silver coins|a map of the coast"
_OBJECTS += "|the broken clock|some fresh bread|a small garden|the heavy door"
_PLACES = "near the river|after the storm|in the quiet library|before breakfast"
_PLACES += "|on the way home|behind the old church|at the market|under the bridge"
_PARTS = tuple(part.split("|") for part in (_SUBJECTS, _VERBS, _OBJECTS, _PLACES))


@dataclasses.dataclass(frozen=True)
class Sample:
  """A row of tokens that ends with an answer, and where the answer stands before.

  Attributes:
    tokens: (T,) int32, prompt and answer.
    start: the first token of the answer.
    span: (start, end) of the needle in the prompt.
  """

  tokens: np.ndarray
  start: int
  span: tuple[int, int]


def sample(
  seed: int,
  number: int,
  *,
  pairs: int = 16,
  demonstrations: int = 3,
  key_size: int = 32,
  longest: int = 4096,
  encode: Callable[[str], Sequence[int]] = lambda text: text.encode(),
) -> Sample:
  """Returns a sample: a context of pairs, demonstrations, a key and its value.

  Args:
    seed: of all samples.
    number: of this one.
    pairs: keys with values in the context.
    demonstrations: questions with their answers before the last question.
    key_size: letters and digits of a key.
    longest: tokens that a sample may have.
    encode: text to tokens; bytes by default. The tokens of a text must be those of its
      parts one after the other.

  Raises:
    ValueError: if there are fewer pairs than questions, or the sample is too long.
  """
  if pairs <= demonstrations:
    raise ValueError(f"pairs = {pairs}; it must be above {demonstrations}, all asked")
  rng = np.random.default_rng([seed, number])
  letters = np.array(list(string.ascii_letters + string.digits))
  keys = ["".join(rng.choice(letters, key_size)) for _ in range(pairs)]
  values = [sentence(rng) for _ in keys]
  asked = rng.permutation(pairs)[: demonstrations + 1]
  parts, spans = ["{"], []
  for i, (key, value) in enumerate(zip(keys, values)):
    parts += [", " if i else "", f"{json.dumps(key)}: ", '"']
    spans.append(len(parts))
    parts += [value, '"']
  parts.append("}\n")
  for i in asked[:-1]:
    parts.append(f"Question: {keys[i]}\nAnswer: {values[i]}\n")
  parts += [f"Question: {keys[asked[-1]]}\nAnswer: ", values[asked[-1]]]
  tokens = [list(encode(part)) for part in parts]
  ends = np.cumsum([len(part) for part in tokens])
  if ends[-1] > longest:
    raise ValueError(f"sample {number} has {ends[-1]} tokens; it may have {longest}")
  needle = spans[asked[-1]]
  flat = np.array([token for part in tokens for token in part], np.int32)
  return Sample(flat, int(ends[-2]), (int(ends[needle - 1]), int(ends[needle])))


def samples(seed: int, number: int = 800, **options) -> Iterator[Sample]:
  """Yields samples; the paper takes 800. See `sample` for the options."""
  for i in range(number):
    yield sample(seed, i, **options)


def sentence(rng: np.random.Generator) -> str:
  """Draws an English sentence of about ten words."""
  return " ".join(str(rng.choice(part)) for part in _PARTS) + "."
