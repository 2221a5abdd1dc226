"""Questions about scenes for small vision-language models."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnjax.models import fusion
from experiments import data, small


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
