"""ListOps: tell the value of a tree of operations on digits.

Nikita Nangia, Samuel R. Bowman. ListOps. 2018. arXiv:1804.06028; Yi Tay et al. Long
Range Arena. 2020. arXiv:2011.04006; https://github.com/google-research/
long-range-arena at cd31e5c6, lra_benchmarks/data/listops.py.

A node at a depth below `depth` (the root's is 1) is with probability 1/4 an operator
with 2 to `arguments` nodes, each number equally likely, else a digit; at `depth` it is
a digit. The operators, equally likely, are MIN, MAX, MED (the median, rounded down) and
SM (the sum modulo 10). Only trees of `shortest` to `length` tokens are kept. Tokens:
the digits 0..9; 10 [MIN, 11 [MAX, 12 [MED, 13 [SM; 14 the bracket that closes; 15
padding, on the left, so that the tree ends at the last position, which alone has a
label, its value. Brackets are as in the trees of the benchmark after its tokenizer,
which drops those of the binary branches. Not here: the benchmark's rule that no tree
comes twice.

Literature: depth 10, 10 arguments, 500 to 2,000 tokens, 96,000 examples of training,
2,000 of each other split; accuracy 36.4 Transformer, 37.3 Reformer, 36.1 BigBird, 35.7
Linformer, 18.0 Performer, 16.1 linear Transformer, 15.8 local attention; the most
frequent class alone gives about 17.
"""

import functools
from collections.abc import Sequence

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least

MIN, MAX, MED, SM, CLOSE, PADDING = range(10, 16)
VOCAB = 16
_TRIES = 1_000_000


def task(
  *,
  length: int = 200,
  shortest: int = 20,
  depth: int = 5,
  arguments: int = 5,
  examples: int = 10_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task, its vocabulary 16; ValueError if no tree has such a size."""
  check_least(depth=(depth, 2), arguments=(arguments, 2), shortest=(shortest, 4))
  check_least(length=(length, shortest))
  longest = 1
  for _ in range(depth - 1):
    longest = 2 + arguments * longest
  if shortest > longest:
    raise ValueError(
      f"shortest = {shortest}; the largest tree of depth = {depth} and arguments ="
      f" {arguments} has {longest} tokens"
    )
  return generated.task(
    "listops",
    functools.partial(
      example, length=length, shortest=shortest, depth=depth, arguments=arguments
    ),
    vocab=VOCAB,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator, *, length: int, shortest: int, depth: int, arguments: int
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  tree: list[int] = []
  for _ in range(_TRIES):
    # A root that is a digit would be too short.
    tree, value = _operation(rng, depth, arguments)
    if shortest <= len(tree) <= length:
      break
  else:
    raise ValueError(
      f"none of {_TRIES} trees of depth = {depth} and arguments = {arguments} has"
      f" shortest = {shortest} to length = {length} tokens"
    )
  tokens = np.full(length, PADDING, np.int32)
  labels = np.full(length, -1, np.int32)
  tokens[-len(tree) :], labels[-1] = tree, value
  return {"tokens": tokens, "labels": labels}


def apply(operator: int, values: Sequence[int]) -> int:
  """Returns the value of an operator, one of MIN, MAX, MED, SM, of these values."""
  if operator == MIN:
    return min(values)
  if operator == MAX:
    return max(values)
  if operator == MED:
    return int(np.median(values))
  return sum(values) % 10


def _operation(
  rng: np.random.Generator, depth: int, arguments: int
) -> tuple[list[int], int]:
  """Draws (tokens, value) of an operator's node with `depth` levels, its own first."""
  tokens, values = [int(rng.integers(MIN, CLOSE))], []
  for _ in range(int(rng.integers(2, arguments + 1))):
    if depth > 2 and rng.random() <= 0.25:
      inner, value = _operation(rng, depth - 1, arguments)
    else:
      value = int(rng.integers(10))
      inner = [value]
    tokens += inner
    values.append(value)
  return [*tokens, CLOSE], apply(tokens[0], values)
