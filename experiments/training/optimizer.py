"""Optimizers from the config: optax chains."""

import jax
import optax
from ml_collections import ConfigDict

from attnjax import sharding


def make(config: ConfigDict, steps: int) -> optax.GradientTransformation:
  """Returns AdamW with clipping and the rate of `schedule`; vectors do not decay."""
  return optax.chain(
    optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
    optax.adamw(
      schedule(config, steps),
      b1=config.b1,
      b2=config.b2,
      weight_decay=config.weight_decay,
      mask=_matrices,
    ),
  )


def schedule(config: ConfigDict, steps: int) -> optax.Schedule:
  """Returns a linear warm-up to `rate`, then a cosine to `final` x rate at the end."""
  warmup = min(config.warmup, steps)
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.rate,
    warmup_steps=warmup,
    decay_steps=max(steps, warmup + 1),
    end_value=config.rate * config.final,
  )


def _matrices(model):
  """Marks the parameters with two dimensions or more, stacked axes not counted."""

  def decays(path, leaf):
    return leaf.ndim - sharding.is_stacked(path) >= 2

  return jax.tree_util.tree_map_with_path(decays, model)
