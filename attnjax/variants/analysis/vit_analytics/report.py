"""The report of a trace: strength profiles, trends and patterns of all heads."""

import functools
from typing import Any

import jax
import numpy as np

from attnjax.contract import Report
from attnjax.contract.trace import Trace
from attnjax.variants.analysis.vit_analytics import profiles
from attnjax.variants.analysis.vit_analytics.weights import attention_of

HOSTS = ("vision",)
# L layers, N heads, K rings, Y X offsets, P templates.
AXES = {
  "ring_total": "LNK",
  "ring_mean": "LNK",
  "ring_deviation": "LNK",
  "prefix_mass": "LN",
  "distance": "LN",
  "entropy": "LN",
  "offsets": "LNYX",
  "templates": "LNP",
  "pattern": "LN",
  "trend_self": "L",
  "trend_neighbours": "L",
  "trend_distance": "L",
  "trend_prefix": "L",
  "trend_entropy": "L",
}
LABELS = {"P": profiles.TEMPLATES}
MEANINGS = {
  "ring_total": "weight on all patches at a distance",
  "ring_mean": "mean weight of a patch at a distance",
  "ring_deviation": "standard deviation over images of the weight at a distance",
  "prefix_mass": "weight on the tokens before the patches",
  "distance": "mean distance of the weight, in patches",
  "entropy": "entropy of the weights, in nats",
  "offsets": "mean weight by offset, rows and columns",
  "templates": "score of each template",
  "pattern": "number of the template that fits best",
  "trend_self": "weight of a patch on itself, mean of the heads",
  "trend_neighbours": "weight on its neighbours",
  "trend_distance": "mean distance of the weight, in patches",
  "trend_prefix": "weight on the tokens before the patches",
  "trend_entropy": "entropy of the weights, in nats",
}


def analyse(
  trace: Trace, *, k_max: int = 3, prefix: int = 0, weights: Any = None
) -> Report:
  """Reports where the heads of a Vision Transformer look, as means over images.

  Args:
    trace: of the host vision, whose maps have the grid.
    k_max: the farthest ring, at most the grid's.
    prefix: tokens before the patches.
    weights: of every layer, (B, N, T, T); None computes them for softmax attention.

  Raises:
    NotImplementedError: for a layer that is no softmax attention, without weights.
    ValueError: for a grid that does not fit the weights.
  """
  h, w = trace.hidden[0].shape[1:3]
  grid = int(h), int(w)
  found: dict[str, list[Any]] = {name: [] for name in AXES if "L" in AXES[name][:1]}
  rings = min(k_max, max(grid) - 1)
  for attention in attention_of(trace, weights=weights):
    one = _layer(attention, grid, prefix, rings)
    for name, value in one.items():
      found[name].append(np.asarray(value))
  return Report({name: np.stack(x) for name, x in found.items()}, AXES)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _layer(attention, grid, prefix, rings):
  """Returns the entries of one layer."""
  where: Any = {"grid": grid, "prefix": prefix}
  total, mean, mass = profiles.ring_profile(attention, k_max=rings, **where)
  scores = profiles.template_scores(attention.mean(axis=0), **where)
  one = {
    "ring_total": total.mean(axis=0),
    "ring_mean": mean.mean(axis=0),
    "ring_deviation": total.std(axis=0),
    "prefix_mass": mass.mean(axis=0),
    "distance": profiles.attention_distance(attention, **where).mean(axis=0),
    "entropy": profiles.row_entropy(attention).mean(axis=0),
    "offsets": profiles.offset_map(attention, **where).mean(axis=0),
    "templates": scores,
    "pattern": scores.argmax(axis=-1),
  }
  one |= {
    "trend_self": one["ring_total"][:, 0].mean(),
    "trend_neighbours": one["ring_total"][:, 1:2].sum(axis=1).mean(),
    "trend_distance": one["distance"].mean(),
    "trend_prefix": one["prefix_mass"].mean(),
    "trend_entropy": one["entropy"].mean(),
  }
  return one
