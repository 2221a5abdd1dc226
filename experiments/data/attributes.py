"""A world of images with a colour, a shape and a place: vectors, words and pictures.

An image is three values, one of eight for each attribute. Its vector is the unit vector
of a rotation of the sum of the values' embeddings, with noise; its caption is the three
words. Images that differ in one attribute are what a text can tell apart.
"""

import dataclasses

import numpy as np

from attnjax.variants.cross import composed_retrieval

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black")
SHAPES = ("disc", "ring", "square", "frame", "triangle", "diamond", "cross", "bar")
PLACES = (
  "north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest"
)  # fmt: skip
VALUES = (COLOURS, SHAPES, PLACES)
# The words of texts and prompts come last, as `attnjax.models.composed` expects.
WORDS = (*COLOURS, *SHAPES, *PLACES, *composed_retrieval.WORDS)
ATTRIBUTES, KINDS = len(VALUES), len(COLOURS)
_RED_GREEN_BLUE = (
  (214, 39, 40), (255, 140, 20), (240, 205, 40), (44, 160, 44), (40, 90, 220),
  (150, 60, 190), (140, 86, 60), (25, 25, 25),
)  # fmt: skip
_STEPS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


@dataclasses.dataclass(frozen=True)
class World:
  """Holds the embeddings of a seed's world and its gallery.

  Attributes:
    embeddings: (3, values, width), of the values, rotated.
    noise: the deviation of a number of the sum's noise, before it is normalised.
    triples: (I, 3), the values of the gallery's images, which all differ.
    gallery: (I, width), their vectors.
    queries: (N, 2), the places of a reference and of a target that differs from it in
      one attribute.
  """

  embeddings: np.ndarray
  noise: float
  triples: np.ndarray
  gallery: np.ndarray
  queries: np.ndarray


def world(seed: int, *, values: int, width: int, noise: float, gallery: int) -> World:
  """Draws a world.

  Args:
    seed: its seed.
    values: of an attribute, at most 8.
    width: numbers of a vector.
    noise: deviation of the noise of one attribute, whose embedding has deviation 1.
    gallery: number of images that are drawn; equal ones are there once.

  Raises:
    ValueError: if no two images of the gallery differ in one attribute alone.
  """
  draw = np.random.default_rng([seed, values, width, gallery])
  rotation = np.linalg.qr(draw.standard_normal((width, width)))[0]
  embeddings = draw.standard_normal((ATTRIBUTES, values, width)) @ rotation
  triples = np.unique(draw.integers(values, size=(gallery, ATTRIBUTES)), axis=0)
  differ = (triples[:, None] != triples[None]).sum(axis=-1)
  queries = np.argwhere(differ == 1)
  if not len(queries):
    raise ValueError(
      f"gallery = {gallery}: no two of its images differ in one attribute alone"
    )
  spread = noise * ATTRIBUTES**0.5
  found = World(embeddings, spread, triples, np.zeros(0), queries)
  return dataclasses.replace(found, gallery=vectors(draw, found, triples))


def vectors(draw: np.random.Generator, world: World, triples: np.ndarray) -> np.ndarray:
  """Draws the unit vectors (..., width) of images (..., 3)."""
  x = world.embeddings[np.arange(ATTRIBUTES), triples].sum(axis=-2)
  x = x + world.noise * draw.standard_normal(x.shape)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def caption(triple: np.ndarray) -> np.ndarray:
  """Returns the tokens (3,) of an image's words."""
  return (np.arange(ATTRIBUTES) * KINDS + triple).astype(np.int32)


def change(reference: np.ndarray, target: np.ndarray) -> np.ndarray:
  """Returns the tokens (2,) of "but" and the target's value that differs."""
  (place,) = (reference != target).nonzero()[0]
  return np.array([WORDS.index("but"), caption(target)[place]], np.int32)


def decode(tokens: np.ndarray) -> str:
  """Returns the words of tokens without padding."""
  return " ".join(WORDS[int(token)] for token in tokens if token >= 0)


def picture(triple: np.ndarray, size: int = 36) -> np.ndarray:
  """Draws an image (size, size, 3) uint8: a coloured shape at a place on white."""
  colour, shape, place = map(int, triple)
  part = size // 3
  mask = _shape(SHAPES[shape], part)
  found = np.full((size, size, 3), 255, np.uint8)
  down, right = ((1 + step) * part for step in _STEPS[place])
  view = found[down : down + part, right : right + part]
  view[mask] = _RED_GREEN_BLUE[colour]
  return found


def _shape(name: str, size: int) -> np.ndarray:
  """Returns which pixels (size, size) are inside a shape."""
  line = 2 * (np.arange(size) + 0.5) / size - 1
  down, right = line[:, None], line[None]
  far, box = np.hypot(down, right), np.maximum(abs(down), abs(right))
  return {
    "disc": far <= 0.9,
    "ring": (far <= 0.95) & (far >= 0.55),
    "square": box <= 0.85,
    "frame": (box <= 0.95) & (box >= 0.55),
    "triangle": (2 * abs(right) <= down + 0.9) & (down <= 0.85),
    "diamond": abs(down) + abs(right) <= 0.95,
    "cross": (np.minimum(abs(down), abs(right)) <= 0.3) & (box <= 0.95),
    "bar": (abs(down) <= 0.35) & (abs(right) <= 0.95),
  }[name]
