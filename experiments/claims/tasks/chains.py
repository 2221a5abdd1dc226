"""Chained lookup, written step by step, by models that decode under a cache policy.

A row holds 16 facts "a b" in random order, which make one cycle of 16 symbols, each
before two tokens of noise of 16 others; then a symbol, and after it the next 12 of the
cycle. A step needs one fact, and another one than the step before: choices of one step
do not serve the next. No task of the shared suite is decoded over many steps. The
models, 4 layers 64 wide with convolutions of three tokens and no positions, are
trained with full attention, once for all rows; a row decodes their own continuation of
the symbol, greedily, under its policy. The facts are the prompt, whose queries see
everything.

Seen before the registration, of full attention alone: 32 facts of 64 symbols, with no
noise, were not learned in 600 steps, nor 16 facts with rotary positions in 500; these
rows were, with the rate 0.003: of 2,000 steps, 0.99 of the symbols are right after 800.
Under a policy only untrained models were run.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import decoding, small
from experiments.claims.claim import Row, Score
from experiments.data.task import SPLITS
from experiments.small import problem as problems

FACTS, HOPS, NOISE, SPAN = 16, 12, 16, 4
PROMPT, ROW = SPAN * FACTS, SPAN * FACTS + HOPS + 1
TRAIN, HELD_OUT = 8192, 256
DEPTH = 4
RECIPE = small.Recipe(steps=1500, batch=32, decay=0.0)


@functools.cache
def examples(seed: int, split: str) -> dict[str, np.ndarray]:
  """Returns the rows of a split (B, ROW), and labels at the steps of the chain."""
  rng = np.random.default_rng([seed, SPLITS.index(split)])
  count = TRAIN if split == "train" else HELD_OUT
  tokens = np.zeros((count, ROW), np.int32)
  for row in tokens:
    cycle, order = rng.permutation(FACTS), rng.permutation(FACTS)
    row[:PROMPT] = FACTS + rng.integers(NOISE, size=PROMPT)
    row[:PROMPT:SPAN] = cycle[order]
    row[1:PROMPT:SPAN] = np.roll(cycle, -1)[order]
    row[PROMPT:] = np.roll(cycle, -rng.integers(FACTS))[: HOPS + 1]
  labels = np.full_like(tokens, -1)
  labels[:, PROMPT:-1] = tokens[:, PROMPT + 1 :]
  return {"tokens": tokens, "labels": labels}


def model() -> Callable[[jax.Array], Any]:
  """Returns what makes the language model from a random key."""
  softmax = "dot_product", {"heads": 4, "rope_theta": 0.0}
  return small.language([softmax], vocab=FACTS + NOISE, depth=DEPTH, conv=3)


PROBLEM = small.Problem(examples, problems.labels_loss, problems.labels_score)
_known: dict[Any, tuple[Any, int]] = {}
_build = model()


def _trained(recipe, run) -> tuple[Any, int]:
  """Returns the model of a (rate, seed), and its number of parameters."""
  if (recipe, run) not in _known:
    found = small.train(_build, PROBLEM, recipe, [run])
    one = jax.tree.map(lambda leaf: leaf[0], found.models)
    _known[recipe, run] = one, found.parameters
  return _known[recipe, run]


@functools.cache
def _right(policy: Any) -> Callable:
  """Returns the compiled share of right symbols in the chains that a model writes."""

  @jax.jit
  def share(model, tokens):
    given, want = tokens[:, : PROMPT + 1], tokens[:, PROMPT + 1 :]
    options = {"prompt": PROMPT, "policy": policy}
    return jnp.mean(decoding.greedy(model, given, HOPS, **options) == want)

  return share


def row(name: str, kind: str, policy: Any, recipe: small.Recipe = RECIPE) -> Row:
  """Returns a row of the share of right symbols, of models that decode under a policy.

  Args:
    name: in the table.
    kind: one of `experiments.claims.claim.KINDS`.
    policy: of the form "policy"; None for full attention.
    recipe: of the models, which rows of one recipe share.
  """

  def train(runs):
    found = []
    for run in runs:
      model, parameters = _trained(recipe, run)
      test, held = (
        float(_right(policy)(model, examples(run[1], split)["tokens"]))
        for split in ("test", "validation")
      )
      found.append(Score(test, held, parameters))
    return found

  return Row(name, kind, train)
