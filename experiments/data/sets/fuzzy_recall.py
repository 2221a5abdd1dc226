"""Fuzzy recall: in-context recall where keys and values are of one to three tokens.

Michael Poli et al. Mechanistic Design and Scaling of Hybrid Architectures (MAD). 2024.
arXiv:2403.17844, section 3.1; https://github.com/athms/mad-lab at 0f49a452.

With V symbols and T tokens: V - 1 is the padding; of the others the first half makes
keys, the second half values (without `multi_query` V - 1 announces the last key, and V
- 2 is the padding). A key is of 1..`key_size` different symbols in a row, a value of
1..`value_size`; each size is equally likely, and so is each arrangement. Outside the
split train every key has `key_size` symbols. Keys with the value that they have in this
example follow one another while fewer than T - p - m symbols are there, where p is the
size of the pair that is asked for in the end and m = key_size + value_size; that pair
is among them, at a random place. It comes again at the end, and padding fills the left
up to T + 1 symbols. The labels are the values of keys that came before, each symbol at
the position before it (without `multi_query` only those of the last key).

With `every_token`, as in MAD, the split train labels every position with the next
token. MAD's code draws the place of the pair from a range where it is sometimes
forgotten, and then cannot be told; here the range ends so that it never is.

MAD: V 16, T 128, sizes up to 3, 12,800 examples; harder with V 32, 64, 128, with T 256,
512, 1,024, or with 6,400 to 800 examples.
"""

import functools

import numpy as np

from experiments.data import generated, recall
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task, check_least

Motif = tuple[int, ...]


def task(
  *,
  vocab: int = 16,
  length: int = 128,
  key_size: int = 3,
  value_size: int = 3,
  multi_query: bool = True,
  every_token: bool = True,  # of the split train
  examples: int = 12_800,  # of the split train
  held_out: int = 1_280,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if sizes exceed the length or the vocabulary."""
  check_least(key_size=(key_size, 1), value_size=(value_size, 1))
  keys, values, _ = recall.symbols(vocab, 0, 1 if multi_query else 2)
  if key_size > keys.size or value_size > values.size:
    raise ValueError(
      f"key_size = {key_size} and value_size = {value_size} need as many different"
      f" symbols; vocab = {vocab} has {keys.size} of keys and {values.size} of values"
    )
  if length < 3 * (key_size + value_size):
    raise ValueError(
      f"length = {length}; it must be at least 3 x ({key_size} + {value_size}) ="
      f" {3 * (key_size + value_size)}, three pairs of the largest size"
    )

  def make(split: str) -> generated.Make:
    return functools.partial(
      example,
      vocab=vocab,
      length=length,
      key_sizes=range(1 if split == "train" else key_size, key_size + 1),
      value_sizes=range(1, value_size + 1),
      multi_query=multi_query,
      every_token=every_token and split == "train",
    )

  return generated.task(
    "fuzzy_recall",
    {split: make(split) for split in SPLITS},
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
  key_sizes: range,
  value_sizes: range,
  multi_query: bool,
  every_token: bool,
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  special = 1 if multi_query else 2
  key_symbols, value_symbols, _ = recall.symbols(vocab, 0, special)
  largest = key_sizes[-1] + value_sizes[-1]
  most = length // (key_sizes[0] + value_sizes[0])
  keys = _motifs(rng, key_symbols, key_sizes, most)
  values = _motifs(rng, value_symbols, value_sizes, most)
  drawn = zip(keys, values)
  last = next(drawn)
  size = len(last[0]) + len(last[1])
  end = length - size - largest
  place = int(rng.integers(end - largest + 1))

  tokens: list[int] = []
  targets: list[int] = []
  value_of: dict[Motif, Motif] = {}
  while len(tokens) < end:
    if len(tokens) >= place and last[0] not in value_of:
      key, value = last
    else:
      key, value = next(drawn)
      value = last[1] if key == last[0] else value
    asked = multi_query and key in value_of
    value = value_of.setdefault(key, value)
    tokens += [*key, *value]
    targets += [-1] * len(key) + (list(value) if asked else [-1] * len(value))
  announced = [] if multi_query else [vocab - 1]
  tokens += [*announced, *last[0], *last[1]]
  targets += [-1] * (len(announced) + len(last[0])) + list(last[1])
  padding = length + 1 - len(tokens)
  tokens = [vocab - special] * padding + tokens
  targets = [-1] * padding + targets
  return generated.shifted(tokens, tokens if every_token else targets, length)


def _motifs(
  rng: np.random.Generator, symbols: np.ndarray, sizes: range, count: int
) -> list[Motif]:
  """Draws motifs: a size, and so many different symbols in a random order."""
  orders = rng.permuted(np.tile(symbols, (count, 1)), axis=1).tolist()
  drawn = rng.integers(sizes[0], sizes[-1] + 1, size=count).tolist()
  return [tuple(order[:size]) for order, size in zip(orders, drawn)]
