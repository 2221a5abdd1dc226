"""Training under masks, and pruning in rounds with training between."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnjax.variants.analysis.module_pruning.masks import apply_masks, dimap_masks


def masked_updates(
  optimizer: optax.GradientTransformation, masks: Any
) -> optax.GradientTransformation:
  """Returns an optimizer under which weights that are gone stay as they are.

  Gradients and updates are multiplied by the masks, so that neither momentum nor weight
  decay moves a weight of 0.

  Args:
    optimizer: any, weight decay within.
    masks: of `dimap_masks`.
  """

  def masked(tree):
    return jax.tree.map(lambda x, m: jnp.where(m, x, 0), tree, masks)

  def update(updates, state, params=None):
    updates, state = optimizer.update(masked(updates), state, params)
    return masked(updates), state

  return optax.GradientTransformation(optimizer.init, update)


def fine_tuning(
  steps: int,
  warmup: int,
  *,
  rate: float = 2e-5,
  first: float = 2e-8,
  last: float = 2e-7,
  weight_decay: float = 1e-8,
) -> optax.GradientTransformation:
  """Returns the paper's optimizer after pruning: AdamW, a warm-up and a cosine.

  Args:
    steps: of the whole training, 30 epochs in the paper.
    warmup: steps of the warm-up, 15 epochs in the paper.
    rate: the highest learning rate.
    first: the first one.
    last: the last one.
    weight_decay: of AdamW.
  """
  schedule = optax.warmup_cosine_decay_schedule(first, rate, warmup, steps, last)
  return optax.adamw(schedule, weight_decay=weight_decay)


def levels(sparsity: float, rounds: int) -> list[float]:
  """Returns the sparsity after each round, in which an equal share of the rest goes.

  Raises:
    ValueError: for less than one round, and a sparsity out of range.
  """
  if rounds < 1 or not 0 <= sparsity < 1:
    raise ValueError(f"sparsity = {sparsity} in {rounds} rounds; 1 round or more")
  left = (1 - sparsity) ** (np.arange(1, rounds + 1) / rounds)
  return [float(1 - x) for x in left[:-1]] + [sparsity]


def iterated(
  params: Any,
  tune: Callable[[Any, Any], Any],
  sparsity: float,
  rounds: int,
  **options: Any,
) -> Iterator[tuple[Any, Any]]:
  """Yields (parameters, masks) after each round of pruning and training.

  What is gone has a score of 0, and stays away. The paper prunes once; rounds are those
  of Song Han et al. arXiv:1506.02626.

  Args:
    params: a model, or a tree of its parameters.
    tune: (parameters, masks) to trained parameters, which the masks then cut again.
    sparsity: after the last round.
    rounds: how many.
    **options: of `dimap_masks`.
  """
  for level in levels(sparsity, rounds):
    masks = dimap_masks(params, level, **options)
    params = apply_masks(tune(apply_masks(params, masks), masks), masks)
    yield params, masks
