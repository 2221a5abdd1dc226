"""Bad weather on pictures: haze, rain and snow, and clean pictures to put it on.

Pictures are (H, W, 3) float32 in [0, 1], generated ones or photographs. Of a picture J
bad weather makes

  haze   t J + (1 - t) A, transmission t from 0.4 to 0.8, A a grey of 0.7 to 1
  rain   J plus streaks one pixel wide, 8 to 12 pixels long, of 0.3 to 0.7; all have the
         direction of the wind, at most 20 degrees from the vertical
  snow   white discs of radius 1 to 2 over J

Rain and snow go on until they cover a twentieth of the pixels; results are clipped to
[0, 1]. The brightness of rain and the density of snow are invented.
"""

import math
from collections.abc import Callable

import numpy as np

from attnjax.contract import check_known

KINDS = ("haze", "rain", "snow")
TRANSMISSION, AIR = (0.4, 0.8), (0.7, 1.0)
LENGTH, SLANT, STREAK = (8, 12), 20.0, (0.3, 0.7)
RADIUS, DENSITY = (1.0, 2.0), 0.05


def clean(rng: np.random.Generator, size: int | tuple[int, int]) -> np.ndarray:
  """Draws a picture (H, W, 3): a gradient of two colours plus 3 to 5 rectangles.

  A rectangle adds a colour that may be negative in some channels, so that darker ones
  appear as well; its sides are a fourth to three fourths of the picture's.

  Args:
    rng: source of all randomness.
    size: (H, W), or the side of a square.

  Raises:
    ValueError: if a side is less than 1.
  """
  H, W = (size, size) if isinstance(size, int) else size
  if H < 1 or W < 1:
    raise ValueError(f"size = {size}; sides must be at least 1")
  down, right = np.linspace(-0.5, 0.5, H)[:, None], np.linspace(-0.5, 0.5, W)[None]
  angle = rng.uniform(0, 2 * math.pi)
  ramp = 0.5 + (down * math.cos(angle) + right * math.sin(angle)) / math.sqrt(2)
  first, last = rng.uniform(0.1, 0.6, (2, 3))
  image = first + ramp[..., None] * (last - first)
  for _ in range(int(rng.integers(3, 6))):
    sides = [max(1, round(side * rng.uniform(0.25, 0.75))) for side in (H, W)]
    top, left = (int(rng.integers(a - b + 1)) for a, b in zip((H, W), sides))
    image[top : top + sides[0], left : left + sides[1]] += rng.uniform(-0.35, 0.45, 3)
  return np.clip(image, 0, 1).astype(np.float32)


def degrade(rng: np.random.Generator, image: np.ndarray, kind: str) -> np.ndarray:
  """Returns a picture in bad weather, float32 in [0, 1]; the given one stays as it is.

  Args:
    rng: source of all randomness.
    image: (H, W, C) in [0, 1].
    kind: one of KINDS.

  Raises:
    ValueError: if the kind is unknown, or `image` has other axes or values.
  """
  check_known("kind", kind, KINDS)
  image = np.asarray(image)
  if image.ndim != 3 or not image.size:
    raise ValueError(f"image {image.shape}: a picture is (H, W, C), and not empty")
  if not (image.min() >= 0 and image.max() <= 1):
    raise ValueError(
      f"image from {image.min()} to {image.max()}: pictures are in [0, 1]"
    )
  found = {"haze": _haze, "rain": _rain, "snow": _snow}[kind](rng, image)
  return np.clip(found, 0, 1).astype(np.float32)


def _haze(rng, image):
  t, air = rng.uniform(*TRANSMISSION), rng.uniform(*AIR)
  return t * image + (1 - t) * air


def _rain(rng, image):
  slope = math.tan(math.radians(rng.uniform(-SLANT, SLANT)))

  def streak():
    length = int(rng.integers(LENGTH[0], LENGTH[1] + 1))
    # From above the picture too, so that its first rows have as much rain as others.
    top = int(rng.integers(-length + 1, image.shape[0]))
    down = np.arange(length)
    # What blows in from a side begins beside the picture.
    drift = slope * (image.shape[0] + length)
    left = rng.uniform(min(0, -drift), image.shape[1] + max(0, -drift))
    right = np.floor(left + slope * (top + down)).astype(int)
    return top + down, right, rng.uniform(*STREAK)

  return image + _until_dense(image.shape[:2], streak)[..., None]


def _snow(rng, image):
  def disc():
    radius = rng.uniform(*RADIUS)
    y, x = rng.uniform(-0.5, np.array(image.shape[:2]) - 0.5)
    near = np.arange(-3, 4)
    down, right = (round(y) + near)[:, None], (round(x) + near)[None]
    inside = (down - y) ** 2 + (right - x) ** 2 <= radius**2
    down, right = (
      np.broadcast_to(places, inside.shape)[inside] for places in (down, right)
    )
    return down, right, 1.0

  white = _until_dense(image.shape[:2], disc)[..., None]
  return np.where(white > 0, 1.0, image)


def _until_dense(shape: tuple[int, int], part: Callable) -> np.ndarray:
  """Draws parts (rows, columns, brightness) until DENSITY of the pixels are covered.

  Where parts overlap the brighter one counts.
  """
  layer, covered = np.zeros(shape), 0
  while covered < DENSITY * layer.size:
    down, right, value = part()
    inside = (down >= 0) & (down < shape[0]) & (right >= 0) & (right < shape[1])
    place = down[inside], right[inside]
    covered += int((layer[place] == 0).sum())
    layer[place] = np.maximum(layer[place], value)
  return layer
