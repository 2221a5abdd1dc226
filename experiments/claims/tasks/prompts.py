"""Recall within a prompt, by models whose prompts see what a policy selects.

Rows of 64 tokens of MQAR hold 8 pairs, then ask for each at places that are drawn
uniformly: most answers are out of reach of a local window. The models, 2 layers 64 wide
with convolutions of three tokens and no positions, are trained with full attention,
once for all rows; a row gives a whole example to their step as a prompt, under its
policy. In the shared suite MQAR is shorter, and a window holds much of it.

Seen before the registration, of full attention alone, with the rate 0.003: rows of 128
tokens with 16 pairs were not learned in 200 steps, and took too long; of these rows
0.82 of the answers are right after 700 steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from attnjax import policies
from experiments import small
from experiments.claims.claim import Row, Score

LENGTH, VOCAB, PAIRS = 64, 64, 8
PROBLEM, _ = small.of_task(
  "mqar",
  train=8192,
  held_out=256,
  vocab=VOCAB,
  length=LENGTH,
  pairs=PAIRS,
  power=1.0,
  random_non_queries=False,
)
RECIPE = small.Recipe(steps=1500, batch=32, decay=0.0)
_known: dict[Any, tuple[Any, int]] = {}
_build = small.language(
  [("dot_product", {"heads": 4, "rope_theta": 0.0})], vocab=VOCAB, depth=2, conv=3
)


def _trained(recipe, run) -> tuple[Any, int]:
  """Returns the model of a (rate, seed), and its number of parameters."""
  if (recipe, run) not in _known:
    found = small.train(_build, PROBLEM, recipe, [run])
    one = jax.tree.map(lambda leaf: leaf[0], found.models)
    _known[recipe, run] = one, found.parameters
  return _known[recipe, run]


@functools.cache
def _right(policy: Any) -> Callable:
  """Returns the compiled share of right answers to a split's prompts."""

  @jax.jit
  def share(model, batch):
    def call(tokens):
      cache = policies.under(policy, model.init_cache(*tokens.shape))
      return model.step(tokens, cache)[0]

    return PROBLEM.score(call, batch)

  return share


def row(name: str, kind: str, policy: Any, recipe: small.Recipe = RECIPE) -> Row:
  """Returns a row of the share of right answers in prompts under a policy.

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
        float(_right(policy)(model, PROBLEM.examples(run[1], split)))
        for split in ("test", "validation")
      )
      found.append(Score(test, held, parameters))
    return found

  return Row(name, kind, train)
