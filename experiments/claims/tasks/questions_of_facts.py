"""Facts in noise, and questions about them: one, several, and a chain of them.

A row holds 8 facts "a b", which make one cycle of 8 symbols, at random places among
`length` tokens, the others noise of 8 symbols. Then come four tokens of questions and
eight that are decoded, of one of two kinds, half of the rows each:

  chain    three of noise, then a symbol a;  a, and the next seven of its cycle
  queries  four different symbols;           each of them, and the one after it

The labels are the symbols after the decoded ones, of "queries" after those that are
asked for. The prompt ends with the questions, so that what is chosen at its end sees
what is asked, as in arXiv:2504.17768, but not what a chain asks for next. The first
answer of a chain is the task "needle", the others are "chain". No task of the shared
suite has questions of all these kinds about one text.

Models of two layers with convolutions of three tokens and no positions are trained with
full attention, once for all rows. Seen before the registration, of full attention
alone: 16 facts among 96 tokens were not learned in 800 steps, width 32, rate 0.003;
12 facts among 64 begun to be in 480, width 48, rate 0.01; 8 facts among 64 tokens were
to 0.97 in 1,000, width 32, rate 0.01, and 0.93 among 32. Under a policy nothing was run
but untrained models.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import decoding, small
from experiments.claims.claim import Row, Score
from experiments.data.task import SPLITS
from experiments.small import problem as problems

FACTS, NOISE, ASKED, STEPS = 8, 8, 4, 8
LENGTH, TRAIN, HELD_OUT = 64, 8192, 1024
TASKS = ("needle", "queries", "chain")
RECIPE = small.Recipe(steps=1000, batch=32, decay=0.0)


@functools.cache
def examples(seed: int, split: str, length: int = LENGTH) -> dict[str, np.ndarray]:
  """Returns the rows of a split (B, length + 12), and their labels; even rows chain."""
  rng = np.random.default_rng([seed, SPLITS.index(split), length])
  count = TRAIN if split == "train" else HELD_OUT
  tokens = FACTS + rng.integers(NOISE, size=(count, length + ASKED + STEPS))
  labels = np.full_like(tokens, -1)
  for number, (row, label) in enumerate(zip(tokens, labels)):
    cycle, order = rng.permutation(FACTS), rng.permutation(FACTS)
    after = np.zeros(FACTS, int)
    after[cycle] = np.roll(cycle, -1)
    # A fact counts as one when its place is drawn, and is two tokens long.
    places = np.sort(rng.choice(length - FACTS, FACTS, replace=False))
    places += np.arange(FACTS)
    row[places], row[places + 1] = order, after[order]
    asked, decoded = row[length : length + ASKED], row[length + ASKED :]
    if number % 2:
      asked[:] = rng.choice(FACTS, ASKED, replace=False)
      decoded[::2], decoded[1::2] = asked, after[asked]
      label[length + ASKED :: 2] = after[asked]
    else:
      start = int(rng.integers(FACTS))
      decoded[:] = np.roll(cycle, -start)[:STEPS]
      asked[-1] = decoded[0]
      label[length + ASKED :] = after[decoded]
  return {"tokens": tokens.astype(np.int32), "labels": labels.astype(np.int32)}


@functools.cache
def model(dim: int) -> Callable[[jax.Array], Any]:
  """Returns what makes a language model of a width from a random key."""
  softmax = "dot_product", {"heads": 4, "kv_heads": 2, "rope_theta": 0.0}
  return small.language([softmax], vocab=FACTS + NOISE, dim=dim, depth=2, conv=3)


PROBLEM = small.Problem(examples, problems.labels_loss, problems.labels_score)
_known: dict[Any, tuple[Any, int]] = {}
_scored: dict[Any, dict[str, np.ndarray]] = {}


def trained(dim: int, run: tuple[float, int], recipe=RECIPE) -> tuple[Any, int]:
  """Returns the model of a width and a (rate, seed), and its number of parameters."""
  key = dim, run, recipe
  if key not in _known:
    found = small.train(model(dim), PROBLEM, recipe, [run])
    one = jax.tree.map(lambda leaf: leaf[0], found.models)
    _known[key] = one, found.parameters
  return _known[key]


@functools.cache
def _right(policy: Any, prompt: int) -> Callable:
  """Returns the compiled answers that are right, of rows under a policy."""

  @jax.jit
  def right(model, tokens, labels):
    found = decoding.logits(model, tokens, prompt=prompt, policy=policy)
    return found.argmax(axis=-1)[:, -STEPS:] == labels[:, -STEPS:]

  return right


def scores(
  dim: int,
  run: tuple[float, int],
  policy: Any,
  *,
  split: str = "test",
  length: int = LENGTH,
  in_prompt: bool = False,
  recipe: small.Recipe = RECIPE,
) -> dict[str, np.ndarray]:
  """Returns the share of right answers of each row, by task.

  Args:
    dim: width of the model.
    run: its rate, and the seed.
    policy: None for full attention.
    split: of the rows.
    length: of the text before the questions.
    in_prompt: whether the answers are in the prompt's step, too: nothing is decoded.
    recipe: of the model.
  """
  key = dim, run, policy, split, length, in_prompt, recipe
  if key not in _scored:
    rows = examples(run[1], split, length)
    prompt = rows["tokens"].shape[1] if in_prompt else length + ASKED
    one, _ = trained(dim, run, recipe)
    right = np.asarray(_right(policy, prompt)(one, rows["tokens"], rows["labels"]))
    chain, queries = right[::2].astype(float), right[1::2, ::2].astype(float)
    _scored[key] = {
      "needle": chain[:, 0],
      "queries": queries.mean(axis=1),
      "chain": chain[:, 1:].mean(axis=1),
    }
  return _scored[key]


def row(
  name: str,
  kind: str,
  measure: Callable[[tuple[float, int]], float],
  dims: tuple[int, ...],
  recipe: small.Recipe = RECIPE,
) -> Row:
  """Returns a row whose rate is the best one of full attention, the same for all rows.

  A score that compares with full attention is the best for models that know nothing.

  Args:
    name: in the table.
    kind: one of `experiments.claims.claim.KINDS`.
    measure: the score of a (rate, seed), on test data.
    dims: widths of the models that it is about; their parameters are added up.
    recipe: of the models.
  """

  def train(runs):
    found = []
    for run in runs:
      options = {"split": "validation", "recipe": recipe}
      full = [scores(dim, run, None, **options) for dim in dims]
      held = np.mean([one[task].mean() for one in full for task in TASKS])
      count = sum(trained(dim, run, recipe)[1] for dim in dims)
      found.append(Score(float(measure(run)), float(held), count))
    return found

  return Row(name, kind, train)
