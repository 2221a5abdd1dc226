"""Wave and relation: tell a faint wave all over an image, and whether two marks match.

16 x 16 pixels in patches of 2 x 2, 8 x 8 tokens. A wave of three periods across the
image, 0.18 high, runs down its rows or along its columns, with a random phase. Two
squares of 5 x 5 pixels, each white or black, lie at places at least 8 pixels apart on
one axis, 0.5 above or below the grey. Normal noise of 0.1 is on top. The label is 2
same + along, one class of four, all as likely.

One frequency tells the wave, which is one entry of a filter; the match asks for tokens
that lie anywhere, at which no fixed filter points. The data set `texture_shape` has a
texture and a match too, but the texture lies within a patch, where it is asked of
neither.

Height, images and steps were chosen by attention alone, six blocks at 3e-3: it tells
all four classes of 0.9995 of the images after 450 of 900 steps with 1,024 images to
learn from, and with 16,384 of 0.994 after 675; with 256 it learned the match alone in
600 steps, and so it did in 900 with a wave 0.12 high. With the larger set it learned
the wave alone in 400 steps when that was 0.25 high.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from attnjax.variants.mixers import spectformer
from experiments import small
from experiments.claims import rows
from experiments.claims.claim import Row
from experiments.data.task import SPLITS
from experiments.small import problem as problems

SIDE, PATCH, MARK, APART = 16, 2, 5, 8
PERIODS, HEIGHT, NOISE = 3, 0.18, 0.1
TRAIN, HELD_OUT = 1024, 2048
WIDTH, DEPTH = 32, 6
RECIPE = small.Recipe(steps=600)


@functools.cache
def examples(seed: int, split: str) -> dict[str, np.ndarray]:
  """Draws the images (B, 16, 16, 1) and labels (B,) of a split."""
  rng = np.random.default_rng([seed, SPLITS.index(split)])
  count = TRAIN if split == "train" else HELD_OUT
  along, same = rng.integers(2, size=(2, count))
  turns = PERIODS * np.arange(SIDE) / SIDE + rng.random((count, 1))
  wave = HEIGHT * np.sin(2 * np.pi * turns)
  waves = np.broadcast_to(wave[:, :, None], (count, SIDE, SIDE))
  image = np.where(along[:, None, None], waves.swapaxes(1, 2), waves)
  image = image + NOISE * rng.standard_normal(image.shape)
  first = rng.choice([-0.5, 0.5], size=count)
  signs = np.stack([first, np.where(same, first, -first)], axis=1)
  for number, corners in enumerate(_corners(rng, count)):
    for (top, left), sign in zip(corners, signs[number], strict=True):
      image[number, top : top + MARK, left : left + MARK] += sign
  labels = (2 * same + along).astype(np.int32)
  return {"image": image[..., None].astype(np.float32), "label": labels}


def _corners(rng, count) -> np.ndarray:
  """Draws corners (B, 2, 2) of two marks, from all pairs that are far enough apart."""
  found: list = []
  while len(found) < count:
    drawn = rng.integers(SIDE - MARK + 1, size=(count, 2, 2))
    found += list(drawn[abs(drawn[:, 0] - drawn[:, 1]).max(axis=1) >= APART])
  return np.stack(found[:count])


PROBLEM = small.Problem(examples, problems.class_loss, problems.class_score)


def network(*mixers: str, silent: bool = False) -> Callable[[jax.Array], Any]:
  """Returns what makes the vanilla network of these blocks from a random key.

  Args:
    *mixers: the kind of each block.
    silent: whether the filters give zero.
  """
  options: dict[str, Any] = {"dims": (WIDTH,), "depths": (DEPTH,), "heads": (4,)}
  options |= {"mlp_ratios": (2.0,), "patch": PATCH, "grids": (SIDE // PATCH,)}

  def build(key):
    model = spectformer.Model(1, 4, mixers=mixers, **options, rngs=nnx.Rngs(key))
    if silent:
      made = small.without(("spectformer", {"grid": SIDE // PATCH}), ("image",))
      for block in model.stages.stages[0].sequence:
        if isinstance(block, spectformer.SpectralBlock):
          block.filter = made(WIDTH, layers=DEPTH, rngs=nnx.Rngs(key))
    return model

  return build


def trained(name: str, kind: str, *mixers: str, silent: bool = False) -> Row:
  """Returns a row of networks of these blocks."""
  return rows.trained(name, kind, network(*mixers, silent=silent), PROBLEM, RECIPE)


def untrained(name: str, *mixers: str) -> Row:
  """Returns the "broken" row of networks as they are drawn."""
  return rows.untrained(name, network(*mixers), PROBLEM)
