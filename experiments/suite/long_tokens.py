"""The half of the suite with long contexts: tokens as in `tokens`, of longer examples.

Models and protocol are those of `tokens`; examples have 128 tokens, and a longer test
has 512, four times what a model was trained on. A model sees 3,276,800 tokens in 800
updates, eight times as many as one of `tokens`.

The sizes are the least at which `dot_product`, the only mechanism that was tried, was
seen to learn, with one seed and the rate 0.01: on validation data it came to 0.98 on
four facts of `chained_lookup`, 1.0 on three one-digit values, 0.63 on two keys, and to
0.32 and rising on `variable_tracking`; 16 facts, and codes of four digits, stayed near
chance after 400 updates. Longer tests of it were not looked at, nor were
`long_needle`, `needle_multi_query` and these sizes of `common_words`.
"""

import functools
from typing import Any

import jax

from experiments import data, small
from experiments.suite import tokens, training
from experiments.suite.problems import Problem

LENGTHS = (128, 512)  # each example has one of them
SEEN = 102_400  # tokens of a batch's row in training, all updates together
USES = (tokens,)  # whose code is also part of a registration

mechanisms, builder, answers = tokens.mechanisms, tokens.builder, tokens.answers


def steps(known: Problem) -> int:
  """Returns the number of updates, by which all models see as many tokens."""
  return SEEN // data.load(known.dataset, known.options).shape[0]


@functools.cache
def problem(known: Problem, longer: bool = False) -> small.Problem:
  """Returns what models learn; the longer test alone if asked."""
  options = {**known.options, **(known.longer if longer else {})}
  train, held_out = known.pool or training.POOL, training.HELD_OUT
  if longer:
    train, held_out = 1, training.LONGER_HELD_OUT
  found, _ = small.of_task(known.dataset, train=train, held_out=held_out, **options)
  return found


def state(model: Any) -> dict[str, int]:
  """Returns how many numbers a model keeps of so many tokens when it decodes.

  Nothing where it cannot decode.
  """
  found = {}
  for length in LENGTHS:
    try:
      cache = jax.eval_shape(lambda n=length: model.init_cache(1, n))
    except (AttributeError, NotImplementedError):
      return {}
    found[str(length)] = sum(leaf.size for leaf in jax.tree.leaves(cache))
  return found
