"""Scenes: things with a shape, a colour and a place on a grid of cells."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.data.drawing import SHAPES
from experiments.data.task import check_least

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
LEAST = 5  # pixels of a thing, below which shapes look alike
LARGEST = 9  # rows and columns of a grid: one digit names them


@dataclasses.dataclass(frozen=True)
class Thing:
  """A filled shape in a cell.

  Attributes:
    shape: one of SHAPES.
    colour: one of COLOURS.
    row: of its cell, from 0 at the top.
    column: of its cell, from 0 at the left.
    top: its first row of pixels in the picture.
    left: its first column of pixels.
    size: its side or diameter, in pixels.
  """

  shape: str
  colour: str
  row: int
  column: int
  top: int
  left: int
  size: int

  @property
  def phrase(self) -> str:
    """Returns the phrase that says its colour and its shape."""
    return f"{self.colour} {self.shape}"

  @property
  def box(self) -> tuple[int, int, int, int]:
    """Returns (top, left, bottom, right) in pixels, the last two exclusive."""
    return self.top, self.left, self.top + self.size, self.left + self.size


@dataclasses.dataclass(frozen=True)
class Scene:
  """Things on a grid, at most one in a cell.

  Attributes:
    grid: (rows, columns) of cells.
    cell: the side of a cell, in pixels.
    things: row by row, from left to right.
  """

  grid: tuple[int, int]
  cell: int
  things: tuple[Thing, ...]

  @property
  def shape(self) -> tuple[int, int]:
    """Returns (height, width) of the picture in pixels."""
    return self.grid[0] * self.cell, self.grid[1] * self.cell

  def alike(self, **wanted: str) -> list[Thing]:
    """Returns the things with such a `shape` and `colour`, of which both may be told.

    Without any all things are such.
    """
    return [
      one
      for one in self.things
      if all(getattr(one, name) == value for name, value in wanted.items())
    ]


def draw(
  rng: np.random.Generator,
  *,
  grid: tuple[int, int] = (4, 4),
  cell: int = 8,
  things: int = 4,
  shapes: Sequence[str] = SHAPES,
  colours: Sequence[str] = COLOURS,
) -> Scene:
  """Draws a scene: cells, shapes, colours, sizes and places within the cells.

  Args:
    rng: of all draws.
    grid: (rows, columns) of cells.
    cell: the side of a cell, in pixels.
    things: number of things.
    shapes: to draw from.
    colours: to draw from.

  Raises:
    ValueError: if the things do not fit.
  """
  rows, columns = grid
  check_least(rows=(rows, 1), columns=(columns, 1), cell=(cell, LEAST))
  check_least(things=(things, 0), shapes=(len(shapes), 1), colours=(len(colours), 1))
  if max(grid) > LARGEST or things > rows * columns:
    raise ValueError(
      f"{things} things in {rows} x {columns} cells; a cell has one at most, and rows"
      f" and columns are {LARGEST} at most"
    )
  found = []
  for place in np.sort(rng.permutation(rows * columns)[:things]).tolist():
    row, column = divmod(place, columns)
    size = int(rng.integers(LEAST, cell + 1))
    down, right = rng.integers(cell - size + 1, size=2).tolist()
    shape = shapes[int(rng.integers(len(shapes)))]
    colour = colours[int(rng.integers(len(colours)))]
    corner = row * cell + down, column * cell + right
    found.append(Thing(shape, colour, row, column, *corner, size))
  return Scene(grid, cell, tuple(found))
