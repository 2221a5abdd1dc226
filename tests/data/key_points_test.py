"""Pictures of glyphs: where they are, what the maps say, and which draws they take."""

import numpy as np
from absl.testing import absltest

from experiments.data import key_points


class KeyPointsTest(absltest.TestCase):
  def test_glyphs_by_hand(self):
    want = {
      "plus": "..###.. ..###.. ####### ####### ####### ..###.. ..###..",
      "cross": "##...## ###.### .#####. ..###.. .#####. ###.### ##...##",
      "ring": "..###.. .#####. ##...## ##...## ##...## .#####. ..###..",
    }
    for kind in key_points.GLYPHS:
      rows = ["".join(".#"[int(p)] for p in row) for row in key_points.glyph(kind)]
      self.assertEqual(" ".join(rows), want[kind])

  def test_glyphs_stand_apart_at_their_centres(self):
    for seed in range(20):
      draw = np.random.default_rng(seed)
      size = (20, 32)[seed % 2]
      image, centres = key_points.example(draw, size, clutter=0, noise=0.0)
      self.assertEqual((image.shape, image.dtype), ((size, size, 1), np.float32))
      self.assertEqual((centres.shape, centres.dtype), ((3, 2), np.float32))
      bright = np.zeros((size, size))
      for kind, (row, column) in zip(key_points.GLYPHS, centres.astype(int).tolist()):
        bright[row - 3 : row + 4, column - 3 : column + 4] += key_points.glyph(kind)
      np.testing.assert_array_equal(image[..., 0] > 0.5, bright)
      apart = np.abs(centres[:, None] - centres).max(-1)[np.triu_indices(3, 1)]
      self.assertGreaterEqual(apart.min(), 7)

  def test_clutter_is_behind_and_noise_on_top(self):
    plain, centres = key_points.example(np.random.default_rng(1), clutter=0, noise=0.0)
    self.assertLess(len(np.unique(plain)), 5)
    clutter, centres = key_points.example(np.random.default_rng(1), noise=0.0)
    row, column = centres.astype(int)[0].tolist()
    plus = clutter[row - 3 : row + 4, column - 3 : column + 4, 0]
    inside = plus[key_points.glyph("plus") > 0]
    self.assertEqual(inside.min(), inside.max())
    self.assertGreater((clutter > 0.5).sum(), (plain > 0.5).sum())
    noisy, _ = key_points.example(np.random.default_rng(1))
    self.assertBetween((noisy - clutter).std(), 0.04, 0.06)

  def test_draws_are_of_the_generator_alone(self):
    one, two, other = (
      key_points.example(np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    for a, b, c in zip(one, two, other):
      np.testing.assert_array_equal(a, b)
      self.assertGreater(np.abs(a - c).max(), 0)

  def test_maps_by_hand(self):
    maps = key_points.heat_maps(np.array([[2.0, 5.0], [0.0, 0.0]]), 7, 1.5)
    self.assertEqual((maps.shape, maps.dtype), ((7, 7, 2), np.float32))
    self.assertEqual(maps[2, 5, 0], 1.0)
    np.testing.assert_allclose(maps[4, 6, 0], np.exp(-5 / 4.5), rtol=1e-6)
    np.testing.assert_allclose(maps[0, 3, 1], np.exp(-9 / 4.5), rtol=1e-6)

  def test_errors_name_the_value(self):
    draw = np.random.default_rng(0)
    for call, message in (
      (lambda: key_points.example(draw, 19), "size = 19; it must be at least 20"),
      (lambda: key_points.example(draw, clutter=-1), "clutter = -1"),
      (lambda: key_points.example(draw, noise=-0.1), "noise = -0.1"),
      (lambda: key_points.heat_maps(np.zeros((1, 2)), 7, 0.0), "sigma = 0.0"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        call()


if __name__ == "__main__":
  absltest.main()
