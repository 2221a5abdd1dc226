"""Chained lookup: follow facts from symbol to symbol, and write down every step.

Facts "a b" in noise, then a chain of lookups: the task on which Hossein Entezari Zarch
et al. DELTA. 2025. arXiv:2510.09883 is measured here, since a step of it needs one
fact, and another one than the step before; the claim of `delta` has its own sizes.

The symbols 0 to facts - 1 make one cycle in random order, which is `facts` pairs (a, b
after it); other symbols, `noise` of them, are noise. The first T - hops tokens are
noise with the pairs at random places. Then comes a symbol, and the next `hops` - 1 of
its cycle; the labels, from that symbol on, are the next `hops`.

Literature: DELTA keeps the accuracy of full attention on AIME with 2,048 of some 18,000
tokens, where choices of one step that serve the next lose the chain. Not here: facts
that contradict others, and cycles apart from the one that is asked for.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task, check_least


def task(
  *,
  length: int = 128,
  facts: int = 16,
  hops: int = 8,
  noise: int = 16,  # symbols of it
  test_length: int = 0,  # of the split test; 0 is `length`
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if the facts exceed the length."""
  check_least(facts=(facts, 2), hops=(hops, 1), noise=(noise, 1))
  lengths = generated.lengths(length, test_length)
  for one in lengths.values():
    if one < 2 * facts + hops:
      raise ValueError(
        f"length = {one}; {facts} facts of 2 tokens and {hops} steps have"
        f" {2 * facts + hops}"
      )
  sizes = {"facts": facts, "hops": hops, "noise": noise}
  makes = {
    split: functools.partial(example, length=lengths[split], **sizes)
    for split in SPLITS
  }
  return generated.task(
    "chained_lookup",
    makes,
    vocab=facts + noise,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator, *, length: int, facts: int, hops: int, noise: int
) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  cycle, order = rng.permutation(facts), rng.permutation(facts)
  body = length - hops
  # A fact counts as one when its place is drawn, and is two tokens long.
  places = np.sort(rng.choice(body - facts, facts, replace=False)) + np.arange(facts)
  tokens = facts + rng.integers(noise, size=length)
  tokens[places] = cycle[order]
  tokens[places + 1] = np.roll(cycle, -1)[order]
  steps = cycle[(int(rng.integers(facts)) + np.arange(hops + 1)) % facts]
  tokens[body:] = steps[:-1]
  labels = np.full(length, -1, np.int32)
  labels[body:] = steps[1:]
  return {"tokens": tokens.astype(np.int32), "labels": labels}
