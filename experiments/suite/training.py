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
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax import contract
from attnjax.models import language
from attnjax.nn import running
from experiments import data
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
  build = builder(slug, task(problem, 0))
  tried = _trained(build, problem, [(rate, SEEDS[0]) for rate in RATES])
  best = max(tried, key=lambda result: np.nan_to_num(result.validation, nan=-1.0))
  rest = _trained(build, problem, [(best.rate, seed) for seed in SEEDS])
  model = jax.eval_shape(lambda: build(jax.random.key(0)))
  return {
    "rates": [dataclasses.asdict(result) for result in tried],
    "seeds": [dataclasses.asdict(result) for result in rest],
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(model)),
    "state": state(model, task(problem, 0).shape[0]),
    "seconds": round(time.monotonic() - begun, 1),
  }


def task(problem: Problem, seed: int, longer: bool = False) -> Task:
  """Returns the data set of a problem."""
  options = {**problem.options, **(problem.longer if longer else {})}
  sizes = {"examples": problem.pool, "held_out": HELD_OUT, "seed": seed}
  return data.load(problem.dataset, options | sizes)


def builder(slug: str, task: Task) -> Any:
  """Returns what makes the model of a mechanism from a random key."""
  known = contract.defaults(slug)
  options = {n: v for n, v in (("heads", HEADS),) if n in known}
  layer = contract.constructor(slug, options, language.FORMS)

  def build(key):
    return language.Model(
      [layer], vocab=task.vocab, dim=DIM, depth=DEPTH, mlp_ratio=2.0, rngs=nnx.Rngs(key)
    )

  return build


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
  rates = jnp.array([rate for rate, _ in runs], jnp.float32)
  keys = jax.vmap(jax.random.key)(jnp.array([seed for _, seed in runs], jnp.uint32))
  pools = _stacked([_examples(problem, seed, "train") for _, seed in runs])
  models = _training(build, problem.steps)(keys, rates, pools)
  scores = {}
  for name, split, longer in (
    ("validation", "validation", False),
    ("test", "test", False),
    ("longer", "test", True),
  ):
    if longer and not problem.longer:
      scores[name] = [float("nan")] * len(runs)
      continue
    held = _stacked([_examples(problem, seed, split, longer) for _, seed in runs])
    scores[name] = np.asarray(_accuracies(models, held)).tolist()
  return [
    Result(rate, seed, *(scores[n][i] for n in ("validation", "test", "longer")))
    for i, (rate, seed) in enumerate(runs)
  ]


@functools.lru_cache(maxsize=16)
def _examples(problem: Problem, seed: int, split: str, longer: bool = False) -> Any:
  """Returns tokens and labels (examples, T) of a split."""
  source = task(problem, seed, longer).source(split)
  found = [source[i] for i in range(len(source))]
  return {n: np.stack([example[n] for example in found]) for n in ("tokens", "labels")}


def _stacked(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, jax.Array]:
  return {name: jnp.asarray(np.stack([p[name] for p in parts])) for name in parts[0]}


@functools.lru_cache(maxsize=2)
def _training(build: Any, steps: int) -> Any:
  """Returns the program that trains several models from keys, rates and examples."""

  def one(key, rate, pool):
    own, order = jax.random.split(key)
    model = build(own)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 10, steps)
    optimizer = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.scale_by_adam(b2=0.98),
      optax.add_decayed_weights(0.1, mask=lambda tree: _matrices(tree)),
    )

    def update(carry, step):
      model, memory = carry
      chosen = jax.random.randint(
        jax.random.fold_in(order, step), (BATCH,), 0, len(pool["tokens"])
      )
      gradient = jax.grad(_loss)(model, pool["tokens"][chosen], pool["labels"][chosen])
      change, memory = optimizer.update(gradient, memory, model)
      size = -rate * schedule(step)
      model = jax.tree.map(lambda p, c: p + size * c, model, change)
      return (model, memory), None

    start = model, optimizer.init(model)
    return jax.lax.scan(update, start, jnp.arange(steps))[0][0]

  return jax.jit(jax.vmap(one))


def _matrices(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


def _logits(model, tokens):
  if jax.tree.leaves(running.init_stats(model)):
    raise NotImplementedError("the suite trains no running statistics")
  return model(tokens)


def _loss(model, tokens, labels):
  counted = labels >= 0
  losses = optax.softmax_cross_entropy_with_integer_labels(
    _logits(model, tokens), jnp.where(counted, labels, 0)
  )
  return jnp.sum(losses * counted) / jnp.maximum(counted.sum(), 1)


@jax.jit
def _accuracies(models, held):
  """Returns the shares of right answers of several models."""

  def one(model, held):
    counted = held["labels"] >= 0
    right = (_logits(model, held["tokens"]).argmax(-1) == held["labels"]) & counted
    return right.sum() / counted.sum()

  return jax.vmap(one)(models, held)
