"""The protocol of the suite: one model, one optimizer, three rates, three seeds.

A mechanism replaces the mixer in two blocks of width 32, each followed by an MLP; its
options are the Layer's own defaults, with two heads of 16, but for SHORT. AdamW with
weight decay 0.1, clipped to a norm of 1, warm-up over a tenth of the steps and a cosine
to zero; batches of 32. All models of tokens see 409,600 tokens, in 800 updates where
examples have 16, 400 where they have 32 and 200 where they have 64; models of images
have 240 updates. The first seed tries three rates, and the best of them on validation
data trains the others. NONE has a layer without attention, two matrices on each token
alone: what it learns, the convolution and the MLPs have learned.

Models of tokens are blocks of MAD (Michael Poli et al. Mechanistic Design and Scaling
of Hybrid Architectures. arXiv:2403.17844, section 3): the mixer, then SwiGLU. Before
each mixer is a causal convolution of three tokens, as in Zoology's models (Simran Arora
et al. arXiv:2312.04927): without it, softmax attention stayed at 0.25 on four pairs of
`mqar` after 600 steps of 64 examples at width 64; with it, it came to 1.0. Positions
are the mechanism's own affair. Models of images are the `vision` host on 8 x 8 patches.

The sizes are the least at which `dot_product` was seen to learn, so that 10 mechanisms
on 18 tasks take some two hours of one processor core: width 32 recalls four pairs as
width 64 does, at a third of its time, and an update on 16 tokens takes a quarter of the
time of 64. After 400 updates with one seed and the rate 0.01 it came to 1.0 on `mqar_4`
(0.2 with another seed, so that 16 tokens have 800 updates), `in_context_recall`,
`memorization`, `compression` and `match2`, 0.99 on `sorting`, 0.95 on
`selective_copying`, 0.93 on `modular_counting`, 0.71 on `parity`, 0.58 on
`noisy_recall`; with 0.003 to 1.0 on `induction` and 0.54 on `listops`. On `mqar_8`,
`s3_words` and `match3` it stayed near chance: these are the harder end. Of images it
learned a part of each set. When 400 updates of 16 tokens became 800, for those seeds of
softmax attention, the first rows of `aaren` had been seen, too (0.2 on `mqar_4`); no
other mechanism had. A task on which no mechanism leaves NONE behind says nothing at
this size, and the page says so.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnjax import contract
from experiments import small
from experiments.suite.problems import Problem

DIM, DEPTH, HEADS, MLP_RATIO, CONV = 32, 2, 2, 2.0, 3
BATCH = 32
RATES = (1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
POOL, HELD_OUT = 6_400, 512
MARKS, LONGER_HELD_OUT = 8, 128  # points of a training curve, examples of each
NONE = "none"
# By their defaults, of thousands of tokens, these would see all.
SHORT = {
  "dynamic_mask": {"keep_keys": 8},
  "routing_transformer": {"clusters": 4, "cluster_size": 8, "window": 8},
}


@dataclasses.dataclass(frozen=True)
class Result:
  """One trained model.

  Attributes:
    rate: the learning rate.
    seed: of the data, the initial weights and the order.
    validation: accuracy on validation data, by which a rate is chosen.
    test: accuracy on test data.
    seconds: of a processor core, to train it; the first has also compiled.
    longer: accuracy on longer test data after each of MARKS parts of the training;
      empty where a problem has none, and for rates that were not chosen.
  """

  rate: float
  seed: int
  validation: float
  test: float
  seconds: float
  longer: tuple[float, ...] = ()


@functools.cache
def mechanisms(forms: tuple[str, ...]) -> list[str]:
  """Returns NONE, and the systems that have a layer of one of these forms."""
  known = contract.systems()
  found = [s for s in known if set(contract.layer_forms(contract.load(s))) & set(forms)]
  return [NONE, *found]


class Apart(nnx.Module):
  """The layer of NONE maps each token alone: to a value, and that to the output."""

  def __init__(self, dim: int, *, layers: int, rngs: nnx.Rngs):
    del layers
    self.value, self.out = (
      nnx.Linear(dim, dim, use_bias=False, rngs=rngs) for _ in range(2)
    )

  def __call__(self, x: Float[Array, "B *T D"], **context) -> Float[Array, "B *T D"]:
    """Returns the output for each token."""
    del context
    return self.out(self.value(x))


def layer(slug: str, forms: Sequence[str]) -> Any:
  """Returns the constructor of a mechanism's layers in the first form it has."""
  if slug == NONE:

    def made(*arguments, **options):
      return Apart(*arguments, **options)

    vars(made)["form"] = forms[0]  # hosts ask for it
    return made
  known = contract.defaults(slug)
  options = {name: value for name, value in (("heads", HEADS),) if name in known}
  return small.layer((slug, options | SHORT.get(slug, {})), forms)


def measured(half: ModuleType, slug: str, problem: Problem) -> dict[str, Any]:
  """Trains a mechanism on a problem; returns its row, ready for JSON.

  Args:
    half: `suite.tokens` or `suite.images`.
    slug: one of `half.mechanisms()`.
    problem: what it is trained on.
  """
  begun = time.process_time()
  tried = _trained(half, slug, problem, [(rate, SEEDS[0]) for rate in RATES])
  best = max(tried, key=lambda pair: pair[0].validation)
  runs = [(best[0].rate, seed) for seed in SEEDS[1:]]
  chosen = [best, *_trained(half, slug, problem, runs)]
  model = jax.eval_shape(half.builder(slug), jax.random.key(0))
  return {
    "rates": [dataclasses.asdict(result) for result, _ in tried],
    "seeds": [_with_curve(half, problem, *pair) for pair in chosen],
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(model)),
    "state": half.state(model),
    "seconds": round(time.process_time() - begun, 1),
  }


def chance(half: ModuleType, problem: Problem) -> float:
  """Returns the mean share of the most frequent answer in the seeds' test data."""
  found = [half.answers(half.problem(problem).examples(s, "test")) for s in SEEDS]
  return float(np.mean([np.bincount(each).max() / each.size for each in found]))


def _trained(
  half: ModuleType, slug: str, problem: Problem, runs: Sequence[tuple[float, int]]
) -> list[tuple[Result, list[small.Trained]]]:
  """Trains the models of (rate, seed); returns each with its MARKS."""
  build, learnt = half.builder(slug), half.problem(problem)
  found = []
  for run in runs:
    learnt.examples(run[1], "train")  # is not counted
    begun = time.process_time()
    recipe = small.Recipe(half.steps(problem), BATCH)
    marks = jax.block_until_ready(small.path(build, learnt, recipe, [run], MARKS))
    seconds = round(time.process_time() - begun, 2)
    validation, test = (
      small.scores(marks[-1], learnt, [run], split)[0]
      for split in ("validation", "test")
    )
    found.append((Result(*run, validation, test, seconds), marks))
  return found


def _with_curve(
  half: ModuleType, problem: Problem, result: Result, marks: list[small.Trained]
) -> dict[str, Any]:
  """Returns a result, with its accuracies on the longer test if there is one."""
  longer = ()
  if problem.longer:
    asked, run = half.problem(problem, longer=True), [(result.rate, result.seed)]
    longer = [small.scores(mark, asked, run, "test")[0] for mark in marks]
  return dataclasses.asdict(dataclasses.replace(result, longer=tuple(longer)))
