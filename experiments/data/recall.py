"""Keys and values in a row, the material of three recall tasks of the MAD suite.

Michael Poli et al. Mechanistic Design and Scaling of Hybrid Architectures. 2024.
arXiv:2403.17844, section 3; https://github.com/athms/mad-lab, mad/data/instances.py.
"""

import functools
from typing import Any

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task, check_least


def symbols(vocab: int, noise_vocab: int, special: int) -> tuple[np.ndarray, ...]:
  """Returns (keys, values, noise): vocab - special symbols in this order.

  Raises:
    ValueError: if there is no key or no value.
  """
  check_least(noise_vocab=(noise_vocab, 0))
  content = vocab - special - noise_vocab
  if content < 2:
    raise ValueError(
      f"vocab = {vocab} leaves {content} keys and values beside noise_vocab ="
      f" {noise_vocab} and {special} special symbols; it needs at least 2"
    )
  keys, values, noise, _ = np.split(
    np.arange(vocab), [content // 2, content, content + noise_vocab]
  )
  return keys, values, noise


def check_noise(noise: float, noise_vocab: int) -> None:
  """Raises ValueError unless the share of noise is one, and has symbols."""
  if not 0 <= noise < 1:
    raise ValueError(f"noise = {noise}; it must be at least 0 and below 1")
  if noise and noise_vocab < 1:
    raise ValueError(f"noise = {noise} needs a noise_vocab of 1; it is {noise_vocab}")


def task(
  name: str,
  *,
  every_token: bool,
  examples: int,
  held_out: int,
  seed: int,
  **options: Any,
) -> Task:
  """Returns the task of `pairs` with these options.

  Args:
    name: the data set's name.
    every_token: labels every position of the split train with the next token.
    examples: of the split train.
    held_out: examples of each other split.
    seed: of the whole data set.
    options: `vocab`, `length`, `noise_vocab`, `noise` and `multi_query` of `pairs`.

  Raises:
    ValueError: if the length is odd or symbols are too few.
  """
  check_noise(options["noise"], options["noise_vocab"])
  sizes = {n: options[n] for n in ("vocab", "length", "noise_vocab", "multi_query")}
  check_pairs(**sizes)
  makes = {
    split: functools.partial(
      pairs, **options, every_token=every_token and split == "train"
    )
    for split in SPLITS
  }
  return generated.task(
    name,
    makes,
    vocab=options["vocab"],
    length=options["length"],
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def pairs(
  rng: np.random.Generator,
  *,
  vocab: int,
  length: int,
  noise_vocab: int,
  noise: float,
  multi_query: bool,
  every_token: bool,
) -> Example:
  """Draws T/2 pairs of a key and its value, or of noise; the last repeats a key."""
  keys, values, noises = symbols(vocab, noise_vocab, 0 if multi_query else 1)
  count = length // 2
  noisy = rng.random(count - 1) < noise
  noisy[rng.integers(count - 1)] = False
  drawn = np.stack([rng.choice(keys, count - 1), rng.choice(values, count - 1)], axis=1)
  if noise:
    drawn = np.where(noisy[:, None], rng.choice(noises, drawn.shape), drawn)
  tokens: list[int] = []
  targets: list[int] = []
  value_of: dict[int, int] = {}
  for (key, value), meaningless in zip(drawn.tolist(), noisy):
    if meaningless:
      tokens += [key, value]
      targets += [-1, -1]
      continue
    seen = key in value_of
    value = value_of.setdefault(key, value)
    tokens += [key, value]
    targets += [-1, value if seen and multi_query else -1]
  key = list(value_of)[int(rng.integers(len(value_of)))]
  if not multi_query:
    tokens, targets = [*tokens, vocab - 1], [*targets, -1]
  tokens += [key, value_of[key]]
  targets += [-1, value_of[key]]
  return generated.shifted(tokens, tokens if every_token else targets, length)


def check_pairs(vocab: int, length: int, noise_vocab: int, multi_query: bool) -> None:
  """Raises ValueError if `pairs` cannot draw with these sizes."""
  check_least(length=(length, 4))
  if length % 2:
    raise ValueError(f"length = {length}; pairs of two tokens need an even length")
  symbols(vocab, noise_vocab, 0 if multi_query else 1)
