"""Questions about scenes for small vision-language models, and rows of one training.

A model is trained once for each learning rate and seed, and scored in several ways, one
row each: interventions need no training of their own.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.models import fusion
from experiments import data, small
from experiments.claims.claim import Row, Score


@functools.lru_cache(maxsize=32)
def drawn(seed: int, split: str, count: int, **options: Any) -> dict[str, np.ndarray]:
  """Returns the first `count` examples of scenes with these options, stacked."""
  sizes = {"seed": seed, "examples": count, "held_out": count}
  source = data.load("scenes", options | sizes).source(split)
  found = [source[i] for i in range(count)]
  return {name: np.stack([one[name] for one in found]) for name in found[0]}


def built(slug: Any, **options: Any) -> fusion.Model:
  """Returns a vision-language model of scenes around a mechanism.

  Args:
    slug: a slug, (slug, its options), or a constructor.
    **options: of `fusion.Model`, `rngs` among them.
  """
  words = data.load("scenes").vocab
  layer = small.layer(slug, fusion.FORMS)
  return fusion.Model([layer], channels=3, vocab=words, **options)


def loss(call: Any, batch: Any) -> jax.Array:
  """Returns the mean cross-entropy of the answers' words, in nats."""
  counted = batch["labels"] >= 0
  losses = optax.softmax_cross_entropy_with_integer_labels(
    call(batch), jnp.where(counted, batch["labels"], 0)
  )
  return jnp.sum(losses * counted) / jnp.maximum(counted.sum(), 1)


def right(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the share of the answers' words that are the likeliest ones."""
  counted = labels >= 0
  return ((logits.argmax(-1) == labels) & counted).sum() / counted.sum()


class Trainings:
  """Models of one kind, trained once for each learning rate and seed.

  Args:
    build: random key -> model, called with a batch.
    problem: what it learns.
    recipe: how.
  """

  def __init__(
    self,
    build: Callable[[jax.Array], nnx.Module],
    problem: small.Problem,
    recipe: small.Recipe,
  ):
    self.build, self.problem, self.recipe = build, problem, recipe
    self._known: dict[tuple[float, int], Any] = {}

  def model(self, run: tuple[float, int]) -> tuple[Any, int]:
    """Returns a trained model and the number of its parameters."""
    if run not in self._known:
      found = small.train(self.build, self.problem, self.recipe, [run])
      one = jax.tree.map(lambda leaf: leaf[0], found.models)
      self._known[run] = one, found.parameters
    return self._known[run]

  def row(self, name: str, kind: str, score: Callable[[Any, Any], Any]) -> Row:
    """Returns a row: `score(model, examples of a split)` of the trained models.

    Args:
      name: in the table.
      kind: one of `experiments.claims.claim.KINDS`.
      score: a function of a model and a batch to the claim's number, not compiled.
    """

    def train(runs: Sequence[tuple[float, int]]) -> list[Score]:
      found = []
      for run in runs:
        model, parameters = self.model(run)
        held = [self.problem.examples(run[1], s) for s in ("test", "validation")]
        found.append(Score(*(float(score(model, x)) for x in held), parameters))
      return found

    return Row(name, kind, train)
