"""Attention maps as products of a picture's noise and a question's signal.

16 x 16 tokens with noise Gamma(2, 1) + 0.1, ten percent of it times 20; the signal is 8
on 3 x 3 tokens and 1 elsewhere; both maps, noise x signal and noise, are multiplied by
exp(0.2 N(0, 1)) and normalised.
"""

import numpy as np

from attnjax.variants.analysis import contrastive_focus as carve
from experiments.claims.claim import Row, Score

DRAWS, SIDE, TARGET = 50, 16, 3


def overlap(seed, focus) -> float:
  """Computes the mean overlap of the best region with the target.

  Args:
    seed: of the draws.
    focus: (map under the question, map in general, signal) to the map to look at.
  """
  rng, found = np.random.default_rng(seed), []
  for _ in range(DRAWS):
    noise = rng.gamma(2.0, 1.0, (SIDE, SIDE)) + 0.1
    noise = np.where(rng.random(noise.shape) < 0.1, 20 * noise, noise)
    top, left = rng.integers(SIDE - TARGET + 1, size=2)
    target = np.zeros(noise.shape, bool)
    target[top : top + TARGET, left : left + TARGET] = True
    signal = np.where(target, 8.0, 1.0)
    maps = np.stack([noise * signal, noise])
    maps *= np.exp(0.2 * rng.standard_normal(maps.shape))
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    large = np.ones((4, 4))
    mask = carve.select_regions(np.kron(focus(*maps, signal), large), 0.1, 1)
    want = np.kron(target, large) > 0
    found.append((mask & want).sum() / (mask | want).sum())
  return float(np.mean(found))


def row(name, kind, focus) -> Row:
  """Returns the row of a way to look at the maps; nothing is trained."""

  def train(runs):
    found = [overlap(seed, focus) for _, seed in runs]
    return [Score(value, value, 0) for value in found]

  return Row(name, kind, train)
