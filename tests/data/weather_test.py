"""Haze, rain and snow by their rules, on pictures of any size."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from experiments.data import weather


def _rng(seed=0):
  return np.random.default_rng(seed)


def _rain(size, seed):
  """The rain alone, (H, W, 3), on a picture that is not clipped."""
  image = np.full((*size, 3), 0.25)
  return weather.degrade(_rng(seed), image, "rain") - np.float32(0.25)


class CleanTest(parameterized.TestCase):
  @parameterized.parameters((1, (1, 1)), (7, (7, 7)), ((63, 2), (63, 2)))
  def test_any_size(self, size, shape):
    image = weather.clean(_rng(), size)
    self.assertEqual((image.shape, image.dtype), ((*shape, 3), np.float32))
    self.assertBetween(image.min(), 0, 1)
    self.assertBetween(image.max(), 0, 1)

  def test_is_a_function_of_the_generator(self):
    np.testing.assert_array_equal(weather.clean(_rng(3), 9), weather.clean(_rng(3), 9))
    self.assertGreater(
      np.abs(weather.clean(_rng(3), 9) - weather.clean(_rng(4), 9)).max(), 0.1
    )

  def test_has_colours_edges_and_a_gradient(self):
    images = np.stack([weather.clean(_rng(seed), 32) for seed in range(40)])
    self.assertGreater(images.std(), 0.15)
    self.assertLess(((images == 0) | (images == 1)).mean(), 0.15)
    steps = np.abs(np.diff(images, axis=2)).max(axis=-1)
    edges = (steps > 0.08).mean()
    self.assertBetween(edges, 0.01, 0.15)
    self.assertGreater((steps > 1e-4).mean(), 0.7)  # the gradient is everywhere

  def test_errors_name_the_size(self):
    with self.assertRaisesRegex(ValueError, r"size = \(0, 3\)"):
      weather.clean(_rng(), (0, 3))


class DegradeTest(parameterized.TestCase):
  @parameterized.product(kind=weather.KINDS, size=[(1, 1), (7, 65), (63, 2)])
  def test_any_size(self, kind, size):
    image = weather.clean(_rng(), size)
    kept = image.copy()
    found = weather.degrade(_rng(1), image, kind)
    self.assertEqual((found.shape, found.dtype), (image.shape, np.float32))
    self.assertBetween(found.min(), 0, 1)
    self.assertBetween(found.max(), 0, 1)
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(found, weather.degrade(_rng(1), image, kind))
    self.assertGreater(np.abs(found - image).max(), 0)

  def test_haze_is_a_line_from_the_picture_to_a_grey(self):
    drawn = []
    image = weather.clean(_rng(), 8)
    for seed in range(200):
      ends = np.zeros((1, 2, 3))
      ends[0, 1] = 1
      low, high = weather.degrade(_rng(seed), ends, "haze")[0]
      np.testing.assert_allclose(low, low[0])  # grey
      t = (high - low)[0]
      drawn.append((t, low[0] / (1 - t)))
      found = weather.degrade(_rng(seed), image, "haze")
      np.testing.assert_allclose(found, t * image + low, atol=1e-6)
    (least, dark), (most, bright) = np.min(drawn, axis=0), np.max(drawn, axis=0)
    for got, want in zip((least, most, dark, bright), (0.4, 0.8, 0.7, 1.0)):
      self.assertAlmostEqual(got, want, delta=0.01)

  def test_rain_adds_slanted_streaks(self):
    slants = []
    for seed in range(60):
      more = _rain((64, 48), seed)
      np.testing.assert_allclose(
        more, np.broadcast_to(more[..., :1], more.shape), atol=1e-6
      )
      wet = more[..., 0] > 0
      self.assertBetween(wet.mean(), 0.05, 0.055)
      self.assertBetween(more[wet].min(), 0.3 - 1e-6, 0.7)
      self.assertLess(more.max(), 0.7 + 1e-6)
      slants.append(_slant(more[..., 0]))
    self.assertBetween(np.min(slants), -20.5, -14)
    self.assertBetween(np.max(slants), 14, 20.5)

  def test_streaks_are_8_to_12_pixels_long_and_one_wide(self):
    lengths = []
    for seed in range(30):
      more = _rain((64, 48), seed)[..., 0]
      for value in np.unique(more[more > 0]):
        down, _ = np.nonzero(more == value)
        self.assertLen(set(down), down.size)  # one pixel a row
        if 12 <= down.min() and down.max() < 52:
          lengths.append(down.max() - down.min() + 1)
    # Others that cross a streak may hide its ends.
    self.assertEqual(max(lengths), 12)
    self.assertGreater(np.mean([length >= 8 for length in lengths]), 0.85)

  def test_rain_is_everywhere(self):
    wet = np.zeros((20, 16))
    for seed in range(400):
      wet += _rain((20, 16), seed)[..., 0] > 0
    share = wet / 400
    self.assertBetween(share.mean(axis=1).min(), 0.045, 0.1)
    self.assertBetween(share.mean(axis=0).min(), 0.045, 0.1)

  def test_snow_is_white_discs(self):
    sizes = []
    for seed in range(200):
      image = np.full((9, 9, 3), 0.5)
      found = weather.degrade(_rng(seed), image, "snow")
      white = (found == 1).all(axis=-1)
      np.testing.assert_array_equal(found[~white], 0.5)
      self.assertGreaterEqual(white.mean(), 0.05)
      down, right = np.nonzero(white)
      if 1 < down.min() and down.max() < 7 and 1 < right.min() and right.max() < 7:
        sizes.append(white.sum())
        self.assertLessEqual(max(np.ptp(down), np.ptp(right)), 4)
    # Areas from pi to 4 pi, one disc or two small ones.
    self.assertBetween(min(sizes), 5, 6)
    self.assertBetween(max(sizes), 11, 16)

  def test_errors_name_the_kind_and_the_range(self):
    image = np.zeros((2, 2, 3))
    with self.assertRaisesRegex(ValueError, "unknown kind 'hail'.*snow"):
      weather.degrade(_rng(), image, "hail")
    with self.assertRaisesRegex(ValueError, "from 0.0 to 255.0"):
      weather.degrade(_rng(), image + [0, 0, 255], "rain")
    with self.assertRaisesRegex(ValueError, r"image \(2, 2\)"):
      weather.degrade(_rng(), image[..., 0], "haze")


def _slant(more):
  """The angle by which equally bright pixels of neighbouring rows are displaced."""
  moves = []
  for value in np.unique(more[more > 0]):
    down, right = np.nonzero(more == value)
    if down.size >= 8 and np.ptp(down) == down.size - 1:
      moves.append(np.polyfit(down, right, 1)[0])
  return math.degrees(math.atan(np.median(moves)))


if __name__ == "__main__":
  absltest.main()
