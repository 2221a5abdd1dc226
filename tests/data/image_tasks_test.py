"""Generated images against what their rules say of the pixels."""

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import drawing
from experiments.data.sets import shapes
from tests.data import pure

NAMES = ("relation", "shapes", "texture_shape")


def drawn(name, number, split="train", **options):
  """Yields (image without its last axis if that is 1, label)."""
  source = data.load(name, options).source(split)
  for i in range(number):
    example = source[i]
    image = example["image"]
    yield (image[..., 0] if image.shape[-1] == 1 else image), int(example["label"])


class DrawingTest(absltest.TestCase):
  def test_shapes_by_hand(self):
    rows = {
      "square": ["11111"] * 5,
      "cross": ["00100", "00100", "11111", "00100", "00100"],
      "disc": ["01110", "11111", "11111", "11111", "01110"],
      "triangle": ["00100", "01110", "01110", "11111", "11111"],
    }
    self.assertEqual(tuple(rows), drawing.SHAPES)
    for kind, want in rows.items():
      found = ["".join(str(int(x)) for x in row) for row in drawing.shape(kind, 5)]
      self.assertEqual(found, want, kind)

  def test_textures_by_hand(self):
    first = {
      "rows": ["++++", "++++", "----", "----"],
      "columns": ["++--", "++--", "++--", "++--"],
      "diagonals": ["++--", "+--+", "--++", "-++-"],
      "chessboard": ["++--", "++--", "--++", "--++"],
    }
    self.assertEqual(tuple(first), drawing.TEXTURES)
    for kind, want in first.items():
      texture = drawing.texture(kind, 4, 0)
      found = ["".join("+" if x > 0 else "-" for x in row) for row in texture]
      self.assertEqual(found, want, kind)
      shifted = drawing.texture(kind, 4, 1)
      np.testing.assert_array_equal(shifted[:3, :3], texture[1:, 1:])


class RelationTest(parameterized.TestCase):
  @parameterized.parameters((16, 3, 8), (9, 1, 8))
  def test_marks(self, side, mark, apart):
    options = {"side": side, "mark": mark, "apart": apart, "tile": False, "noise": 0.0}
    labels = []
    for image, label in drawn("relation", 200, **options):
      self.assertEqual(set(np.unique(image)) - {0.0, 0.5, 1.0}, set())
      places = np.argwhere(image != 0.5)
      self.assertLen(places, 2 * mark**2)
      values = image[image != 0.5]
      self.assertEqual(label, int(values.min() == values.max()))
      # The first pixel belongs to one mark, the rest of it lies within `mark` pixels.
      near = abs(places - places[0]).max(1) < mark
      if near.sum() == mark**2:
        gap = places[~near].min(0) - places[near].min(0)
        self.assertGreaterEqual(abs(gap).max(), apart)
      labels.append(label)
    self.assertBetween(np.mean(labels), 0.35, 0.65)

  def test_the_tile_and_noise_say_nothing_of_the_label(self):
    for (plain, label), (tiled, again) in zip(
      drawn("relation", 50, tile=True, noise=0.0),
      drawn("relation", 50, tile=True, noise=0.05),
    ):
      self.assertEqual(label, again)
      self.assertBetween(np.isclose(abs(plain - 0.5), 0.34).sum(), 64 - 18, 64)
      inner = (tiled > 0) & (tiled < 1)
      self.assertBetween((tiled - plain)[inner].std(), 0.03, 0.06)


class ShapesTest(absltest.TestCase):
  def test_objects(self):
    seen = set()
    for image, label in drawn("shapes", 200, clutter=0, noise=0.0):
      kind, colour = divmod(label, 3)
      mask = np.isclose(image, np.float32(shapes.COLOURS[colour])).all(-1)
      np.testing.assert_allclose(image[~mask], 0.1, rtol=1e-6)
      rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
      size = int(rows[-1] - rows[0]) + 1
      self.assertBetween(size, 11, 15)
      box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
      want = drawing.shape(drawing.SHAPES[kind], size)
      want = want[:, want.any(0)]
      np.testing.assert_array_equal(box, want)
      seen.add(label)
    self.assertEqual(seen, set(range(12)))

  def test_clutter_has_all_colours(self):
    found = 0
    for image, label in drawn("shapes", 10, noise=0.0, clutter=10):
      kinds = {tuple(np.round(pixel, 1)) for pixel in image.reshape(-1, 3).tolist()}
      found += len(kinds - {(0.1, 0.1, 0.1), shapes.COLOURS[label % 3]})
    self.assertGreater(found, 16)  # of 20: pieces may be hidden


class TextureShapeTest(absltest.TestCase):
  def test_quarters(self):
    labels, orders = [], set()
    options = {"noise": 0.0, "shapes": 3, "textures": 4}
    for image, label in drawn("texture_shape", 150, **options):
      quarters = image.reshape(2, 16, 2, 16).swapaxes(1, 2).reshape(4, 16, 16)
      kinds = []
      for quarter in quarters:
        rows, columns = (quarter != 0.5).any(1), (quarter != 0.5).any(0)
        part = (quarter[rows][:, columns] - 0.5) / 0.4
        kinds.append(_kind(part))
      found = [kind for kind in kinds if kind in drawing.SHAPES]
      texture = next(kind for kind in kinds if kind in drawing.TEXTURES)
      self.assertLen(found, 2)
      self.assertIn("nothing", kinds)
      same, number = divmod(label, 4)
      self.assertEqual(
        (found[0] == found[1], texture), (same, drawing.TEXTURES[number])
      )
      labels.append(label)
      orders.add(kinds.index("nothing"))
    self.assertEqual(set(labels), set(range(8)))
    self.assertEqual(orders, set(range(4)))


def _kind(part):
  """Returns the name of a shape or texture, found by comparing it with all."""
  if not part.size:
    return "nothing"
  for kind in drawing.SHAPES:
    shape = drawing.shape(kind, 10)
    shape = shape[:, shape.any(0)]
    if shape.shape == part.shape and np.allclose(shape, part, atol=1e-5):
      return kind
  for kind in drawing.TEXTURES:
    for phase in range(4):
      if np.allclose(drawing.texture(kind, 10, phase), part, atol=1e-5):
        return kind
  raise AssertionError("neither a shape nor a texture")


class AllTest(parameterized.TestCase):
  @parameterized.parameters(*NAMES)
  def test_pure_in_seed_split_and_index(self, name):
    pure.check(self, name, ("image", "label"))

  @parameterized.parameters(*NAMES)
  def test_a_task_is_its_description(self, name):
    task = data.load(name)
    self.assertEqual((task.name, task.kind, task.metric), (name, "images", "accuracy"))
    labels = set()
    for i in range(100):
      example = task.source("train")[i]
      self.assertEqual(example["image"].shape, task.shape)
      self.assertEqual(example["image"].dtype, np.float32)
      self.assertBetween(example["image"].min(), 0.0, example["image"].max())
      self.assertLessEqual(example["image"].max(), 1.0)
      self.assertEqual((example["label"].shape, example["label"].dtype), ((), np.int32))
      labels.add(int(example["label"]))
    self.assertEqual(labels, set(range(task.classes)))

  @parameterized.parameters(
    ("relation", {"side": 10}, "side = 10; it must be at least 11"),
    ("relation", {"apart": 2}, "apart = 2; it must be at least 3"),
    ("relation", {"noise": -1.0}, "noise = -1.0"),
    ("relation", {"side": 7, "apart": 4, "tile": True}, "side = 7 has no room"),
    ("shapes", {"side": 15}, "side = 15; it must be at least 16"),
    ("shapes", {"shapes": 5}, "shapes = 5; it must be 1 to 4"),
    ("shapes", {"colours": 0}, "colours = 0; it must be 1 to 4"),
    ("shapes", {"noise": -1.0}, "noise = -1.0"),
    ("texture_shape", {"side": 21}, "side = 21; it must be even"),
    ("texture_shape", {"shapes": 1}, "shapes = 1; it must be 2 to 4"),
    ("texture_shape", {"textures": 5}, "textures = 5; it must be 2 to 4"),
    ("texture_shape", {"noise": -1.0}, "noise = -1.0"),
  )
  def test_what_does_not_fit(self, name, options, message):
    with self.assertRaisesRegex(ValueError, message):
      data.load(name, options)


if __name__ == "__main__":
  absltest.main()
