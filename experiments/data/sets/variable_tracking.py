"""Variable tracking: name all variables that have a value, directly or by another one.

Cheng-Ping Hsieh et al. RULER: What's the Real Context Size of Your Long-Context
Language Models? 2024. arXiv:2404.06654, section 3.2; https://github.com/NVIDIA/RULER.

With V symbols, 0 to noise - 1 are noise, then come `names`, then `values`, then SET and
ASK, a word of RULER's sentences each. A chain has `hops` + 1 statements of three
tokens: "SET x v", VAR x = v, then "SET y x", VAR y = VAR x, and so on, each of the
variable that was set before; `chains` of them have different names and values. All
statements stand at random places among T - hops - 2 tokens, the others noise, those of
a chain in their order. Then come ASK and the value of one of the chains; the labels,
from that value on, are its variables in the order of the chain, all but the last also
tokens.

RULER: 1 chain of 4 hops, in sentences that repeat and say nothing, asked for in any
order; its models by length are in `needle_multi_key`. Sparse attention fails on it at a
sparsity of .5 to .67 (arXiv:2504.17768). Not here: answers in another order, and an
example of the task before the text.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task, check_least


def task(
  *,
  length: int = 128,
  chains: int = 2,
  hops: int = 4,
  names: int = 32,
  values: int = 10,
  noise: int = 16,  # symbols of it
  test_length: int = 0,  # of the split test; 0 is `length`
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if chains exceed the length, the names or values."""
  check_least(chains=(chains, 1), hops=(hops, 0), noise=(noise, 1))
  statements = chains * (hops + 1)
  if names < statements or values < chains:
    raise ValueError(
      f"names = {names}, values = {values}; {chains} chains of {hops} hops have"
      f" {statements} variables and {chains} values, all different"
    )
  lengths = generated.lengths(length, test_length)
  for one in lengths.values():
    if one < 3 * statements + hops + 2:
      raise ValueError(
        f"length = {one}; {statements} statements of 3 tokens, the question and the"
        f" answers but the last have {3 * statements + hops + 2}"
      )
  sizes = {"chains": chains, "hops": hops, "names": names, "values": values}
  makes = {
    split: functools.partial(example, length=lengths[split], noise=noise, **sizes)
    for split in SPLITS
  }
  return generated.task(
    "variable_tracking",
    makes,
    vocab=noise + names + values + 2,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator,
  *,
  length: int,
  chains: int,
  hops: int,
  names: int,
  values: int,
  noise: int,
) -> Example:
  """Draws tokens and labels, int32, (length,); the first chain is asked for."""
  ask = noise + names + values + 1
  variables = noise + rng.choice(names, (chains, hops + 1), replace=False)
  given = noise + names + rng.choice(values, chains, replace=False)
  count, body = chains * (hops + 1), length - hops - 2
  # A statement counts as one when its place is drawn, and is three tokens long.
  places = np.sort(rng.choice(body - 2 * count, count, replace=False))
  tokens = rng.integers(noise, size=length)
  done = [0] * chains
  owners = rng.permutation(np.repeat(np.arange(chains), hops + 1))
  for number, (place, chain) in enumerate(zip(places, owners)):
    hop = done[chain]
    source = variables[chain, hop - 1] if hop else given[chain]
    first = place + 2 * number
    tokens[first : first + 3] = ask - 1, variables[chain, hop], source
    done[chain] += 1
  tokens[body:] = ask, given[0], *variables[0, :-1]
  labels = np.full(length, -1, np.int32)
  labels[body + 1 :] = variables[0]
  return {"tokens": tokens.astype(np.int32), "labels": labels}
