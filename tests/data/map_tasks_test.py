"""Images with maps of the same size, against what their rules say of the pixels."""

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import drawing, photographs
from tests.data import pure

NAMES = ("drawn_shapes", "heat_maps", "weather")


def drawn(name, number, split="train", **options):
  source = data.load(name, options).source(split)
  return [source[i] for i in range(number)]


class AllTest(parameterized.TestCase):
  @parameterized.parameters(*NAMES)
  def test_pure_in_seed_split_and_index(self, name):
    pure.check(self, name, ("image", "target"))

  @parameterized.parameters(
    ("drawn_shapes", (32, 32, 3), (32, 32), np.int32, ("mean_iou", "accuracy")),
    ("heat_maps", (32, 32, 1), (32, 32, 3), np.float32, ("peaks_within_2",)),
    ("weather", (32, 32, 3), (32, 32, 3), np.float32, ("psnr", "ssim")),
  )
  def test_a_task_is_its_description(self, name, image, target, dtype, metrics):
    task = data.load(name)
    self.assertEqual((task.name, task.kind), (name, "image_maps"))
    self.assertEqual((task.metric, *task.also), metrics)
    self.assertEqual((task.shape, task.size("channels")), (image, image[-1]))
    self.assertEqual(task.size("outputs"), 5 if dtype == np.int32 else target[-1])
    for split in data.SPLITS:
      for i in range(10):
        example = task.source(split)[i]
        self.assertEqual(list(example), ["image", "target"])
        found = example["image"].shape, example["target"].shape
        self.assertEqual(found, (image, target))
        self.assertEqual(example["image"].dtype, np.float32)
        self.assertEqual(example["target"].dtype, dtype)
        self.assertBetween(example["image"].min(), 0, example["image"].max())
        self.assertLessEqual(example["image"].max(), 1)
        if dtype == np.float32:
          self.assertBetween(example["target"].min(), 0, example["target"].max())
          self.assertLessEqual(example["target"].max(), 1)

  @parameterized.parameters(
    ("drawn_shapes", {"side": 15}, "side = 15; it must be at least 16"),
    ("drawn_shapes", {"shapes": 5}, "shapes = 5; it must be 1 to 4"),
    ("drawn_shapes", {"things": 0}, "things = 0; it must be at least 1"),
    ("drawn_shapes", {"noise": -1.0}, "noise = -1.0"),
    ("heat_maps", {"side": 19}, "size = 19; it must be at least 20"),
    ("heat_maps", {"sigma": 0.0}, "sigma = 0.0"),
    ("weather", {"side": 10}, "side = 10; it must be at least 11"),
    ("weather", {"side": 65}, "side = 65; crops of photographs have 1 to 64"),
    ("weather", {"kinds": "rain,hail"}, "unknown kind 'hail'"),
    ("weather", {"loss": "hinge"}, "unknown loss 'hinge'"),
    ("weather", {"photographs": 1.5}, "photographs = 1.5; a share is from 0 to 1"),
  )
  def test_what_does_not_fit(self, name, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load(name, options)


class DrawnShapesTest(absltest.TestCase):
  def test_one_shape_is_labelled_where_it_is(self):
    kinds = set()
    for example in drawn("drawn_shapes", 60, things=1, noise=0.0, shapes=3):
      target, ground = example["target"], example["image"][0, 0]
      inside = target > 0
      (kind,) = set(target[inside].tolist())
      rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
      size = int(rows[-1] - rows[0] + 1)
      self.assertBetween(size, 9, 15)
      shape = drawing.shape(drawing.SHAPES[kind - 1], size) > 0
      shape = shape[:, shape.any(0)]
      box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
      np.testing.assert_array_equal(box, shape)
      if not inside[0, 0]:
        np.testing.assert_array_equal(
          (example["image"] != ground).any(-1), inside, strict=True
        )
        self.assertLessEqual(ground.max(), 0.25)
      self.assertLen(np.unique(example["image"][inside], axis=0), 1)
      kinds.add(kind)
    self.assertEqual(kinds, {1, 2, 3})

  def test_later_shapes_lie_over_earlier_ones(self):
    most = 0
    for example in drawn("drawn_shapes", 40, things=4, noise=0.0):
      colours = example["image"][example["target"] > 0]
      found, places = np.unique(colours, axis=0, return_inverse=True)
      most = max(most, len(found))
      for one in range(len(found)):  # a colour is of one shape
        kinds = example["target"][example["target"] > 0][places.ravel() == one]
        self.assertLen(set(kinds.tolist()), 1)
    self.assertEqual(most, 4)

  def test_noise(self):
    for plain, noisy in zip(
      drawn("drawn_shapes", 5, noise=0.0), drawn("drawn_shapes", 5, noise=0.05)
    ):
      np.testing.assert_array_equal(plain["target"], noisy["target"])
      apart = (noisy["image"] - plain["image"])[plain["image"].max(-1) < 0.8]
      self.assertBetween(apart.std(), 0.03, 0.06)


class HeatMapsTest(absltest.TestCase):
  def test_peaks_are_one_and_fall_off(self):
    for example in drawn("heat_maps", 5, sigma=2.0):
      for number in range(3):
        heat = example["target"][..., number]
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        self.assertEqual(heat[row, column], 1.0)
        self.assertAlmostEqual(
          float(heat[row, column - 2]), np.exp(-4 / (2 * 2.0**2)), places=5
        )
        self.assertGreater(example["image"][row - 3 : row + 4].max(), 0.5)


class WeatherTest(absltest.TestCase):
  def test_the_loss_is_chosen(self):
    self.assertEqual(data.load("weather").objective, "squared_error")
    chosen = data.load("weather", {"loss": "charbonnier"})
    self.assertEqual(chosen.objective, "charbonnier")

  def test_what_is_clean(self):
    for kind, better in (("rain", np.less_equal), ("snow", np.less_equal)):
      for example in drawn("weather", 10, kinds=kind):
        self.assertTrue(better(example["target"], example["image"]).all())
        moved = (example["image"] != example["target"]).any(-1).mean()
        self.assertBetween(moved, 0.01, 0.2)
    for example in drawn("weather", 10, kinds="haze"):
      x, y = example["target"].ravel(), example["image"].ravel()
      slope = np.polyfit(x, y, 1)[0]
      self.assertBetween(slope, 0.39, 0.81)
      self.assertLess(abs(y - np.polyval(np.polyfit(x, y, 1), x)).max(), 1e-3)

  def test_the_share_of_photographs(self):
    # Pixels of photographs have 8 bits, and 10 if four are averaged.
    def read(share):
      levels = [e["target"] * 1020 for e in drawn("weather", 40, photographs=share)]
      return sum(abs(x - x.round()).max() < 0.01 for x in levels)

    self.assertEqual((read(0.0), read(1.0)), (0, 40))
    self.assertBetween(read(0.25), 3, 18)

  def test_splits_of_photographs_share_no_pixel(self):
    for name in photographs.NAMES:
      parts = [photographs.region(name, split) for split in data.SPLITS]
      self.assertEqual([part.shape[1] for part in parts], [512, 64, 64])
      self.assertEqual({part.shape[0] for part in parts}, {427})
      self.assertGreater(abs(parts[1] - parts[2]).max(), 0.1)

  def test_pictures_of_a_split_are_of_its_region(self):
    for split in data.SPLITS:
      whole = [photographs.region(name, split) for name in photographs.NAMES]
      options = {"photographs": 1.0, "side": 64, "held_out": 4, "kinds": "rain"}
      for example in drawn("weather", 4, split, **options):
        part = example["target"]
        self.assertTrue(any(_holds(one, part) for one in whole), split)
        self.assertGreater((example["image"] != part).any(-1).sum(), 64)

  def test_crops(self):
    rng = np.random.default_rng(0)
    halves = [photographs.crop(rng, "validation", 32) for _ in range(8)]
    self.assertEqual({part.shape for part in halves}, {(32, 32, 3)})
    with self.assertRaisesRegex(ValueError, "side = 0; crops"):
      photographs.crop(rng, "train", 0)


def _holds(whole, part):
  """Returns whether a picture has the part somewhere, as it is or mirrored."""
  H, W = part.shape[:2]
  for one in (part, part[:, ::-1]):
    # Places whose first pixel is that of the part.
    near = (whole[: len(whole) - H + 1, : whole.shape[1] - W + 1] == one[0, 0]).all(-1)
    for top, left in np.argwhere(near):
      if (whole[top : top + H, left : left + W] == one).all():
        return True
  return False


if __name__ == "__main__":
  absltest.main()
