"""Specialised heads: the encoder by hand, usage, and what pruning leaves as it was."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.variants.heads import specialized_heads as shrp
from attnjax.variants.heads.specialized_heads import routing
from experiments import small
from experiments.training import cost, part


def _draw(*shape, seed=0):
  draw = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(draw, jnp.float32)


def _softmax(x):
  weight = np.exp(x - x.max(-1, keepdims=True))
  return weight / weight.sum(-1, keepdims=True)


def _layer(**options) -> Any:
  given: dict[str, Any] = {"form": "sequence", "heads": 4, "hidden": 5} | options
  return shrp.Layer(8, rngs=nnx.Rngs(0), **given)


def _encoder(slug="specialized_heads", depth=1, hidden=0, **options) -> Any:
  given = {"heads": 4, "rope_theta": 0.0} | options
  builds = [contract.constructor(slug, given, ("sequence",))]
  sizes = {"vocab": 7, "classes": 3, "dim": 8, "depth": depth, "length": 9}
  return shrp.Encoder(builds, **sizes, hidden=hidden, rngs=nnx.Rngs(0))


def _filled(tree) -> Any:
  """The tree with all weights drawn large, so that no part is near its start."""
  leaves, shape = jax.tree.flatten(tree)
  draw = np.random.default_rng(0).standard_normal
  drawn = [jnp.asarray(0.5 * draw(x.shape), jnp.float32) for x in leaves]
  return jax.tree.unflatten(shape, drawn)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


_TOKENS = jnp.array([[1, 4, 2, 2, 6, 0], [3, 3, 5, 1, 0, 0]])
_VALID = jnp.array([[1] * 6, [1] * 4 + [0] * 2], bool)


class EncoderTest(absltest.TestCase):
  def test_by_hand(self):
    model = _filled(_encoder(hidden=5, qkv_bias=True))
    got = jax.jit(lambda model: model(_TOKENS, valid=_VALID))(model)
    p = {n: np.asarray(x, np.float64) for n, x in part._flat(model).items()}

    def norm(x, name):
      x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
      return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    def linear(x, name):
      return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def gelu(x):
      return x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2

    mixer = "blocks/0/mixer"
    for row, count in ((0, 6), (1, 4)):
      tokens = np.asarray(_TOKENS)[row, :count]
      x = norm(p["embed/embedding"][tokens] + p["positions"][:count], "norm")
      share = _softmax(x.mean(0) @ p[f"{mixer}/router/kernel"])
      head = share.argmax()
      q, k, v = (
        x @ p[f"{mixer}/qkv/{n}/kernel"][:, head] + p[f"{mixer}/qkv/{n}/bias"][head]
        for n in ("query", "key", "value")
      )
      h = share[head] * _softmax(q @ k.T / 2**0.5) @ v
      up = gelu(linear(h, f"{mixer}/expander/up"))
      x = norm(x + linear(up, f"{mixer}/expander/down"), "blocks/0/norm")
      feed = linear(gelu(linear(x, "blocks/0/feed/up")), "blocks/0/feed/down")
      x = norm(x + feed, "blocks/0/feed_norm")
      _close(got[row, :count], linear(x, "head"))

  def test_more_tokens_than_positions(self):
    model = jax.eval_shape(_encoder)
    with self.assertRaisesRegex(ValueError, "10 tokens; there are 9 positions"):
      model(jnp.zeros((1, 10), jnp.int32))


class RoutingTest(parameterized.TestCase):
  def test_usage_counts_real_tokens_and_rows_alike(self):
    logits = jnp.log(jnp.array([[4.0, 1, 3], [1, 2, 1], [1, 2, 1], [5, 5, 1]]))[None]
    weight = jnp.array([[1.0, 1, 0, 1]])
    found = routing.usage(logits, weight)
    np.testing.assert_allclose(found.picks, [2, 1, 0])  # of equals the first
    np.testing.assert_allclose(found.gates, [4 / 8 + 5 / 11, 2 / 4, 0], rtol=1e-6)
    twice = found + found
    np.testing.assert_allclose(twice.rate, [2 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(twice.gate, [(4 / 8 + 5 / 11) / 2, 0.5, 1], rtol=1e-6)

  def test_documents_of_packed_rows_count_once_each(self):
    layer, x = _layer(), _draw(1, 7, 8)
    ids = jnp.array([[4, 4, -1, 1, 1, 1, 4]])
    heads = jax.jit(lambda layer: layer.project(x, segment_ids=ids))(layer)
    np.testing.assert_allclose(
      heads.more["weight"][0], [1 / 3, 1 / 3, 0, 1 / 3, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6
    )
    mean = np.asarray(x)[0, [0, 1, 6]].mean(0) @ np.asarray(layer.router.kernel)
    _close(heads.more["logits"][0, 6], mean)
    packed = routing.usage(heads.more["logits"], heads.more["weight"])
    self.assertAlmostEqual(float(packed.picks.sum()), 2.0, places=5)

  def test_balance_loss_and_its_gradient_by_the_softmax_only(self):
    logits, weight = _draw(2, 3, 4), jnp.array([[1.0, 1, 0], [1, 0, 0]])
    got, slope = jax.jit(jax.value_and_grad(shrp.balance_loss))(logits, weight)
    p, real = _softmax(np.asarray(logits)), np.asarray(weight) > 0
    f = np.bincount(p[real].argmax(-1), minlength=4) / 3
    _close(got, 4 * (f * p[real].mean(0)).sum())
    want = 4 / 3 * p * (f - (p * f).sum(-1, keepdims=True)) * real[..., None]
    _close(slope, want)
    even = jnp.eye(4)[None] * 9
    self.assertAlmostEqual(
      float(shrp.balance_loss(even, jnp.ones((1, 4)))), 1, places=3
    )

  @parameterized.parameters(("token", 5.0), ("example", 2.0), ("batch", 1.0))
  def test_the_backward_pass_adds_the_weighted_loss(self, counted, number):
    valid = jnp.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]], bool)
    layer, x = _layer(balance=0.3, layers=2, counted=counted), _draw(3, 3, 8)

    def added(layer):
      heads = layer.project(x, valid=valid)
      return layer.merge(jnp.zeros((3, 3, 1, 2)), heads).sum()

    def loss(layer):
      return 0.15 * number * layer.learn(x, valid=valid)[1]

    got, want = (jax.jit(jax.grad(f))(layer) for f in (added, loss))
    _close(got.router.kernel[...], want.router.kernel[...])
    self.assertGreater(float(jnp.abs(want.router.kernel[...]).max()), 1e-4)


class SizesTest(parameterized.TestCase):
  @parameterized.parameters(
    ("sequence", "sequence", 4), ("sequence", "token", 4), ("causal", "auto", 1)
  )
  def test_formulas_are_what_is_there(self, form, granularity, heads):
    options = {"form": form, "granularity": granularity, "impl": "reference"}
    layer = jax.eval_shape(lambda: _layer(heads=heads, head_dim=2, **options))
    size = sum(leaf.size for leaf in jax.tree.leaves(layer))
    self.assertEqual(size, sum(shrp.parameters(8, heads, 2, 5).values()))
    x = jax.ShapeDtypeStruct((1, 6, 8), jnp.float32)
    got = cost.flops(jax.make_jaxpr(lambda layer, x: layer(x))(layer, x).jaxpr)
    want = shrp.flops(6, 8, heads, 2, 5, granularity=granularity)
    self.assertEqual(got, sum(want.values()))

  def test_the_abstracts_number_by_our_width(self):
    """BERT-base has 109.5 million parameters, 12 layers 768 wide with 12 heads."""
    parts = shrp.parameters(768, 12, 64, 16 * 64, bias=True)
    own = sum(parts.values()) + 2 * 768
    dense = shrp.dense(768, 3072)
    self.assertEqual(dense, 7_087_872)
    less = 12 * (dense - own) / 109_482_240
    self.assertAlmostEqual(less, 0.48, delta=0.01)


class PruningTest(parameterized.TestCase):
  def test_the_output_stays_where_the_kept_head_was_taken(self):
    """Logits that no input changes give a gate that is its mean: 1/2 for head 2."""
    model = _encoder(depth=2)
    share = jnp.log(jnp.array([1.0, 1.0, 4.0, 2.0]) / 8)
    for block in model.blocks:
      # The embeddings' norm and the blocks' have the mean 1/8 of ones in feature 0.
      block.mixer.router.kernel = nnx.Param(jnp.zeros((8, 4)).at[0].set(share))
      block.norm.scale = nnx.Param(jnp.ones(8).at[0].set(0.0))
      block.norm.bias = nnx.Param(jnp.zeros(8).at[0].set(1.0))
    model.norm.scale = nnx.Param(jnp.ones(8).at[0].set(0.0))
    model.norm.bias = nnx.Param(jnp.zeros(8).at[0].set(1.0))

    @jax.jit
    def run(model):
      return shrp.usage(model, _TOKENS, valid=_VALID), model(_TOKENS, valid=_VALID)

    found, want = run(model)
    np.testing.assert_allclose([x.picks for x in found], [[0, 0, 2, 0]] * 2)
    small_model = shrp.prune(model, found)
    got = jax.jit(lambda model: model(_TOKENS, valid=_VALID))(small_model)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for block in small_model.blocks:
      self.assertIsNone(block.mixer.router)
      size = sum(leaf.size for leaf in jax.tree.leaves(block.mixer))
      self.assertEqual(size, sum(shrp.parameters(8, 1, 2, 32).values()))
    self.assertEqual(model.blocks[0].mixer.heads, 4)  # as it was
    again = shrp.prune(small_model, [jnp.ones(1)] * 2)
    jax.tree.map(np.testing.assert_array_equal, again, small_model)

  def test_which_heads_are_kept(self):
    layer = _layer()
    names = ("query", "key", "value")
    for scores, keep, want in (
      ([1.0, 3.0, 3.0, 0.0], 1, [1]),  # of equals the lower
      ([1.0, 3.0, 3.0, 2.0], 3, [1, 2, 3]),
      ([1.0, 3.0, 4.0, 2.0], 0.3, [1, 2]),
      ([1.0, 1.0, 1.0, 1.0], 0.9, [0]),
    ):
      block = shrp.Block(8, lambda *a, **k: layer, layers=1, hidden=0, rngs=nnx.Rngs(0))
      model = _encoder()
      model.blocks = nnx.List([block])
      got = shrp.prune(model, [jnp.array(scores)], keep).blocks[0].mixer
      self.assertEqual(got.heads, len(want))
      for name in names:
        kernel = getattr(layer.qkv, name).kernel[...]
        np.testing.assert_array_equal(
          getattr(got.qkv, name).kernel[...], kernel[:, np.array(want)]
        )
      if len(want) > 1:
        np.testing.assert_array_equal(
          got.router.kernel[...], layer.router.kernel[...][:, np.array(want)]
        )

  def test_layers_with_the_clearest_winner(self):
    model = _encoder(depth=3)
    found = [jnp.array(x) for x in ([2.0, 1, 1, 1], [5.0, 0, 1, 0], [0, 3.0, 1, 0])]
    got = shrp.prune(model, found, layers=2)
    self.assertEqual([block.mixer.heads for block in got.blocks], [4, 1, 1])
    kept = shrp.prune_layers(model, jnp.array([2.0, 1.0, 2.0]), 2)
    for one, i in zip(kept.blocks, (0, 2)):
      jax.tree.map(np.testing.assert_array_equal, one, model.blocks[i])
    first = shrp.prune_layers(model, jnp.ones(3), 1)
    jax.tree.map(np.testing.assert_array_equal, first.blocks[0], model.blocks[0])

  def test_a_stack_of_a_host_that_decodes(self):
    options = ("specialized_heads", {"heads": 4, "hidden": 5})
    build = small.language([options], vocab=7, dim=8, depth=2, mlp_ratio=0.0)
    model, tokens = build(jax.random.key(0)), _TOKENS[:1]
    found = [routing.Usage(jnp.eye(4)[i], jnp.eye(4)[i] / 2) for i in (3, 1)]
    less = shrp.prune(model, found)
    mixer, old = less.stack.blocks[0].mixer, model.stack.blocks[0].mixer
    kernel = old.qkv.query.kernel[...]
    np.testing.assert_array_equal(
      mixer.qkv.query.kernel[...], jnp.stack([kernel[0, :, 3:], kernel[1, :, 1:2]])
    )
    _close(mixer.expander.up.kernel[...], old.expander.up.kernel[...] / 2)

    @jax.jit
    def run(model):
      first, cache = model.step(tokens[:, :4], model.init_cache(1, 6))
      second, _ = model.step(tokens[:, 4:], cache)
      return model(tokens), jnp.concatenate([first, second], axis=1)

    _close(*run(less))
    one = shrp.prune_layers(less, jnp.array([0.0, 1.0]), 1)
    self.assertEqual(one.stack.depth, 1)
    jax.tree.map(
      np.testing.assert_array_equal,
      one.stack.blocks[0],
      jax.tree.map(lambda x: x[1:], less.stack.blocks[0]),
    )

  def test_importance_of_plain_heads_is_the_slope_of_their_gates(self):
    model = _filled(_encoder("dot_product", depth=2))
    batch = {"tokens": _TOKENS[:, :4], "want": _draw(2, 4, 3)}

    def loss(model, one):
      return ((model(one["tokens"][None])[0] - one["want"]) ** 2).sum()

    @jax.jit
    def run(model):
      def gated(gates, one):
        own = jax.tree.map(lambda x: x, model)
        for block, gate in zip(own.blocks, gates):
          kernel = block.mixer.out.kernel[...]
          block.mixer.out.kernel = nnx.Param(kernel * gate[:, None, None])
        return loss(own, one)

      return jax.vmap(jax.grad(gated), (None, 0))(jnp.ones((2, 4)), batch)

    got = jax.jit(lambda m: shrp.importance(m, loss, batch))(model)
    slopes = np.abs(run(model)).mean(0)
    _close(jnp.stack(got), slopes / np.linalg.norm(slopes, axis=1, keepdims=True))
    sizes = shrp.importance(model, loss, kind="magnitude")
    kernel = np.asarray(model.blocks[1].mixer.out.kernel[...])
    _close(sizes[1], np.sqrt((kernel**2).sum((1, 2))))
    less = shrp.prune(model, got, 2).blocks[0].mixer
    self.assertEqual((less.kv_heads, less.out.kernel.shape), (2, (2, 2, 8)))
    best = np.sort(np.argsort(-slopes[0])[:2])
    old = model.blocks[0].mixer.out.kernel[...]
    np.testing.assert_array_equal(less.out.kernel[...], old[best])

  def test_contributions_of_blocks(self):
    model = _encoder(depth=2)

    @jax.jit
    def run(model):
      given = _TOKENS, _VALID
      hidden = model.trace(given[0], valid=given[1]).hidden
      return hidden, shrp.contributions(model, given[0], valid=given[1])

    hidden, got = run(model)
    rows = [np.asarray(x)[np.asarray(_VALID)] for x in hidden]
    want = [np.linalg.norm(y - x) / np.linalg.norm(x) for x, y in zip(rows, rows[1:])]
    _close(got, want)

  @parameterized.parameters(
    (lambda m: shrp.prune(m, [jnp.ones(4)]), "usage of 1 layers for a model of 2"),
    (lambda m: shrp.prune(m, [jnp.ones(4)] * 2, 5), "keep = 5 of 4 heads"),
    (lambda m: shrp.prune(m, [jnp.ones(4)] * 2, layers=3), "layers = 3 of 2"),
    (lambda m: shrp.prune_layers(m, jnp.ones(2), 0), "keep = 0 of 2 layers"),
    (lambda m: shrp.importance(m, jnp.sum, kind="size"), "kind 'size'"),
  )
  def test_errors(self, run, message):
    with self.assertRaisesRegex(ValueError, message):
      run(_encoder(depth=2))

  def test_layers_of_a_stack_keep_as_many_heads(self):
    options = ("specialized_heads", {"heads": 4})
    build = small.language([options], vocab=7, dim=8, depth=2)
    model = jax.eval_shape(lambda: build(jax.random.key(0)))
    found = [jnp.array([4.0, 0, 0, 0]), jnp.array([1.0, 1, 1, 1])]
    with self.assertRaisesRegex(ValueError, "all keep as many heads"):
      shrp.prune(model, found, 0.2)


class LayerTest(parameterized.TestCase):
  def test_defaults(self):
    options = contract.defaults("specialized_heads")
    self.assertEqual([options[n] for n in ("heads", "balance", "hidden")], [8, 0.01, 0])
    made = jax.eval_shape(lambda: _layer(hidden=0))
    self.assertEqual(made.expander.up.kernel.shape, (2, 32))
    self.assertEqual((made.granularity, made.counted), ("sequence", "example"))
    made = jax.eval_shape(lambda: _layer(form="causal"))
    self.assertEqual((made.granularity, made.counted), ("token", "token"))

  @parameterized.parameters(
    ({"form": "causal", "granularity": "sequence"}, "would tell of later tokens"),
    ({"granularity": "head"}, "unknown granularity 'head'"),
    ({"counted": "row"}, "unknown counted 'row'"),
    ({"form": "image"}, "unknown form 'image'"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _layer(**options)

  def test_heads_that_do_not_fit(self):
    x = jnp.zeros((1, 3, 2, 4))
    with self.assertRaisesRegex(ValueError, "2 heads of q, 2 of k, logits of 4"):
      shrp.attend(x, x, x, jnp.zeros((1, 3, 4)))


if __name__ == "__main__":
  absltest.main()
