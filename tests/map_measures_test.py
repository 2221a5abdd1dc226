"""Losses and metrics of maps: numbers by hand, and SSIM by its definition."""

import types

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.training import measures, objective
from experiments.training.objectives import charbonnier, cross_entropy, squared_error


def measured(name, outputs, target):
  run = jax.jit(measures.load(name).totals)
  sums = run(jnp.asarray(outputs), {"target": target})
  return measures.load(name).value({n: float(x) for n, x in sums.items()})


def pictures(number=3, side=16, channels=3):
  draw = np.random.default_rng(0).uniform(0, 1, (number, side, side + 2, channels))
  return draw.astype(np.float32)


class PicturesTest(absltest.TestCase):
  def test_psnr_by_hand(self):
    target = np.full((2, 4, 5, 3), 0.5, np.float32)
    self.assertAlmostEqual(measured("psnr", target + 0.1, target), 20.0, places=4)
    one = target + np.array([0.1, 0.01], np.float32)[:, None, None, None]
    self.assertAlmostEqual(measured("psnr", one, target), 30.0, places=3)
    self.assertEqual(measured("psnr", target, target), 100.0)
    # 7 is read as 1, whose square error is 1/4.
    self.assertAlmostEqual(
      measured("psnr", target + 6.5, target), 10 * np.log10(4), places=4
    )

  def test_ssim_by_its_definition(self):
    target = pictures()
    noisy = target + 0.2 * pictures()[::-1] - 0.1
    want = np.mean([_ssim(np.clip(a, 0, 1), b) for a, b in zip(noisy, target)])
    self.assertAlmostEqual(measured("ssim", noisy, target), want, places=4)
    self.assertAlmostEqual(measured("ssim", target, target), 1.0, places=5)
    self.assertLess(want, 0.99)
    with self.assertRaisesRegex(ValueError, r"ssim of \(10, 16\) pixels.* at least 11"):
      measured("ssim", target[:, :10, :16], target[:, :10, :16])


def _ssim(a, b):
  """Returns the mean over windows of 11 x 11 pixels, one after the other."""
  line = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
  weight = np.outer(line, line)[..., None] / np.outer(line, line).sum()
  found = []
  for i in range(a.shape[0] - 10):
    for j in range(a.shape[1] - 10):
      x, y = (z[i : i + 11, j : j + 11].astype(np.float64) for z in (a, b))
      mx, my = ((weight * z).sum((0, 1)) for z in (x, y))
      vx, vy = ((weight * z**2).sum((0, 1)) - m**2 for z, m in ((x, mx), (y, my)))
      cov = (weight * x * y).sum((0, 1)) - mx * my
      light = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
      found.append(light * (2 * cov + 0.03**2) / (vx + vy + 0.03**2))
  return np.mean(found)


class PeaksTest(absltest.TestCase):
  def test_by_hand(self):
    target = np.zeros((2, 7, 9, 2), np.float32)
    output = np.full((2, 7, 9, 2), -3, np.float32)
    for b, k, place, found in (
      (0, 0, (3, 3), (3, 5)),  # 2 away
      (0, 1, (3, 3), (5, 4)),  # more than 2
      (1, 0, (0, 8), (1, 7)),  # the square root of 2
      (1, 1, (6, 0), (5, 8)),  # near in the row of pixels, far in the picture
    ):
      target[b, *place, k] = 1
      output[b, *found, k] = -2
    self.assertEqual(measured("peaks_within_2", output, target), 0.5)
    self.assertEqual(measured("peaks_within_2", target, target), 1.0)


class MeanIouTest(absltest.TestCase):
  def test_by_hand(self):
    target = np.array([[[0, 0, 1], [1, 1, -1]], [[0, 1, 1], [0, -1, -1]]])
    found = np.array([[[0, 1, 1], [1, 0, 2]], [[0, 1, 3], [0, 2, 2]]])
    logits = jax.nn.one_hot(found, 5)
    # 0: 3 of 5; 1: 3 of 6; 3, which is not there: 0 of 1; 2 and 4: not asked.
    want = (3 / 5 + 3 / 6 + 0) / 3
    self.assertAlmostEqual(measured("mean_iou", logits, target), want, places=6)
    right = jax.nn.one_hot(jnp.maximum(target, 0), 5)
    self.assertEqual(measured("mean_iou", right, target), 1.0)
    nothing = measured("mean_iou", logits, np.full_like(target, -1))
    self.assertEqual(nothing, 0.0)


class LossTest(parameterized.TestCase):
  def test_by_hand(self):
    target = jnp.array([0.0, 1.0, 2.0, 3.0]).reshape(1, 2, 2, 1)
    outputs = target + jnp.array([0.0, 3.0, -4.0, 0.0]).reshape(1, 2, 2, 1)
    sums = squared_error.totals(outputs, {"target": target})
    self.assertEqual((float(sums["loss"]), float(sums["count"])), (25.0, 4.0))
    sums = charbonnier.totals(outputs, {"target": target})
    self.assertAlmostEqual(float(sums["loss"]), 7.002, places=4)
    self.assertEqual(float(sums["count"]), 4.0)

  def test_cross_entropy_of_pixels(self):
    logits = jnp.log(jnp.array([[[0.25, 0.75], [0.5, 0.5]], [[0.9, 0.1], [0.2, 0.8]]]))
    sums = cross_entropy.totals(logits, {"target": jnp.array([[1, -1], [0, 0]])})
    want = -np.log([0.75, 0.9, 0.2]).sum()
    self.assertAlmostEqual(float(sums["loss"]), want, places=5)
    self.assertEqual((float(sums["hits"]), float(sums["count"])), (2.0, 3.0))

  def test_cross_entropy_of_two_classifiers(self):
    logits, other = jnp.log(jnp.array([[[0.25, 0.75]], [[0.6, 0.4]]]))
    sums = cross_entropy.totals((logits, other), {"label": jnp.array([1])})
    want = -np.log(0.75) - 0.4 * np.log(0.4)
    self.assertAlmostEqual(float(sums["loss"]), want, places=5)
    self.assertEqual((float(sums["hits"]), float(sums["count"])), (1.0, 1.0))


class FillersTest(parameterized.TestCase):
  @parameterized.parameters("psnr", "ssim", "peaks_within_2")
  def test_measures_leave_out_what_fills_a_batch(self, name):
    target, outputs = pictures(3), pictures(4)[::-1][:3]
    filled = np.concatenate([target, np.full_like(target[:2], np.nan)])
    more = np.concatenate([outputs, outputs[:2]])
    want = measured(name, outputs, target)
    self.assertAlmostEqual(measured(name, more, filled), want, places=5)
    self.assertEqual(measured(name, more[3:], filled[3:]), 0.0)

  @parameterized.parameters(charbonnier, squared_error)
  def test_losses_leave_out_what_fills_a_batch(self, loss):
    target, outputs = pictures(3), pictures(4)[::-1][:3]
    filled = np.concatenate([target, np.full_like(target[:2], np.nan)])
    more = np.concatenate([outputs, outputs[:2]])
    got = loss.totals(jnp.asarray(more), {"target": jnp.asarray(filled)})
    want = loss.totals(jnp.asarray(outputs), {"target": jnp.asarray(target)})
    for name in want:
      np.testing.assert_allclose(got[name], want[name], rtol=1e-5)

  def test_a_fault_in_a_map_is_not_hidden(self):
    target = pictures(3)
    target[0, 0, 0, 0] = np.nan
    found = squared_error.totals(jnp.asarray(target), {"target": jnp.asarray(target)})
    self.assertTrue(np.isnan(found["loss"]))


class ObjectiveTest(parameterized.TestCase):
  @parameterized.parameters(
    ("charbonnier", "psnr", ("ssim",), pictures(4)),
    ("squared_error", "peaks_within_2", (), pictures(4)),
    ("cross_entropy", "mean_iou", ("accuracy",), (9 * pictures(4)[..., 0]).astype(int)),
  )
  def test_sums_of_parts_add_up(self, name, metric, also, target):
    task = types.SimpleNamespace(objective=name, metric=metric, also=also)
    goal = objective.make(types.SimpleNamespace(inputs=None), task)
    channels = 9 if target.ndim == 3 else 3
    outputs = jnp.asarray(pictures(4, channels=channels)[::-1])
    totals = jax.jit(goal.totals)
    whole = totals(outputs, {"target": jnp.asarray(target)})
    parts = [
      totals(outputs[part], {"target": jnp.asarray(target[part])})
      for part in (slice(0, 2), slice(2, 4))
    ]
    added = jax.tree.map(jnp.add, *parts)
    for key, value in whole.items():
      self.assertEqual((value.shape, value.dtype), ((), jnp.float32), key)
      np.testing.assert_allclose(added[key], value, rtol=1e-4, err_msg=key)
    found = goal.summarize(whole)
    self.assertEqual(list(found), ["loss", metric, *also])
    self.assertEqual(found[metric], measures.load(metric).value(
      {n: float(x) for n, x in whole.items()}))  # fmt: skip

  def test_more_is_better(self):
    for name in ("psnr", "ssim", "peaks_within_2", "mean_iou"):
      self.assertEqual(measures.sign(name), 1)


if __name__ == "__main__":
  absltest.main()
