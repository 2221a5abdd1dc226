"""The captioner: what sees what, its blocks, its data set and measure, the config."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest
from flax import nnx

from attnjax import contract
from attnjax.core.streams import Stream
from attnjax.models import captions
from configs import captions as config
from experiments import build, data
from experiments.data.sets import digit_captions
from experiments.training import measures, part
from tests.data import folder

_call = jax.jit(lambda model, *given: model(*given))


def _model(**changes):
  own = {"heads": 2, "reduction": 2, "pool": 3} | changes.pop("own", {})
  builds = [contract.constructor("p_adapter", own, captions.FORMS)]
  options = {"channels": 1, "vocab": 11, "dim": 16, "bottleneck": 4} | changes
  return captions.Model(builds, **options, rngs=nnx.Rngs(0))


class HostTest(absltest.TestCase):
  def test_words_see_earlier_words_and_the_image(self):
    model, batch = captions.tiny(nnx.Rngs(0))
    (images, tokens), options = captions.inputs(jax.tree.map(jnp.asarray, batch))
    self.assertEqual(options, {})
    first = _call(model, images, tokens)
    self.assertEqual((first.shape, first.dtype), ((3, 5, 11), jnp.float32))
    later = _call(model, images, tokens.at[:, 3].add(1) % 11)
    np.testing.assert_allclose(later[:, :3], first[:, :3], atol=1e-5)
    self.assertGreater(float(jnp.abs(later - first)[:, 3:].max()), 1e-3)
    other = _call(model, images.at[0, 5, 7].add(3.0), tokens)
    np.testing.assert_allclose(other[1:], first[1:], atol=1e-5)
    self.assertGreater(float(jnp.abs(other - first)[0].min(axis=1).max()), 1e-4)

  def test_a_block_by_its_parts(self):
    block = _model().blocks[0]
    draw = np.random.default_rng(0).standard_normal
    x, patches = (jnp.asarray(draw((2, n, 16)), jnp.float32) for n in (5, 7))

    @jax.jit
    def parts(block, x, patches):
      h = block.norms[0](x + block.words(x))
      h = block.image({"text": Stream(h), "image": Stream(patches)})["text"]
      up, down = block.adapter.up, block.adapter.down
      y = h + block.mlp(h) + up(jnp.maximum(down(h), 0))
      return block.norms[1](y)

    np.testing.assert_allclose(
      _call(block, x, patches, 0), parts(block, x, patches), atol=1e-5
    )

  def test_a_model_without_adapters_begins_one_with_them(self):
    def names(**options):
      model = jax.eval_shape(lambda: _model(**options))
      leaves = jax.tree_util.tree_leaves_with_path(part.trained(model, "e"))
      return {jax.tree_util.keystr(path) for path, _ in leaves}

    full, plain = names(), names(bottleneck=0, own={"reduction": 0})
    self.assertEqual(plain - full, set())
    self.assertTrue(all("adapter" in name for name in full - plain))

  def test_errors_name_value_and_rule(self):
    with self.assertRaisesRegex(ValueError, "bottleneck = 3; it is 0 or divides"):
      _model(bottleneck=3)
    with self.assertRaisesRegex(ValueError, "depth = 3 does not divide"):
      builds = [contract.constructor("p_adapter", {}, captions.FORMS)] * 2
      sizes = {"channels": 1, "vocab": 3, "depth": 3}
      captions.Model(builds, **sizes, rngs=nnx.Rngs(0))

  def test_the_config_assembles(self):
    c = config.get_config()
    c.data.cache_dir, c.train.only = folder(), "adapter"
    found = build.assemble(c)
    self.assertEqual((c.model.bottleneck, c.attention.pool), (4, 8))
    self.assertEqual(found.trained(), 4376)


class DataTest(absltest.TestCase):
  def test_names_letter_by_letter(self):
    plain, shifted = (
      data.load("digit_captions", {"cache_dir": folder()} | options)
      for options in ({}, {"inverted": True, "renamed": True})
    )
    digits = data.load("digits", {"cache_dir": folder()}).source("test")
    for index in range(12):
      true, one, two = (
        source[index]
        for source in (digits, *(t.source("test") for t in (plain, shifted)))
      )
      label = int(true["label"])
      np.testing.assert_array_equal(one["image"], true["image"])
      np.testing.assert_allclose(two["image"], 1 - true["image"])
      for found, digit in ((one, label), (two, (3 * label + 1) % 10)):
        name = digit_captions.NAMES[digit]
        self.assertEqual(digit_captions.decode(found["labels"][: len(name)]), name)
        self.assertEqual(found["labels"][len(name)], digit_captions.END)
        self.assertEqual(found["tokens"][0], digit_captions.BEGIN)
        self.assertEqual(digit_captions.decode(found["tokens"]), name)
        self.assertTrue((found["labels"][len(name) + 1 :] == -1).all())
        self.assertEqual(found["tokens"].shape, (digit_captions.LENGTH,))

  def test_exact_rows_by_hand(self):
    module = measures.load("exact_rows")
    likely = jnp.array([[1, 2, 0], [1, 2, 0], [0, 0, 0]])
    labels = jnp.array([[1, 2, -1], [1, 1, 0], [-1, -1, -1]])
    sums = module.totals(jax.nn.one_hot(likely, 3), {"labels": labels})
    self.assertEqual(
      {n: float(x) for n, x in sums.items()}, {"exact": 1, "answered": 2}
    )
    self.assertEqual(module.value({"exact": 1.0, "answered": 2.0}), 0.5)


if __name__ == "__main__":
  absltest.main()
