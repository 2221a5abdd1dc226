"""Questions about scenes, and their answers.

  colour    what colour is the disc ?                     red
  shape     what shape is the red thing ?                 disc
  exists    is there a red disc ?                         yes, no: equally often
  count     how many red things ?                         0, 1, 2, ...
  place     what colour is at B 3 ?                       red
  beside    what is left of the red disc ?                blue cross
  describe  describe the picture .                        red disc , blue cross .

The disc of the first, the red thing of the second and the red disc of "beside" are the
only ones of the scene; what is beside is the next thing in that row or column. A
description names all things row by row.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from attnjax.contract import check_known
from experiments.data.scenes.scene import COLOURS, SHAPES, Scene, Thing
from experiments.data.scenes.words import ROWS

_SIDES = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a scene.

  Attributes:
    kind: one of KINDS.
    text: words with blanks between, a question mark or a full stop at the end.
    answer: words with blanks between.
    about: the things that decide the answer, of which the last is the answer's.
  """

  kind: str
  text: str
  answer: str
  about: tuple[Thing, ...] = ()


def ask(kind: str, scene: Scene, rng: np.random.Generator) -> Question | None:
  """Draws a question of a kind about a scene; None where there is none.

  Raises:
    ValueError: if the kind is none of KINDS.
  """
  check_known("kind of question", kind, KINDS)
  return _ASKED[kind](scene, rng)


def longest(kind: str, things: int) -> int:
  """Returns the most words of a question and its answer, for so many things."""
  check_known("kind of question", kind, KINDS)
  if kind == "describe":
    return 4 + max(3 * things - 1, 0)
  return {"colour": 7, "shape": 8, "exists": 7, "count": 6, "place": 8, "beside": 10}[
    kind
  ]


def _colour(scene, rng):
  single = [one for one in scene.things if len(scene.alike(shape=one.shape)) == 1]
  one = _any(single, rng)
  return one and Question(
    "colour", f"what colour is the {one.shape} ?", one.colour, (one,)
  )


def _shape(scene, rng):
  single = [one for one in scene.things if len(scene.alike(colour=one.colour)) == 1]
  one = _any(single, rng)
  return one and Question(
    "shape", f"what shape is the {one.colour} thing ?", one.shape, (one,)
  )


def _exists(scene, rng):
  there = {(one.colour, one.shape) for one in scene.things}
  every = [(colour, shape) for colour in COLOURS for shape in SHAPES]
  yes = bool(rng.integers(2))
  pair = _any([pair for pair in every if (pair in there) == yes], rng)
  if pair is None:
    return None
  about = tuple(scene.alike(colour=pair[0], shape=pair[1]))
  text = f"is there a {pair[0]} {pair[1]} ?"
  return Question("exists", text, "yes" if yes else "no", about)


def _count(scene, rng):
  colours = [one.colour for one in scene.things] if rng.integers(2) else COLOURS
  colour = _any(colours, rng)
  if colour is None:
    return None
  about = tuple(scene.alike(colour=colour))
  if len(about) > 9:
    return None
  return Question("count", f"how many {colour} things ?", str(len(about)), about)


def _place(scene, rng):
  one = _any(scene.things, rng)
  return one and Question(
    "place",
    f"what colour is at {ROWS[one.row]} {one.column + 1} ?",
    one.colour,
    (one,),
  )


def _beside(scene, rng):
  pairs = []
  for one in scene.things:
    if len(scene.alike(colour=one.colour, shape=one.shape)) == 1:
      for side, step in _SIDES.items():
        if (other := _next(scene, one, step)) is not None:
          pairs.append((side, one, other))
  found = _any(pairs, rng)
  if found is None:
    return None
  side, one, other = found
  where = f"{side} of" if side in ("left", "right") else side
  text = f"what is {where} the {one.phrase} ?"
  return Question("beside", text, other.phrase, (one, other))


def _describe(scene, rng):
  del rng
  phrases = [one.phrase for one in scene.things]
  return Question(
    "describe", "describe the picture .", " , ".join(phrases), scene.things
  )


def _next(scene: Scene, one: Thing, step: tuple[int, int]) -> Thing | None:
  """Returns the nearest thing in a direction, in the row or column of `one`."""
  places = {(other.row, other.column): other for other in scene.things}
  for distance in range(1, max(scene.grid)):
    place = one.row + distance * step[0], one.column + distance * step[1]
    if place in places:
      return places[place]
  return None


def _any(choices, rng):
  return choices[int(rng.integers(len(choices)))] if len(choices) else None


_ASKED: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
  "colour": _colour,
  "shape": _shape,
  "exists": _exists,
  "count": _count,
  "place": _place,
  "beside": _beside,
  "describe": _describe,
}
KINDS = tuple(_ASKED)
