"""Images that claims draw, against the answers that their pixels give."""

import numpy as np
from absl.testing import absltest, parameterized

from experiments.claims.systems import agent_attention, halo, soft
from experiments.claims.tasks import near_far


def signs(images, patch):
  """Returns the signs of the patches' means, (B, h, w)."""
  B, H, W = images.shape
  parts = images.reshape(B, H // patch, patch, W // patch, patch)
  return np.where(parts.mean(axis=(2, 4)) > 0, 1, -1)


class NearFarTest(parameterized.TestCase):
  @parameterized.parameters(("token", 8), ("token", 4), ("quarter", 8))
  def test_both_signs(self, far, side):
    drawn = near_far.examples(far, side, 0, "validation")
    found = signs(drawn["image"][:20, ..., 0], near_far.PATCH)
    half = side // 2
    for image, labels in zip(found, drawn["label"]):
      for row, column in np.ndindex(side, side):
        near = image[row, column + 1 - 2 * (column % 2)]
        across = (row + half) % side, (column + half) % side
        if far == "token":
          distant = image[across]
        else:
          top, left = (half * (place // half) for place in across)
          quarter = image[top : top + half, left : left + half]
          distant = quarter.sum() or quarter[0, 0]
        self.assertEqual(labels[row, column], 2 * (distant > 0) + (near > 0))


class HaloTest(absltest.TestCase):
  def test_offsets(self):
    drawn = halo.examples(0, "test")
    seen = set()
    for image, label in zip(drawn["image"][:100], drawn["label"]):
      first, second = (
        np.unravel_index(image[..., channel].argmax(), image.shape[:2])
        for channel in (0, 1)
      )
      offset = np.subtract(second, first)
      np.testing.assert_array_equal(offset, halo.OFFSETS[label])
      seen.add(int(label))
    self.assertEqual(seen, set(range(8)))


class BlobsTest(absltest.TestCase):
  def test_the_nearest_decides(self):
    drawn = agent_attention.examples(0, "test")
    right = 0
    for image, label in zip(drawn["image"][:100], drawn["label"]):
      cells = image.reshape(6, 2, 6, 2, 4).mean(axis=(1, 3)).reshape(36, 4)
      nearest = cells[cells[:, 3].argmax(), :3]
      colours = np.array(agent_attention.COLOURS)
      right += int(np.square(colours - nearest).sum(1).argmin()) == label
    self.assertGreater(right, 80)  # noise may exchange the nearest two


class SameTest(parameterized.TestCase):
  @parameterized.parameters(("train", 16), ("validation", 16), ("test", 32))
  def test_two_blobs(self, split, side):
    drawn = soft.examples(2, 0, split)
    self.assertEqual(drawn["image"].shape[1:], (side, side, 3))
    right = 0
    for image, same in zip(drawn["image"][:100], drawn["label"]):
      found = []
      for part in (image[:, : side // 2], image[:, side // 2 :]):
        brightest = part.sum(-1)
        pixel = part[np.unravel_index(brightest.argmax(), brightest.shape)]
        found.append(int(np.square(soft.PALETTE - pixel).sum(1).argmin()))
      right += (found[0] == found[1]) == same
    self.assertGreater(right, 75)  # a pixel is noisy


if __name__ == "__main__":
  absltest.main()
