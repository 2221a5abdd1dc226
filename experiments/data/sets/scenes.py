"""Scenes: answer questions in words about a picture of coloured shapes on a grid.

`things` shapes (square, cross, disc, triangle) of 5 to 8 pixels in six colours lie in
cells of 8 x 8 pixels of a grid, with normal noise on top and, if asked for, squares of
2 x 2 pixels behind them. A row of words begins with <begin> and has `questions` of

  what colour is the disc ? red .

and then padding; the labels are the words of the answers, each at the word before it.
The full stop is a label only after a description, whose length is not known. Each
question is of one of `kinds`, all equally often, of which
`experiments.data.scenes.questions` has examples; scenes are drawn until there are such
questions. All but "describe" are asked by default, since its many words would outweigh
the rest.

The accuracy is that of single words. By chance it is 1/6 for colours, 1/4 for shapes
and 1/2 for "exists". Several questions about a picture give as many labels for the
price of one picture, as in the training of LLaVA (arXiv:2304.08485, section 4.2).
"""

import functools
from collections.abc import Sequence

import numpy as np

from experiments.data import generated, scenes
from experiments.data.generated import Example
from experiments.data.task import Task, check_least, check_split

ATTEMPTS = 1000  # scenes that are drawn for a question


def task(
  *,
  rows: int = 4,
  columns: int = 4,
  cell: int = 8,
  things: int = 4,
  questions: int = 4,
  kinds: str = "colour,shape,exists,count,place,beside",
  noise: float = 0.05,
  clutter: int = 0,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on pictures (rows x cell, columns x cell, 3) and words."""
  check_least(things=(things, 1), questions=(questions, 1), clutter=(clutter, 0))
  check_least(examples=(examples, 1), held_out=(held_out, 1), seed=(seed, 0))
  if noise < 0:
    raise ValueError(f"noise = {noise}; it must be at least 0")
  asked = tuple(kind.strip() for kind in kinds.split(","))
  if "beside" in asked and (things < 2 or rows * columns < 2):
    raise ValueError(f"things = {things}: a question 'beside' needs two")
  length = 1 + questions * (1 + max(scenes.longest(kind, things) for kind in asked))
  layout = {"grid": (rows, columns), "cell": cell, "things": things}
  scenes.draw(np.random.default_rng(0), **layout)  # raises if they do not fit
  make = functools.partial(
    example,
    layout=layout,
    questions=questions,
    kinds=asked,
    length=length,
    noise=noise,
    clutter=clutter,
  )

  def source(split: str) -> generated.Generated:
    size = examples if check_split(split) == "train" else held_out
    return generated.Generated(make, seed, split, size)

  return Task(
    "scenes",
    "image_text",
    len(scenes.WORDS),
    0,
    (rows * cell, columns * cell, 3),
    "accuracy",
    source,
    decode=scenes.decode,
  )


def example(
  rng: np.random.Generator,
  *,
  layout: dict,
  questions: int,
  kinds: tuple[str, ...],
  length: int,
  noise: float,
  clutter: int,
) -> Example:
  """Draws a picture, the words of questions with answers, and their labels."""
  drawn = tuple(kinds[i] for i in rng.integers(len(kinds), size=questions))
  scene, found = asked(rng, layout, drawn)
  image = scenes.drawn(scene, rng, noise=noise, clutter=clutter)
  return {"image": image, **row(found, length)}


def asked(
  rng: np.random.Generator, layout: dict, kinds: tuple[str, ...]
) -> tuple[scenes.Scene, list[scenes.Question]]:
  """Draws scenes until there is a question of each of these kinds.

  Raises:
    ValueError: if many scenes had none: among many things none is alone.
  """
  for _ in range(ATTEMPTS):
    scene = scenes.draw(rng, **layout)
    found = [scenes.ask(kind, scene, rng) for kind in kinds]
    asked = [question for question in found if question is not None]
    if len(asked) == len(kinds):
      return scene, asked
  raise ValueError(
    f"things = {layout['things']}: none of {ATTEMPTS} scenes has questions {kinds}"
  )


def row(questions: Sequence[scenes.Question], length: int) -> Example:
  """Returns the tokens and labels (length,) of questions with their answers."""
  tokens, targets = [scenes.BEGIN], [-1]
  for one in questions:
    asked, answer = scenes.encode(one.text), scenes.encode(one.answer)
    tokens += [*asked, *answer, scenes.END]
    last = scenes.END if one.kind == "describe" else -1
    targets += [*([-1] * len(asked)), *answer, last]
  blank = length - len(tokens)
  tokens, targets = tokens + [scenes.NOTHING] * blank, targets + [-1] * blank
  return generated.shifted(tokens, targets, length)
