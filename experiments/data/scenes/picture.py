"""Pictures of scenes, and masks of their things."""

import numpy as np

from experiments.data import drawing
from experiments.data.scenes.scene import COLOURS, Scene, Thing

GROUND = 0.1
_PIGMENTS = {
  "red": (1.0, 0.1, 0.1),
  "green": (0.1, 1.0, 0.1),
  "blue": (0.1, 0.1, 1.0),
  "yellow": (1.0, 1.0, 0.1),
  "purple": (1.0, 0.1, 1.0),
  "cyan": (0.1, 1.0, 1.0),
}
_PIECE = 2


def drawn(
  scene: Scene,
  rng: np.random.Generator | None = None,
  *,
  noise: float = 0.0,
  clutter: int = 0,
) -> np.ndarray:
  """Draws the picture of a scene, float32 (H, W, 3) in [0, 1].

  Args:
    scene: the things.
    rng: of noise and clutter; none is needed without these.
    noise: standard deviation of what is added to each channel of each pixel.
    clutter: number of squares of 2 x 2 pixels, of all colours, behind the things.

  Raises:
    ValueError: for noise or clutter without an rng.
  """
  if rng is None:
    if noise or clutter:
      raise ValueError(f"noise = {noise} and clutter = {clutter} need an rng")
    rng = np.random.default_rng(0)
  image = np.full((*scene.shape, 3), GROUND)
  for _ in range(clutter):
    corner = rng.integers(np.array(scene.shape) - _PIECE + 1).tolist()
    colour = COLOURS[int(rng.integers(len(COLOURS)))]
    part = np.ones((_PIECE, _PIECE))
    drawing.put(image, part, (corner[0], corner[1]))[...] = _PIGMENTS[colour]
  for one in scene.things:
    image[mask(scene, one)] = _PIGMENTS[one.colour]
  if noise:
    image += noise * rng.standard_normal(image.shape)
  return np.clip(image, 0.0, 1.0).astype(np.float32)


def mask(scene: Scene, thing: Thing) -> np.ndarray:
  """Returns which pixels of the picture a thing covers, bool (H, W)."""
  found = np.zeros(scene.shape, bool)
  part = drawing.shape(thing.shape, thing.size)
  drawing.put(found, part, (thing.top, thing.left))[...] = part > 0
  return found
