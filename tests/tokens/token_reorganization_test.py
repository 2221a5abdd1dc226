"""EViT: what the paper and its code promise, and what is ours."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.contract import networks
from attnjax.variants.tokens import token_reorganization as evit


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _draw(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class FunctionTest(parameterized.TestCase):
  def test_class_attention_by_hand(self):
    # Head 0 has the scores 0, log 3, 0, head 1 the scores log 2, 0, 0, times scale 1/2.
    log = 2 * np.log([1, 3, 1]), 2 * np.log([2, 1, 1])
    k = np.stack(log, axis=1)[None, :, :, None] * np.eye(4, dtype=np.float32)[0]
    got = evit.class_attention(jnp.ones((1, 2, 4)), jnp.asarray(k))
    _close(got[0], np.mean([[0.2, 0.6, 0.2], [0.5, 0.25, 0.25]], axis=0))
    got = evit.class_attention(jnp.ones((1, 2, 4)), jnp.asarray(k), scale=0.0)
    _close(got, np.full((1, 3), 1 / 3))
    valid = jnp.array([[True, False, True]])
    got = evit.class_attention(jnp.ones((1, 2, 4)), jnp.asarray(k), valid=valid)
    _close(got[0], [np.mean([1 / 2, 2 / 3]), 0, np.mean([1 / 2, 1 / 3])])

  def test_tokens_by_hand(self):
    x = jnp.asarray([[[9.0], [1], [2], [3], [4], [5]]])
    scores = jnp.asarray([[0.1, 0.3, 0.05, 0.2, 0.25]])
    # ceil(0.5 x 5) = 3 stay: patches 1, 4, 3; f = 0.1 x 1 + 0.05 x 3.
    y, index = evit.reorganize(x, scores, keep_ratio=0.5)
    _close(y[0, :, 0], [9, 2, 5, 4, 0.25])
    np.testing.assert_array_equal(index, [[1, 4, 3]])
    plain, again = evit.reorganize(x, scores, keep_ratio=0.5, fuse=False)
    _close(plain, y[:, :-1])
    np.testing.assert_array_equal(again, index)
    # All stay: nothing moves.
    y, index = evit.reorganize(x, scores, keep_ratio=0.81)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(index, [range(5)])

  def test_in_the_order_of_the_row_by_hand(self):
    x = jnp.asarray([[[9.0], [1], [2], [3], [4], [5]]] * 2)
    scores = jnp.asarray([[0.9, 0.1, 0.3, 0.05, 0.2, 0.25]] * 2)
    valid = jnp.asarray([[True] * 6, [False, True, True, True, True, False]])
    # In the first row patch 1 is the heaviest of those that do not stay. The second row
    # has the tokens 1 to 4, the first of which always stays, as do ceil(0.5 x 3) more.
    run = jax.jit(evit.reduce_tokens, static_argnames=("keep_ratio", "prefix", "fuse"))
    y, kept = run(x, scores, keep_ratio=0.5, prefix=1, valid=valid)
    _close(y[..., 0], [[9, 0.1 + 0.15, 2, 4, 5], [1, 2, 0.15, 4, 0]])
    np.testing.assert_array_equal(kept, [[0, 1, 2, 4, 5], [1, 2, 3, 4, 0]])
    y, kept = evit.reduce_tokens(
      x, scores, keep_ratio=0.5, prefix=1, valid=valid, fuse=False
    )
    _close(y[..., 0], [[9, 2, 4, 5], [1, 2, 4, 0]])
    np.testing.assert_array_equal(kept, [[0, 2, 4, 5], [1, 2, 4, 0]])

  def test_in_the_type_of_the_tokens(self):
    x, scores = jnp.ones((1, 4, 2), jnp.bfloat16), jnp.full((1, 4), 0.25)
    for y, index in (
      jax.eval_shape(lambda: evit.reorganize(x, scores[:, 1:], keep_ratio=0.5)),
      jax.eval_shape(lambda: evit.reduce_tokens(x, scores, keep_ratio=0.5)),
    ):
      self.assertEqual((y.dtype, index.dtype), (jnp.bfloat16, jnp.int32))

  def test_gradients_of_scores_are_of_the_fused_token_alone(self):
    x, scores = jnp.asarray(_draw(1, 6, 3)), jnp.asarray([[0.5, 0.1, 0.4, 0.2, 0.3]])

    def last(scores):
      return evit.reorganize(x, scores, keep_ratio=0.4)[0][0, -1].sum()

    got = jax.jit(jax.grad(last))(scores)[0]
    _close(got, np.where([0, 1, 0, 1, 1], x[0, 1:].sum(axis=1), 0))

  def test_weights_add_up_to_one(self):
    q, k = jnp.asarray(_draw(2, 3, 4)), jnp.asarray(_draw(2, 8, 3, 4))
    scores = evit.class_attention(q, k)
    ones = jnp.ones((2, 8, 1))
    y, index = evit.reorganize(ones, scores[:, 1:], keep_ratio=0.5)
    kept = jnp.take_along_axis(scores[:, 1:], index, axis=1).sum(axis=1)
    _close(kept + y[:, -1, 0] + scores[:, 0], [1, 1])

  @parameterized.parameters(
    (0.7, 196, 138), (0.5, 5, 3), (0.55, 100, 56), (1.0, 7, 7), (0.01, 3, 1)
  )
  def test_counts(self, keep_ratio, tokens, want):
    self.assertEqual(evit.count_kept(keep_ratio, tokens), want)

  def test_counts_of_the_paper(self):
    keeps = [0.7 if i in (3, 6, 9) else 1.0 for i in range(12)]
    found = evit.token_counts(196, keeps)
    self.assertEqual(found, [196] * 3 + [139] * 3 + [99] * 3 + [71] * 3)
    self.assertEqual(evit.token_counts(9, [0.5, 0.5], fuse=False), [5, 3])

  @parameterized.parameters(
    (lambda x: evit.reorganize(x, x[:, :, 0], keep_ratio=0.5), r"scores \(1, 4\) of x"),
    (
      lambda x: evit.reorganize(x, x[:, 1:, 0], keep_ratio=0.0),
      "keep_ratio = 0.0: it must be",
    ),
    (
      lambda x: evit.reduce_tokens(x, x[:, :, 0], keep_ratio=1.5),
      "keep_ratio = 1.5: it must be",
    ),
    (
      lambda x: evit.reduce_tokens(x, x[..., 0], keep_ratio=0.5, prefix=4),
      "prefix = 4",
    ),
  )
  def test_errors_name_the_value(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call(jnp.ones((1, 4, 2)))


class ScheduleTest(parameterized.TestCase):
  @parameterized.parameters(
    (0, 0, 1), (9, 0, 1), (10, 0, 1), (100, 0, 0.6), (500, 0, 0.6), (55, 0, 0.8)
  )
  def test_a_cosine_by_hand(self, step, levels, want):
    got = evit.keep_schedule(step, 0.6, start=10, end=100, levels=levels)
    self.assertAlmostEqual(got, want)

  def test_a_third_of_the_way(self):
    got = evit.keep_schedule(40, 0.6, start=10, end=100)
    self.assertAlmostEqual(got, 0.6 + 0.4 * (1 + math.cos(math.pi / 3)) / 2)

  def test_levels(self):
    found = [
      evit.keep_schedule(i, 0.5, start=10, end=100, levels=3) for i in range(120)
    ]
    self.assertEqual(sorted(set(found)), [0.5, 0.75, 1.0])
    self.assertEqual(sorted(found, reverse=True), found)
    # The share is above 3/4 where the cosine is above 1/2: to a third of the way.
    self.assertEqual(found.index(0.75), 41)

  def test_errors_name_the_value(self):
    with self.assertRaisesRegex(ValueError, "keep_ratio = 0"):
      evit.keep_schedule(0, 0.0, start=1, end=2)
    with self.assertRaisesRegex(ValueError, "start = 3 is after end = 2"):
      evit.keep_schedule(0, 0.5, start=3, end=2)
    with self.assertRaisesRegex(ValueError, "levels = 1"):
      evit.keep_schedule(0, 0.5, start=1, end=2, levels=1)


@jax.jit
def _reduced(reducer, x, scores, valid):
  return reducer(x, scores=scores, valid=valid)


class ReducerTest(parameterized.TestCase):
  @parameterized.product(prefix=(0, 2), padded=(False, True))
  def test_scores_of_its_own(self, prefix, padded):
    x = _draw(1, 9, 4) * np.linspace(0.5, 2, 9)[None, :, None].astype(np.float32)
    real = np.arange(9) > 2 if padded else np.ones(9, bool)
    reducer = evit.Reducer(4, keep_ratio=0.5, prefix=prefix, rngs=nnx.Rngs(0))
    real = jnp.asarray(real)[None]
    got = _reduced(reducer, jnp.asarray(x), None, real)
    own = x[0, real[0]]
    norm = own - own.mean(axis=1, keepdims=True)
    norm /= np.sqrt(np.square(norm).mean(axis=1, keepdims=True) + 1e-6)
    query = norm[: prefix or None].mean(axis=0)
    scores = np.zeros((1, 9), np.float32)
    scores[0, real[0]] = np.exp(norm @ query / 2) / np.exp(norm @ query / 2).sum()
    want = _reduced(reducer, jnp.asarray(x), jnp.asarray(scores), real)
    jax.tree.map(_close, got, want)

  def test_norms(self):
    reducer = evit.Reducer(2, keep_ratio=0.5, score="norm", rngs=nnx.Rngs(0))
    x = jnp.asarray([[[3.0, 4], [0, 1], [0, -6], [0, 0]]])

    @jax.jit
    def run(x):
      def total(x):
        y, kept = reducer(x)
        return y.sum(), (y, kept)

      return jax.grad(total, has_aux=True)(x)

    slope, (y, kept) = run(x)
    np.testing.assert_array_equal(kept, [[0, 1, 2]])
    _close(y[0, 1], [0, 1 / 12])
    self.assertTrue(jnp.isfinite(slope).all())

  def test_options(self):
    with self.assertRaisesRegex(ValueError, "unknown score 'nrm'"):
      evit.Reducer(2, score="nrm", rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(ValueError, "keep_ratio = 0"):
      evit.Reducer(2, keep_ratio=0.0, rngs=nnx.Rngs(0))
    reducer = evit.Reducer(2, rngs=nnx.Rngs(0))
    self.assertEqual((reducer.keep_ratio, reducer.fuse, reducer.prefix), (0.7, True, 0))
    with self.assertRaisesRegex(NotImplementedError, "segment_ids: .* packings"):
      reducer(jnp.ones((1, 3, 2)), segment_ids=jnp.zeros((1, 3), int))


def _model(**options) -> Any:
  given: dict[str, Any] = {"dim": 8, "depth": 2, "heads": 2, "patch": 2, "grid": (3, 4)}
  given |= {"places": (0, 1), "keep_ratio": (0.6, 0.5), "mlp_ratio": 1.5}
  shapes = jax.eval_shape(lambda: evit.Model(1, 3, **given | options, rngs=nnx.Rngs(0)))
  return jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, networks.drawn(shapes))


_IMAGES = jnp.asarray(_draw(2, 6, 8, 1))


class MaskedTest(parameterized.TestCase):
  @parameterized.parameters((True, (0.6, 0.5)), (False, (1.0, 0.3)))
  def test_is_the_gathered_form_at_other_keep_rates(self, fuse, keep_ratio):
    key, own = jax.random.key(3), {"fuse": fuse, "drop": 0.5}

    @jax.jit
    def both(model, other, images, counts):
      got = evit.masked_logits(other, images, counts, key=key)
      return got, model(images, key=key), model(images)

    behind = evit.token_counts(12, keep_ratio[:1], fuse=fuse)[0]
    counts = [evit.count_kept(*own) for own in zip(keep_ratio, (12, behind))]
    models = [_model(**own, keep_ratio=rates) for rates in (keep_ratio, (0.9, 0.9))]
    got, want, plain = both(*models, _IMAGES, jnp.array(counts))
    _close(got, want, 1e-4)
    self.assertGreater(jnp.abs(plain - want).max(), 1e-3)

  def test_one_count_for_each_place(self):
    with self.assertRaisesRegex(ValueError, r"counts \(1,\): one for each .* \[0, 1\]"):
      evit.masked_logits(_model(), _IMAGES, jnp.array([3]))


class ModelTest(absltest.TestCase):
  def test_maps_have_dropped_patches_as_they_were(self):
    model = _model(places=(1,), keep_ratio=(0.5,))

    @jax.jit
    def both(model, images):
      mark, first, second = model.stages.stages[0].sequence
      x = first(mark(model.stem(images))).rows
      heads = second.mixer.project(second.norm(x))
      x = second.attended(x, heads, None)
      scores = second.scores(heads)
      y, index = evit.reorganize(x, scores[:, 1:], keep_ratio=0.5)
      y = second.fed(y, None)
      norm = model.stages.norms[0].part
      trace = model.trace(images)
      got = model.features(images)[0], model(images), trace.output
      return got, (norm(x), norm(y), index, scores), model.head(norm(y[:, 0]))

    (found, logits, traced), parts, want = both(model, _IMAGES)
    _close(logits, want)
    _close(traced, want)
    x, y, index, scores = map(np.array, parts)
    for b in range(2):
      wanted, left = x[b, 1:], np.delete(np.arange(12), index[b])
      wanted[index[b]] = y[b, 1:-1]
      wanted[left[scores[b, 1:][left].argmax()]] = y[b, -1]
      _close(found[b].reshape(12, 8), wanted)

  def test_parameters_do_not_depend_on_the_keep_rate(self):
    some, all_ = _model(), _model(keep_ratio=(1.0, 1.0))
    none = _model(places=(), keep_ratio=())
    run = jax.jit(lambda model, x: (model(x), [w.shape[2] for w in model.weights(x)]))
    (y, sizes), (whole, _), (plain, _) = (run(m, _IMAGES) for m in (some, all_, none))
    self.assertEqual(list(map(int, sizes)), [13, 10])
    np.testing.assert_array_equal(whole, plain)
    self.assertGreater(jnp.abs(y - plain).max(), 1e-3)

  def test_patches_in_any_order(self):
    model = _model()
    order = np.random.default_rng(1).permutation(12)
    cells = _IMAGES.reshape(2, 3, 2, 4, 2, 1).swapaxes(2, 3).reshape(2, 12, 2, 2, 1)
    turned = cells[:, order].reshape(2, 3, 4, 2, 2, 1).swapaxes(2, 3)
    run = jax.jit(lambda model, x: model(x))
    want = run(model, _IMAGES)
    table = model.stages.stages[0].sequence[0].positions.table
    table[...] = table[...].reshape(12, 8)[order].reshape(3, 4, 8)
    _close(run(model, turned.reshape(2, 6, 8, 1)), want, 1e-4)

  def test_the_published_sizes(self):
    for size, want in {
      "tiny": 5_717_416,
      "small": 22_050_664,
      "base": 86_567_656,
    }.items():
      options = evit.SIZES[size]
      model: Any = jax.eval_shape(
        lambda own=options: evit.Model(3, 1000, **own, rngs=nnx.Rngs(0))
      )
      self.assertEqual(sum(x.size for x in jax.tree.leaves(model)), want)
      blocks = model.stages.stages[0].sequence[1:]
      self.assertEqual(blocks[0].mixer.size, 64)
      keeps = [block.keep_ratio for block in blocks]
      self.assertEqual(keeps, [None] * 3 + ([0.7] + [None] * 2) * 3)
      self.assertTrue(all(block.fuse for block in blocks))
      self.assertEqual({block.drop for block in blocks}, {0.0})
      self.assertEqual(model.stem.size, 16)
      norms = [n for _, n in nnx.iter_graph(model) if isinstance(n, nnx.LayerNorm)]
      self.assertEqual({norm.epsilon for norm in norms}, {1e-6})
      self.assertLen(norms, 25)

  def test_dropping_rises_with_the_depth(self):
    model = _model(drop=0.4, depth=3)
    blocks = model.stages.stages[0].sequence[1:]
    _close([block.drop for block in blocks], [0, 0.2, 0.4])

  def test_errors_name_the_option(self):
    for options, message in (
      (
        {"keep_ratio": (0.5,)},
        r"places = \(0, 1\), keep_ratio = \(0.5,\): one keep rate",
      ),
      ({"places": (1, 0)}, r"places = \(1, 0\): rising numbers of the 2 blocks"),
      ({"places": (0, 2)}, r"places = \(0, 2\): rising"),
      ({"keep_ratio": (0.5, 0.0)}, "keep_ratio = 0.0"),
      ({"drop": 1.0}, "drop = 1.0"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        _model(**options)


if __name__ == "__main__":
  absltest.main()
