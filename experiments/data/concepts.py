"""A world of concepts: videos show some of them, captions tell of two.

Satya Krishna Gorti et al. argue (arXiv:2203.15086, section 1) that a caption tells of
a few moments of a video, so that the mean of all frames drowns them. Here a concept is
a unit vector, a frame is a concept with noise, and a caption the sum of two concepts of
its video, with noise.
"""

import numpy as np

from experiments.data.generated import Example

SHOWN = 2  # concepts of a caption


def world(seed: int, concepts: int, width: int) -> np.ndarray:
  """Draws the unit vectors (concepts, width) of a seed's world."""
  drawn = np.random.default_rng([seed, concepts, width]).standard_normal
  found = drawn((concepts, width))
  return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def example(
  draw: np.random.Generator,
  world: np.ndarray,
  *,
  frames: int,
  frame_noise: float,
  text_noise: float,
) -> Example:
  """Draws a video, its caption, and which concepts they have.

  Args:
    draw: random generator.
    world: of `world`.
    frames: F, of a video; their concepts all differ.
    frame_noise: expected length of the noise of a frame.
    text_noise: of a caption.
  """
  width = world.shape[1]
  shown = draw.permutation(len(world))[:frames]
  told = np.sort(draw.permutation(frames)[:SHOWN])
  video = world[shown] + frame_noise / width**0.5 * draw.standard_normal(
    (frames, width)
  )
  text = world[shown[told]].sum(axis=0)
  text = text + text_noise / width**0.5 * draw.standard_normal(width)
  return {
    "text": text.astype(np.float32),
    "frames": video.astype(np.float32),
    "told": told.astype(np.int32),
    "shown": shown.astype(np.int32),
  }
