"""The protocol of the suite: one model, one optimizer, three rates, three seeds.

A mechanism replaces the mixer in two blocks of width 64, each followed by SwiGLU, as in
the blocks of MAD (Michael Poli et al. Mechanistic Design and Scaling of Hybrid
Architectures. arXiv:2403.17844, section 3); options are the Layer's own defaults, with
heads of 16. AdamW with weight decay 0.1, clipped to a norm of 1, warm-up over a tenth
of the steps and a cosine to zero; batches of 64. The first seed tries three rates, and
the best of them on validation data trains the others. Models of several seeds, or
rates, train together in one program.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from attnjax import contract
from experiments import small
from experiments.data.task import Task
from experiments.suite.problems import Problem

DIM, DEPTH, HEADS, BATCH = 64, 2, 4, 64
RATES = (1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
HELD_OUT = 512


@dataclasses.dataclass(frozen=True)
class Result:
  """One trained model.

  Attributes:
    rate: the learning rate.
    seed: of the data, the initial weights and the order.
    validation: accuracy on validation data, by which a rate is chosen.
    test: accuracy on test data.
    longer: accuracy on longer test data; NaN where a problem has none.
  """

  rate: float
  seed: int
  validation: float
  test: float
  longer: float


def mechanisms() -> list[str]:
  """Returns the systems that have a layer of the form "causal"."""
  known = contract.systems()
  return [s for s in known if "causal" in contract.layer_forms(contract.load(s))]


def measured(slug: str, problem: Problem) -> dict[str, Any]:
  """Trains a mechanism on a problem; returns its row, ready for JSON."""
  begun = time.monotonic()
  _, known = task(problem)
  build = builder(slug, known)
  tried = _trained(build, problem, [(rate, SEEDS[0]) for rate in RATES])
  best = max(tried, key=lambda result: np.nan_to_num(result.validation, nan=-1.0))
  rest = _trained(build, problem, [(best.rate, seed) for seed in SEEDS[1:]])
  model = jax.eval_shape(lambda: build(jax.random.key(0)))
  return {
    "rates": [dataclasses.asdict(result) for result in tried],
    "seeds": [dataclasses.asdict(result) for result in (best, *rest)],
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(model)),
    "state": state(model, known.shape[0]),
    "seconds": round(time.monotonic() - begun, 1),
  }


@functools.lru_cache(maxsize=4)
def task(problem: Problem, longer: bool = False) -> tuple[small.Problem, Task]:
  """Returns what models learn, and its data set; the longer test alone if asked."""
  options = {**problem.options, **(problem.longer if longer else {})}
  sizes = {"train": problem.pool, "held_out": HELD_OUT}
  return small.of_task(problem.dataset, **sizes, **options)


def builder(slug: str, task: Task) -> Any:
  """Returns what makes the model of a mechanism from a random key."""
  known = contract.defaults(slug)
  options = {n: v for n, v in (("heads", HEADS),) if n in known}
  sizes = {"dim": DIM, "depth": DEPTH, "mlp_ratio": 2.0}
  return small.language([(slug, options)], vocab=task.vocab, **sizes)


def state(model: Any, length: int) -> int:
  """Returns the numbers that a model keeps of `length` tokens when it decodes.

  -1 where it cannot decode.
  """
  try:
    cache = jax.eval_shape(lambda: model.init_cache(1, length))
  except (AttributeError, NotImplementedError):
    return -1
  return sum(leaf.size for leaf in jax.tree.leaves(cache))


def _trained(
  build: Any, problem: Problem, runs: Sequence[tuple[float, int]]
) -> list[Result]:
  """Trains the models of (rate, seed) together."""
  recipe = small.Recipe(problem.steps, BATCH)
  learnt, _ = task(problem)
  models = small.train(build, learnt, recipe, runs)
  validation = small.scores(models, learnt, runs, "validation")
  test = small.scores(models, learnt, runs, "test")
  longer = [float("nan")] * len(runs)
  if problem.longer:
    longer = small.scores(models, task(problem, longer=True)[0], runs, "test")
  results = zip(runs, validation, test, longer)
  return [Result(*run, *scored) for run, *scored in results]
