"""Three views: tell the class of three tables of which the second is often missing.

An example has three views of `width` numbers. The first and the third are normal, the
second is a function of the first with noise; P, c and d are of the seed's world:

  x2 = tanh(P x1) + noise e,   a = [c . x2 > 0],   b = [d . x3 > 0],   label = a xor b

Neither bit alone tells anything of the label. The share `absent` of all examples, in
every split, lacks the second view: there are zeros, and `present` (3,) is False. What
the first view tells of the second one then tells a in part. It is made after the
setting of ITCFN (arXiv:2501.11276), where PET images are missing and MRI tells some of
them.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least

VIEWS = 3


def task(
  *,
  width: int = 16,
  noise: float = 0.5,
  absent: float = 0.4,
  examples: int = 20_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on views (3, width).

  Args:
    width: numbers of a view.
    noise: standard deviation of the second view's own part.
    absent: share of the examples that lack the second view.
    examples: number of examples of the split train.
    held_out: number of examples of each other split.
    seed: the seed of the world and of all examples.

  Raises:
    ValueError: if an option is out of its range.
  """
  check_least(width=(width, 1), seed=(seed, 0))
  if noise < 0:
    raise ValueError(f"noise = {noise}; it must be at least 0")
  if not 0 <= absent <= 1:
    raise ValueError(f"absent = {absent}; it must be from 0 to 1")
  make = functools.partial(
    example, world=world(seed, width), noise=noise, absent=absent
  )
  return Task(
    "three_views",
    "views",
    vocab=0,
    classes=2,
    shape=(VIEWS, width),
    metric="accuracy",
    source=generated.source_of(make, examples, held_out, seed),
    objective="focal_matching",
    sizes={"width": width},
  )


def world(seed: int, width: int) -> dict[str, np.ndarray]:
  """Draws P (width, width), and the unit vectors c and d, of a seed."""
  draw = np.random.default_rng([seed, width]).standard_normal
  vectors = draw((2, width))
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  return {"P": draw((width, width)) / width**0.5, "c": vectors[0], "d": vectors[1]}


def example(
  rng: np.random.Generator,
  *,
  world: dict[str, np.ndarray],
  noise: float,
  absent: float,
) -> Example:
  """Draws the views of an example, which of them are present, and its label."""
  first, own, third = rng.standard_normal((VIEWS, len(world["c"])))
  second = np.tanh(world["P"] @ first) + noise * own
  label = (world["c"] @ second > 0) != (world["d"] @ third > 0)
  there = rng.random() >= absent
  return {
    "views": np.stack([first, second if there else 0 * second, third]).astype("f4"),
    "present": np.array([True, there, True]),
    "label": np.array(label, np.int32),
  }
