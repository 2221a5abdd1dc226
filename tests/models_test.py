"""The hosts around any mechanism that fits."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import language, pyramid, vision


def _builds(host, *slugs, **options):
  return [contract.constructor(slug, options, host.FORMS) for slug in slugs]


def _language(*slugs, **changes):
  options = {"vocab": 17, "dim": 16, "depth": 2, "rngs": nnx.Rngs(0)} | changes
  return language.Model(_builds(language, *slugs, heads=2), **options)


class LanguageTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.tokens = jax.random.randint(jax.random.key(0), (2, 20), 0, 17)
    cls.call = staticmethod(jax.jit(lambda model, *x, **c: model(*x, **c)))
    cls.slope = staticmethod(
      jax.jit(jax.grad(lambda model, x: jnp.sum(jnp.sin(model(x)))))
    )

  def test_scan_over_depth_is_a_loop(self):
    model = _language("dot_product", depth=3)
    x = model._embed(self.tokens)
    for layer in range(3):
      block = jax.tree.map(lambda leaf, i=layer: leaf[i], model.stack.blocks[0])
      x = block(x, index=layer)
    _close(self.call(model, self.tokens), model._logits(x))

  @parameterized.parameters("full", "dots", "dots_no_batch")
  def test_remat_changes_nothing(self, policy):
    plain, remat = _language("dot_product"), _language("dot_product", remat=policy)
    want, got = self.slope(plain, self.tokens), self.slope(remat, self.tokens)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
      _close(a, b)

  def test_hybrid_pattern_decodes_as_it_trains(self):
    model = _language("lightning2", "dot_product", depth=4, conv=3)
    whole = self.call(model, self.tokens)
    step = jax.jit(lambda model, x, cache: model.step(x, cache))
    cache, out = model.init_cache(2, 20), []
    for a, b in ((0, 11), *((i, i + 1) for i in range(11, 20))):
      logits, cache = step(model, self.tokens[:, a:b], cache)
      out.append(logits)
    _close(jnp.concatenate(out, axis=1), whole)

  @parameterized.parameters("embeddings", "fixed sequence")
  def test_a_scale_of_embeddings_is_one_of_their_table(self, read):
    kind = {"embeddings": "staticemb", "fixed sequence": "fixedseq"}[read]
    options = {"heads": 2, "kind": kind}
    build = contract.constructor("deconstructed", options, language.FORMS)
    given = {"vocab": 17, "dim": 16, "depth": 2, "tied": False}
    scaled = language.Model([build], **given, embed_scale=3.0, rngs=nnx.Rngs(0))
    model = language.Model([build], **given, rngs=nnx.Rngs(0))
    model.embed.embedding[...] *= 3
    _close(self.call(scaled, self.tokens), self.call(model, self.tokens))

  def test_depth_reaches_the_mechanism(self):
    model = _language("lightning2", depth=2)
    first, last = model.weights(self.tokens)
    # The last layer of Lightning Attention-2 has almost no decay.
    self.assertEqual(first.shape, (2, 2, 20, 20))
    same = jax.tree.map(lambda leaf: leaf[0], model.stack.blocks[0])
    x = same.mixed(model._embed(self.tokens), {})
    steep, flat = (contract.weights(same.mixer, x, index=i) for i in (0, 1))
    _close(steep, first)
    ratio = jnp.abs(steep[0, 0, 15, 0] / flat[0, 0, 15, 0])
    self.assertLess(ratio, 0.5)

  def test_positions_go_to_those_who_read_them(self):
    model = _language("lightning2", "dot_product", depth=2)
    places = jnp.arange(20)[None] ** 2
    with_places = self.call(model, self.tokens, positions=places)
    self.assertGreater(jnp.abs(with_places - self.call(model, self.tokens)).max(), 1e-6)
    first, last = model.weights(self.tokens, positions=places)
    plain = model.weights(self.tokens)
    _close(first, plain[0])  # that of lightning2
    self.assertGreater(jnp.abs(last - plain[1]).max(), 1e-3)
    with self.assertRaisesRegex(NotImplementedError, "positions: .*decay"):
      self.call(_language("lightning2", depth=1), self.tokens, positions=places)

  def test_packed_documents_are_as_if_alone(self):
    model = _language("dot_product", conv=3)
    ids = jnp.repeat(jnp.array([[5, 2]]), jnp.array([8, 12]), axis=1)
    ids = jnp.broadcast_to(ids, (2, 20))
    positions = jnp.concatenate([jnp.arange(8), jnp.arange(12)])[None]
    got = self.call(model, self.tokens, segment_ids=ids, positions=positions)
    alone = [self.call(model, self.tokens[:, a:b]) for a, b in ((0, 8), (8, 20))]
    _close(got, jnp.concatenate(alone, axis=1))

  def test_tied_head_is_one_matrix(self):
    count = {
      tied: sum(x.size for x in jax.tree.leaves(_language("dot_product", tied=tied)))
      for tied in (True, False)
    }
    self.assertEqual(count[False] - count[True], 17 * 16)

  def test_dropout_needs_a_key_and_depends_on_it(self):
    model = _language("dot_product", dropout=0.5)
    still = self.call(model, self.tokens)
    a, b = (self.call(model, self.tokens, key=jax.random.key(i)) for i in (0, 1))
    self.assertGreater(jnp.abs(a - b).max(), 1e-3)
    _close(still, self.call(model, self.tokens))

  def test_errors_name_value_and_rule(self):
    with self.assertRaisesRegex(ValueError, "depth = 3 .* 2 mechanisms"):
      _language("dot_product", "dot_product", depth=3)
    with self.assertRaisesRegex(ValueError, "unknown remat 'some'"):
      _language("dot_product", remat="some")
    with self.assertRaisesRegex(ValueError, "lightning2.*causal.*takes image"):
      _builds(vision, "lightning2")
    with self.assertRaisesRegex(ValueError, "'hedas'.*did you mean heads"):
      _builds(language, "dot_product", hedas=2)


class VisionTest(parameterized.TestCase):
  @parameterized.product(
    host=(vision, pyramid), size=((28, 28), (17, 22)), slug=("dot_product",)
  )
  def test_any_size_of_image(self, host, size, slug):
    model = host.Model(_builds(host, slug), channels=3, classes=5, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (2, *size, 3))
    logits = jax.jit(lambda m, x: m(x))(model, images)
    self.assertEqual(logits.shape, (2, 5))
    maps = jax.jit(lambda m, x: m.features(x))(model, images)
    for stage, found in enumerate(maps):
      side = (2 if host is pyramid else 4) * 2**stage
      self.assertEqual(found.shape[1:3], tuple(-(-s // side) for s in size))

  def test_pyramid_stages_must_agree(self):
    with self.assertRaisesRegex(ValueError, r"dims = \(8, 16\), depths = \(1,\): one"):
      builds = _builds(pyramid, "dot_product", heads=2)
      pyramid.Model(
        builds, channels=1, classes=2, dims=(8, 16), depths=(1,), rngs=nnx.Rngs(0)
      )


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
