"""Weather: restore pictures that haze, rain or snow has spoiled.

Clean pictures are crops of two photographs of scikit-learn, or drawn ones, a gradient
under rectangles; `photographs` is the share of the former. Each is spoiled by one of
`kinds`, all equally often, see `experiments.data.weather`; a model is not told which.
Validation and test have regions of the photographs that training does not see.

The loss is the mean of squares, or the Charbonnier loss, which weighs the few pixels of
rain and snow less beside the many that stay: short trainings that begin at the identity
remain there.
"""

import functools

import numpy as np

from attnjax.contract import check_known
from experiments.data import generated
from experiments.data import photographs as photos
from experiments.data import weather as spoilt
from experiments.data.generated import Example
from experiments.data.task import SPLITS, Task, check_least
from experiments.training.measures import ssim

LOSSES = ("squared_error", "charbonnier")


def task(
  *,
  side: int = 32,
  kinds: str = "haze,rain,snow",
  photographs: float = 0.5,  # share of pictures that are photographs
  loss: str = "squared_error",  # or "charbonnier"
  examples: int = 20_000,  # of the split train
  held_out: int = 500,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on pictures (side, side, 3), spoiled and clean."""
  check_least(side=(side, ssim.WINDOW))
  chosen = tuple(kind.strip() for kind in kinds.split(","))
  for kind in chosen:
    check_known("kind", kind, spoilt.KINDS)
  check_known("loss", loss, LOSSES)
  if not 0 <= photographs <= 1:
    raise ValueError(f"photographs = {photographs}; a share is from 0 to 1")
  make = {
    split: functools.partial(
      example, split=split, side=side, kinds=chosen, share=photographs
    )
    for split in SPLITS
  }
  if photographs:
    make["train"](np.random.default_rng(0), share=1.0)  # raises if crops do not fit
  return generated.maps(
    "weather",
    make,
    outputs=3,
    shape=(side, side, 3),
    objective=loss,
    metrics=("psnr", "ssim"),
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(
  rng: np.random.Generator,
  *,
  split: str,
  side: int,
  kinds: tuple[str, ...],
  share: float,
) -> Example:
  """Draws a spoiled picture and the clean one."""
  if rng.uniform() < share:
    clean = photos.crop(rng, split, side)
  else:
    clean = spoilt.clean(rng, side)
  kind = kinds[int(rng.integers(len(kinds)))]
  return {"image": spoilt.degrade(rng, clean, kind), "target": np.array(clean)}
