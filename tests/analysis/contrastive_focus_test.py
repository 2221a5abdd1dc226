"""Contrast, fusion, regions, crops and diagnostics, by hand and against definitions."""

import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import fusion
from attnjax.variants.analysis import contrastive_focus as cf


def _draw(seed=0):
  return np.random.default_rng(seed)


class ContrastTest(parameterized.TestCase):
  def test_minimises_its_objective(self):
    a_q, a_g = _draw().random((2, 30)) + 0.05
    for lam in (1e-8, 0.03):
      x = cf.contrast(a_q, a_g, lam)

      def cost(x, lam=lam):
        return ((x * a_g - a_q) ** 2 + lam * x**2 * a_g).sum()

      for i in range(30):
        for step in (-1e-3, 1e-3):
          self.assertGreater(cost(x + step * (np.arange(30) == i)), cost(x))
    np.testing.assert_allclose(cf.contrast(a_q, a_g), a_q / (a_g + 1e-8), rtol=1e-12)

  def test_recovers_the_signal_of_a_product(self):
    noise, signal = _draw(1).random((2, 50)) + 0.1
    np.testing.assert_allclose(cf.contrast(noise * signal, noise, 0.0), signal)
    error = _draw(2).uniform(-0.3, 0.3, 50)
    found = cf.contrast(noise * signal, noise * (1 + error), 0.0)
    bound = 0.3 / 0.7 * signal.max()
    self.assertLess(abs(found - signal).max(), bound)
    np.testing.assert_allclose(cf.contrast(noise, noise, 0.0), 1.0)

  def test_fusion_by_hand(self):
    """One token of four stands for a quarter of a picture of 2 x 2 pixels."""
    q = np.arange(1.0, 25).reshape(3, 2, 4)
    g = np.full((2, 2, 4), 2.0)
    first, second = q[0] / 2, q[1] / 2
    want = {
      "all": first.sum(0) + 2 * second.sum(0),
      "first": first.sum(0),
      "last": second.sum(0),
    }
    for mode, value in want.items():
      got = cf.fuse(q, g, (2, 2), (2, 2), layers=(0, 1, 9), step_mode=mode, lam=0.0)
      np.testing.assert_allclose(got, value.reshape(2, 2))
    one = cf.fuse(q, g, (2, 2), (2, 2), layers=(1,), lam=2.0)
    np.testing.assert_allclose(one, ((q[0, 1] + 2 * q[1, 1]) / 4).reshape(2, 2))
    wide = cf.fuse(q, g, (1, 4), (1, 8), layers=(0,), step_mode="first", lam=0.0)
    line = first[0]
    inner = [0.75 * a + 0.25 * b for a, b in zip(line, line[1:])]
    np.testing.assert_allclose(
      wide[0, :3], [line[0], inner[0], 0.25 * line[0] + 0.75 * line[1]]
    )  # noqa: E501
    np.testing.assert_allclose(wide[0, -1], line[-1])

  def test_defaults_are_the_codes(self):
    q, g = _draw().random((2, 2, 30, 6)) + 0.1
    want = cf.fuse(q, g, (2, 3), (4, 6), layers=range(20, 26), step_mode="all",
                   lam=1e-8)  # fmt: skip
    np.testing.assert_array_equal(cf.fuse(q, g, (2, 3), (4, 6)), want)
    other = cf.fuse(q, g, (2, 3), (4, 6), layers=range(20, 27))
    self.assertGreater(abs(other - want).max(), 0.1)

  @parameterized.parameters(
    ({"step_mode": "some"}, "step_mode"),
    ({"grid": (2, 2)}, r"on a grid \(2, 2\)"),
    ({"layers": (9,)}, r"2 steps and layers \(9,\) of 5"),
  )
  def test_fusion_refuses(self, change, message):
    given = {"grid": (2, 3), "out_hw": (4, 6), "layers": (0,)} | change
    with self.assertRaisesRegex(ValueError, message):
      cf.fuse(np.ones((2, 5, 6)), np.ones((3, 5, 6)), **given)


# Regions: A of 3 pixels (sum 27), B of 4 (sum 24), C and D of one each.
MAP = np.array(
  [
    [9, 0, 0, 6, 6, 0, 0],
    [9, 0, 0, 6, 6, 0, 0],
    [9, 0, 0, 0, 0, 8, 0],
    [0, 7, 0, 0, 0, 0, 0],
  ],
  float,
)


class RegionsTest(parameterized.TestCase):
  def test_labels_in_the_order_of_first_pixels(self):
    want = [
      [1, 0, 0, 2, 2, 0, 0],
      [1, 0, 0, 2, 2, 0, 0],
      [1, 0, 0, 0, 0, 3, 0],
      [0, 4, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(cf.label(MAP > 0), want)
    corners = np.array(want)
    corners[corners == 4], corners[corners == 3] = 1, 2
    np.testing.assert_array_equal(cf.label(MAP > 0, 2), corners)
    with self.assertRaisesRegex(ValueError, "connectivity = 3"):
      cf.label(MAP > 0, 3)

  def test_labels_of_random_masks_by_flooding(self):
    for seed in range(5):
      mask = _draw(seed).random((9, 13)) < 0.55
      for connectivity in (1, 2):
        want = _flooded(mask, connectivity)
        np.testing.assert_array_equal(cf.label(mask, connectivity), want)

  @parameterized.parameters(
    ("attention_sum", 1, 9 / 28, {9}),
    ("size", 1, 9 / 28, {6}),
    ("attention_sum", 3, 9 / 28, {9, 6, 8}),
    ("attention_sum", 9, 9 / 28, {9, 6, 8, 7}),
    ("remove_small", 1, 9 / 28, {9, 6, 8, 7}),
    ("attention_sum", 2, 5 / 28, {9, 8}),  # the threshold is above 6
  )
  def test_selection(self, strategy, keep, top_p, want):
    mask = cf.select_regions(MAP, top_p, keep, strategy)
    self.assertEqual(set(MAP[mask]), want)

  def test_many_regions_keep_their_share(self):
    S = np.zeros((9, 9))
    S[::2, ::2] = 1 + np.arange(25).reshape(5, 5)  # 25 regions of one pixel
    self.assertEqual(cf.select_regions(S, 25 / 81, 3).sum(), 7)
    self.assertEqual(cf.select_regions(S, 25 / 81, 12).sum(), 12)
    equal = cf.select_regions((S > 0).astype(float), 25 / 81, 2)
    self.assertEqual(np.argwhere(equal[:1, :])[:, 1].tolist(), [0, 2, 4, 6, 8])
    top = cf.select_regions(S, 25 / 81, 7)
    self.assertEqual(S[top].min(), 19)

  def test_defaults_and_small_regions(self):
    S = _draw(3).random((40, 50))
    got = cf.select_regions(S)
    np.testing.assert_array_equal(got, cf.select_regions(S, 0.2, 3, "attention_sum"))
    spots = np.zeros((40, 50))
    spots[0, 0], spots[5:7, 5] = 2.0, 3.0  # 2 = 0.1 % of 2000 pixels
    kept = cf.select_regions(spots, 3 / 2000, 1, "remove_small")
    self.assertEqual(np.argwhere(kept).tolist(), [[5, 5], [6, 5]])

  def test_more_pixels_for_a_larger_share(self):
    S = _draw(4).random((12, 12))
    masks = [cf.select_regions(S, p, 999) for p in (0.1, 0.3, 1.0)]
    self.assertEqual(masks[2].sum(), 144)
    self.assertTrue((masks[0] <= masks[1]).all())
    self.assertBetween(masks[1].sum(), 42, 45)
    with self.assertRaisesRegex(ValueError, "top_p = 1.5"):
      cf.select_regions(S, 1.5)
    with self.assertRaisesRegex(ValueError, "unknown strategy 'sum'"):
      cf.select_regions(S, strategy="sum")

  def test_versions_of_the_code(self):
    self.assertEqual(cf.VERSIONS["v1"], ("first", "remove_small"))
    self.assertEqual(cf.VERSIONS["v4"], ("all", "attention_sum"))
    for steps, strategy in cf.VERSIONS.values():
      self.assertIn(steps, cf.STEPS)
      self.assertIn(strategy, cf.STRATEGIES)


def _flooded(mask, connectivity):
  """Labels by filling from each first pixel."""
  found, number = np.zeros(mask.shape, int), 0
  near = [(-1, 0), (1, 0), (0, -1), (0, 1)]
  near += [(-1, -1), (-1, 1), (1, -1), (1, 1)] * (connectivity == 2)
  for start in zip(*np.nonzero(mask)):
    if found[start]:
      continue
    number, todo = number + 1, [start]
    while todo:
      y, x = todo.pop()
      if mask[y, x] and not found[y, x]:
        found[y, x] = number
        beside = [(y + a, x + b) for a, b in near]
        todo += [
          (r, c) for r, c in beside if 0 <= r < len(mask) and 0 <= c < len(mask[0])
        ]
  return found


class PictureTest(parameterized.TestCase):
  def test_crop_and_magnify(self):
    image = _draw().random((12, 20, 3)).astype(np.float32)
    mask = np.zeros((12, 20), bool)
    mask[2:5, 4:9] = True
    mask[3, 5] = False
    got, box = cf.focus_image(image, mask)
    self.assertEqual(box, (4, 2, 9, 5))
    self.assertEqual(got.shape, (12, 20, 3))  # 3 x 5, four times
    cut = (image * mask[..., None])[2:5, 4:9]
    np.testing.assert_allclose(got, cf.resized(cut, (12, 20), "lanczos"), rtol=1e-5)
    tall = np.zeros((12, 20), bool)
    tall[0:12, 3:6] = True
    self.assertEqual(cf.focus_image(image, tall)[0].shape, (80, 20, 3))

  def test_an_empty_mask_leaves_the_picture(self):
    image = _draw().random((6, 8, 1))
    got, box = cf.focus_image(image, np.zeros((6, 8), bool))
    self.assertEqual(box, (0, 0, 8, 6))
    np.testing.assert_allclose(got, image, atol=1e-12)

  def test_filters_by_hand(self):
    spot = np.zeros((1, 9))
    spot[0, 4] = 1.0
    line = cf.resized(spot, (1, 18), "bilinear")[0]
    np.testing.assert_allclose(line[6:12], [0, 0.25, 0.75, 0.75, 0.25, 0], atol=1e-12)
    x = np.abs(np.arange(18) + 0.5 - 9) / 2  # distances in the picture's pixels
    want = np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)
    got = cf.resized(spot, (1, 18), "lanczos")[0]
    total = sum(np.sinc(d) * np.sinc(d / 3) for d in np.arange(-2.75, 3))
    np.testing.assert_allclose(got[6:12], want[6:12] / total, rtol=1e-12)
    half = cf.resized(np.arange(8.0)[None], (1, 4), "bilinear")[0]
    # Weights 1, 3, 3, 1 of a half-wide triangle; those at the edge are missing.
    np.testing.assert_allclose(half, [5 / 7, 2.5, 4.5, 7 - 5 / 7])
    flat = np.full((5, 7, 2), 3.0)
    for kind in ("bilinear", "lanczos"):
      np.testing.assert_allclose(cf.resized(flat, (9, 4), kind), 3.0)
    with self.assertRaisesRegex(ValueError, "filter 'cubic'"):
      cf.resized(flat, (9, 4), "cubic")

  def test_entropy(self):
    maps = np.array([[0.1, 0.1, 0.1, 0.1], [0.4, 0.4, 0.0, 0.0], [0.0, 0, 0, 0]])
    got = cf.attention_entropy(maps[None])
    np.testing.assert_allclose(got, [(np.log(4) + np.log(2)) / 3])
    np.testing.assert_allclose(cf.attention_entropy(maps, (1,)), np.log(2))

  def test_texture_is_the_share_of_edges(self):
    image = np.zeros((6, 8, 3))
    self.assertEqual(cf.texture_complexity(image), 0.0)
    image[:, 4:] = 1.0  # two columns beside the step
    self.assertEqual(cf.texture_complexity(image), 0.25)
    self.assertEqual(cf.texture_complexity(image.swapaxes(0, 1)), 0.25)
    self.assertEqual(cf.texture_complexity(0.1 * image), 0.0)  # 0.4 < 0.5
    self.assertEqual(cf.texture_complexity(0.1 * image, edge=0.3), 0.25)

  def test_edges_are_sobels(self):
    image = np.zeros((5, 5, 1))
    image[2, 2] = 1.0  # gradients around: sqrt(2) at the corners, 2 at the sides
    self.assertEqual(cf.texture_complexity(image, edge=1.3), 8 / 25)
    self.assertEqual(cf.texture_complexity(image, edge=1.5), 4 / 25)
    self.assertEqual(cf.texture_complexity(image, edge=2.0), 0.0)

  def test_hues_are_those_of_the_colour_circle(self):
    draw = np.random.default_rng(3).uniform(size=(400, 3))
    for strength in (1.0, 0.03):  # hues do not depend on how strong a colour is
      pixels = 0.5 + strength * (draw - 0.5)
      hues = [int(180 * colorsys.rgb_to_hsv(*pixel)[0]) % 180 for pixel in pixels]
      share = np.unique(hues, return_counts=True)[1] / len(hues)
      want = -(share * np.log(share)).sum() / np.log(180)
      got = cf.colour_complexity(pixels.reshape(20, 20, 3))
      self.assertAlmostEqual(got, want, delta=2e-3)

  def test_rows_by_name_are_their_definition(self):
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 9, 2, 4))
    given = {"index": jnp.array([4]), "scale": 0.9}
    want = cf.attention_row(q, k, **given, impl="reference")
    np.testing.assert_allclose(cf.attention_row(q, k, **given), want, rtol=1e-5)
    score = 0.9 * jnp.einsum("nh,snh->ns", q[0, 4], k[0, :5])
    by_hand = jax.nn.softmax(score, axis=-1).mean(axis=0)
    np.testing.assert_allclose(want[0], jnp.pad(by_hand, (0, 4)), rtol=1e-5)

  def test_colour_is_the_entropy_of_hues(self):
    colours = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]
    image = np.array(colours, float)[None]
    got = cf.colour_complexity(image)
    self.assertAlmostEqual(got, np.log(4) / np.log(180))
    self.assertEqual(cf.colour_complexity(np.full((3, 3, 3), 0.4)), 0.0)
    # A little brighter is the same hue; red and a grey share the first bin.
    both = np.array([[[1, 0, 0], [0.5, 0, 0], [0.3, 0.3, 0.3]]])
    self.assertEqual(cf.colour_complexity(both), 0.0)
    near = np.array([[[1, 0, 0], [1, 0.05, 0], [1, 0, 0.05]]])  # bins 0, 1, 178
    self.assertAlmostEqual(cf.colour_complexity(near), np.log(3) / np.log(180))


class HostTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model, batch = fusion.tiny(nnx.Rngs(0))
    cls.images, cls.tokens = jnp.asarray(batch["image"]), jnp.asarray(batch["tokens"])
    valid = jnp.ones((3, 10), bool).at[1, 7:].set(False)
    cls.trace = jax.jit(lambda m: m.trace(cls.images, cls.tokens, valid=valid))(
      cls.model
    )
    cls.last = (21, 18, 21)  # of 2 + 12 + 8 tokens, three of which are padding

  def test_report_has_the_weights_of_the_last_word(self):
    report = cf.analyse(jax.device_get(self.trace))
    for index, _, block, _ in self.model.stack.each():
      weights = contract.shares(block.mixer, self.trace.heads[index]).mean(axis=1)
      for b, last in enumerate(self.last):
        want = weights[b, last, 2:14]
        np.testing.assert_allclose(report["maps"][b, index], want, rtol=1e-4)
    np.testing.assert_allclose(report["share"], report["maps"].sum(-1), rtol=1e-6)
    np.testing.assert_allclose(
      report["entropy"], cf.attention_entropy(report["maps"]), rtol=1e-6
    )
    one = cf.analyse(jax.device_get(self.trace), layers=(1,))
    np.testing.assert_allclose(
      one["entropy"], cf.attention_entropy(report["maps"][:, 1:2]), rtol=1e-6
    )

  def test_generates_with_maps(self):
    prompt = np.asarray(self.tokens[0, :6])
    maps, words = cf.generated(self.model, self.images, prompt, most=3)
    row = np.tile(prompt, (3, 1))
    for step in range(3):
      rows = jnp.asarray(np.pad(row, ((0, 0), (0, 3 - step))))
      trace = jax.jit(lambda m, r: m.trace(self.images, r))(self.model, rows)
      place = row.shape[1] - 1
      seen = cf.of_trace(trace, jnp.full((3,), place + 12, jnp.int32))
      best = np.asarray(trace.output[:, place].argmax(-1))
      for b in range(3):
        np.testing.assert_allclose(maps[b][step], seen[b], rtol=1e-4)
        self.assertEqual(words[b][step], best[b])
      row = np.concatenate([row, best[:, None]], axis=1)
    end = int(words[0][1])
    some, short = cf.generated(self.model, self.images, prompt, most=3, end=end)
    stop = words[0].tolist().index(end) + 1
    self.assertEqual(short[0].tolist(), words[0][:stop].tolist())
    self.assertLen(some[0], stop)

  def test_refuses_what_has_no_image_or_weights(self):
    index = jnp.zeros((3,), jnp.int32)
    blind = dataclasses.replace(self.trace, tokens=np.zeros((3, 22), int))
    with self.assertRaisesRegex(ValueError, "no image at the same places"):
      cf.of_trace(blind, index)
    other = dataclasses.replace(self.trace, heads=(None,))
    with self.assertRaisesRegex(NotImplementedError, "not dot-product attention"):
      cf.of_trace(other, index)


if __name__ == "__main__":
  absltest.main()
