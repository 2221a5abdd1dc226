"""Pictures of coloured shapes and a sentence that names one of them: answer grounding.

A picture has four quadrants with a shape in each, of four different phrases such as
"red disc", anywhere in its quadrant, on a dark ground; normal noise comes on top. A
sentence is a fixed vector of its phrase with noise, as a frozen encoder would give it.
The labels are 1 at the pixels of the shape that is named, and 0 elsewhere: all four
look alike to who does not read the sentence.
"""

import numpy as np

from experiments.data import drawing
from experiments.data.generated import Example

FORMS = ("square", "disc", "triangle")
COLOURS = {
  "red": (0.9, 0.2, 0.2),
  "green": (0.2, 0.8, 0.3),
  "blue": (0.25, 0.35, 0.95),
  "yellow": (0.9, 0.85, 0.2),
}
PHRASES = tuple(f"{colour} {form}" for colour in COLOURS for form in FORMS)
QUADRANTS = ((0, 0), (0, 1), (1, 0), (1, 1))
GROUND = 0.1
LEAST = 16  # pixels of a side


def encoder(seed: int, width: int) -> np.ndarray:
  """Draws the vectors of all phrases, (12, width) from a unit normal.

  Args:
    seed: of the encoder, which all splits share.
    width: numbers of a sentence.
  """
  return np.random.default_rng([seed]).standard_normal((len(PHRASES), width))


def example(
  rng: np.random.Generator,
  vectors: np.ndarray,
  *,
  side: int,
  noise: float,
  sentence_noise: float,
) -> Example:
  """Draws a picture, a sentence, the pixels that it names and its phrase's number.

  Args:
    rng: draws all of it.
    vectors: of `encoder`.
    side: pixels of the picture, LEAST at least.
    noise: of each pixel.
    sentence_noise: of each number of the sentence.
  """
  image = np.full((side, side, 3), GROUND)
  labels = np.zeros((side, side), np.int32)
  half = side // 2
  shown = rng.choice(len(PHRASES), len(QUADRANTS), replace=False)
  asked = int(rng.integers(len(QUADRANTS)))
  for number, (phrase, quadrant) in enumerate(zip(shown, QUADRANTS)):
    colour, form = PHRASES[phrase].split()
    size = int(rng.integers(3 * half // 8, 5 * half // 8 + 1))
    top, left = (half * q + int(rng.integers(half - size + 1)) for q in quadrant)
    inside = drawing.shape(form, size) > 0
    drawing.put(image, inside, (top, left))[inside] = COLOURS[colour]
    drawing.put(labels, inside, (top, left))[inside] = number == asked
  image += noise * rng.standard_normal(image.shape)
  named = shown[asked]
  sentence = vectors[named] + sentence_noise * rng.standard_normal(vectors.shape[1])
  return {
    "image": np.clip(image, 0, 1).astype(np.float32),
    "sentence": sentence.astype(np.float32),
    "labels": labels,
    "phrase": np.array(named, np.int32),
  }
