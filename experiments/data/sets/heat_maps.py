"""Heat maps: where the centres of a plus, a cross and a ring are, amid clutter.

The pictures are those of `experiments.data.key_points`. The target has a map for each
glyph, a Gaussian of deviation `sigma` pixels around its centre, whose peak is 1.
"""

import functools

import numpy as np

from experiments.data import generated, key_points
from experiments.data.generated import Example
from experiments.data.task import Task


def task(
  *,
  side: int = 32,
  clutter: int = 12,
  noise: float = 0.05,
  sigma: float = 1.5,
  examples: int = 20_000,  # of the split train
  held_out: int = 500,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on images (side, side, 1) and maps (side, side, 3)."""
  options = {"side": side, "clutter": clutter, "noise": noise, "sigma": sigma}
  example(np.random.default_rng(0), **options)  # raises if they do not fit
  return generated.maps(
    "heat_maps",
    functools.partial(example, **options),
    outputs=len(key_points.GLYPHS),
    shape=(side, side, 1),
    objective="squared_error",
    metrics=("peaks_within_2",),
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator, *, side: int, clutter: int, noise: float, sigma: float
) -> Example:
  """Draws a picture and the heat maps of its glyphs."""
  image, centres = key_points.example(rng, side, clutter=clutter, noise=noise)
  return {"image": image, "target": key_points.heat_maps(centres, side, sigma)}
