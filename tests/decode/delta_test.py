"""DELTA: decoding is a dense recomputation with page sets chosen by hand; the rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract, policies
from attnjax.core.cache import KeyValueCache
from attnjax.models import language
from attnjax.variants.decode import delta

_DEPTH, _PROMPT, _ROW = 6, 6, 22


def _model():
  build = contract.constructor(
    "dot_product", {"heads": 4, "kv_heads": 2}, language.FORMS
  )
  sizes = {"dim": 16, "depth": _DEPTH, "mlp_ratio": 0.0, "vocab": 11}

  @jax.jit
  def made():
    model = language.Model([build], **sizes, rngs=nnx.Rngs(0))
    return jax.tree.map(lambda leaf: 12 * leaf if leaf.ndim > 2 else leaf, model)

  return made()


def _chosen(weights, policy):
  """Returns the pages of one query from its heads' weights (N, t + 1)."""
  reduce = {"max": np.max, "mean": np.mean, "sum": np.sum}
  mass = reduce[policy.heads](weights, axis=0)
  count = -(-len(mass) // policy.page)
  score = [
    reduce[policy.tokens](mass[page * policy.page : (page + 1) * policy.page])
    for page in range(count)
  ]
  recent = list(range(max(count - policy.recent_pages, 0), count))
  rest = sorted(set(range(count)) - set(recent), key=lambda page: -score[page])
  return {*recent, *rest[: policy.pages - len(recent)]}


def _recomputed(model, tokens, policy):
  """Returns the logits (T, vocab) of a row, each layer's weights a whole matrix."""
  x = model.embed.embedding[...][tokens][None]
  chosen, T = [None] * len(tokens), len(tokens)
  for index, _, block, _ in model.stack.each():
    heads = block.mixer.project(block.norm(x), index=index)
    q, k, v = (np.asarray(y, np.float64)[0] for y in (heads.q, heads.k, heads.v))
    score = np.einsum("tnh,snh->nts", q, np.repeat(k, 2, axis=1)) / 2
    out = np.zeros((1, T, 4, 4))
    for t in range(T):
      seen = np.arange(T) <= t
      if index not in policy.full_layers and t >= _PROMPT:
        seen &= np.isin(np.arange(T) // policy.page, list(chosen[t]))
      weight = np.exp(score[:, t] - score[:, t, seen].max(-1, keepdims=True)) * seen
      weight /= weight.sum(-1, keepdims=True)
      out[0, t] = np.einsum("ns,snh->nh", weight, np.repeat(v, 2, axis=1))
      if index in policy.full_layers:
        chosen[t] = _chosen(weight[:, : t + 1], policy)
    x = x + block.mixer.merge(jnp.asarray(out, jnp.float32), heads)
  return model._logits(x)[0]


@functools.partial(jax.jit, static_argnums=0)
def _decoded(policy, model, tokens):
  """Returns logits, lists of pages and the layers' own arrays after each token."""
  cache = policies.under(policy, model.init_cache(*tokens.shape), prompt=_PROMPT)
  start = policies.start(cache, 1)

  def one(cache, token):
    logits, cache, (ids, real) = model.step(token[:, None], cache, shared=start)
    return cache, (logits[:, 0], ids[0], real[0], cache[0][0].own)

  return jax.lax.scan(one, cache, tokens.T)[1]


class DecodingTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = _model()
    cls.tokens = jax.random.randint(jax.random.key(3), (2, _ROW), 0, 11)

  def test_is_recomputed_from_whole_matrices(self):
    # Layer 1 chooses for 2, layer 3 for 4 and 5.
    policy = delta.Policy((0, 1, 3), pages=3, page=3, recent_pages=1)
    got, *_ = _decoded(policy, self.model, self.tokens)
    for row in range(2):
      want = _recomputed(self.model, self.tokens[row], policy)
      np.testing.assert_allclose(got[:, row], want, rtol=2e-4, atol=2e-4)

  def test_scores_stay_between_choices(self):
    policy = delta.Policy((0,), pages=3, page=2, recent_pages=1, reselect_every=3)
    _, ids, real, own = _decoded(policy, self.model, self.tokens)
    self.assertTrue(real[_PROMPT:].all())
    # The current page, and the best two before it.
    last = np.arange(_PROMPT, _ROW) // 2
    np.testing.assert_array_equal(ids[_PROMPT:, 0, -1], last)
    scores = np.asarray(own[0])[_PROMPT:, 0]
    for t in range(len(scores)):
      np.testing.assert_array_equal(scores[t], scores[t - t % 3])
      self.assertTrue(t == 0 or t % 3 or (scores[t] != scores[t - 1]).any(), t)
    self.assertTrue((ids[_PROMPT + 3 :] != ids[_PROMPT:-3])[..., :-1].any())


class RulesTest(parameterized.TestCase):
  def test_defaults_are_the_papers(self):
    policy = delta.Policy().fitted(28)
    sizes = policy.pages, policy.page, policy.recent_pages, policy.reselect_every
    self.assertEqual(sizes, (64, 16, 8, 1))
    self.assertEqual((policy.heads, policy.tokens), ("max", "sum"))
    self.assertEqual(policy.full_layers, (0, 1, 2, 14, 22))
    self.assertEqual(policy.selection_layers, (2, 14, 22))
    self.assertEqual(policy.reads(16384, 28), (5 * 16384 + 23 * 1024, 0))
    self.assertEqual(policy.reads(16385, 28)[0], 5 * 16385 + 23 * (63 * 16 + 1))
    self.assertEqual(policy.reads(1000, 28)[0], 28 * 1000)
    self.assertEqual(delta.spread_layers(6), (0, 3))
    self.assertEqual(delta.spread_layers(3), (0,))
    self.assertEqual(delta.spread_layers(8), (0, 1, 2, 4, 6))
    self.assertEqual(delta.Policy((0, 1)).fitted(2).selection_layers, ())

  @parameterized.parameters(
    ({"full_layers": (1, 2)}, "full_layers = .1, 2.*chooses"),
    ({"full_layers": (0, 2, 1)}, "ascending"),
    ({"pages": 4}, "recent_pages = 8 of pages = 4"),
    ({"recent_pages": 0}, "current page is always"),
    ({"page": 0}, "page = 0"),
    ({"reselect_every": 0}, "reselect_every = 0"),
    ({"heads": "min"}, "heads 'min'"),
    ({"tokens": "mean"}, "tokens 'mean'"),
  )
  def test_policies_that_do_not_fit(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      delta.Policy(**options)

  def test_full_layers_see_everything(self):
    policy = delta.Policy((0, 2), pages=1, recent_pages=1).fitted(4)
    held = KeyValueCache.empty(1, 40, (1, 2), (1, 2), jnp.float32)
    cache = policies.under(delta.Policy(), held)  # its keys alone are asked here
    q = k = jax.random.normal(jax.random.key(0), (1, 40, 1, 2))
    _, past = cache.appended(q, k, k, jnp.zeros((1, 40), jnp.int32))
    start = policy.start(1, 40)
    choose = jax.jit(lambda index: policy.choose(q[:, -1], past, (), start, index)[0])
    dense = [bool(choose(index).dense) for index in range(4)]
    self.assertEqual(dense, [True, False, True, False])
    self.assertEqual(policy.selection_layers, (0, 2))

  def test_layers_that_the_model_lacks(self):
    with self.assertRaisesRegex(ValueError, "0, 5.* of a model of 5 layers"):
      delta.Policy((0, 5)).fitted(5)

  def test_scores(self):
    # Two heads, sharp at tokens 1 and 4; pages of two tokens.
    weights = np.array([[0.0, 0.9, 0.1, 0, 0], [0, 0, 0.2, 0, 0.8]])
    logits = jnp.log(jnp.asarray(weights, jnp.float32))[None] + 3.0
    got = delta.page_scores(logits, page=2)
    np.testing.assert_allclose(got, [[0.9, 0.2, 0.8]], rtol=1e-5)
    got = delta.page_scores(logits, page=2, heads="mean", tokens="max")
    np.testing.assert_allclose(got, [[0.45, 0.15, 0.4]], rtol=1e-5)
    same = delta.page_scores(logits[:, ::-1], page=2)
    np.testing.assert_array_equal(same, delta.page_scores(logits, page=2))
    some = jax.random.normal(jax.random.key(0), (5, 4, 37))
    total = delta.page_scores(some, page=8).sum(axis=1)
    self.assertTrue(((total > 1) & (total < 4)).all())

  def test_choices(self):
    scores = jnp.array([[0.5, 0.1, 0.5, 0.9, 0.3, 0.0]] * 4)
    lengths = jnp.array([24, 21, 9, 0])
    options = {"pages": 3, "page": 4, "recent_pages": 1}
    ids, real = delta.select_pages(scores, lengths, **options)
    kept = [list(row[there]) for row, there in zip(ids, real)]
    # Of the equal scores of 0 and 2 the earlier one; three pages are all pages.
    self.assertEqual(kept, [[0, 3, 5], [0, 3, 5], [0, 1, 2], []])
    ids, _ = delta.select_pages(scores, lengths, **options | {"recent_pages": 3})
    self.assertEqual(ids[0].tolist(), [3, 4, 5])

  def test_other_pages_are_not_read(self):
    draw = np.random.default_rng(0).standard_normal
    q, k, v = (
      jnp.asarray(draw(s), jnp.float32) for s in [(1, 2, 4)] + [(1, 9, 2, 4)] * 2
    )
    given = {"pages": jnp.array([[0, 2]]), "lengths": jnp.array([8])}
    run = jax.jit(lambda q, k, v: delta.attend(q, k, v, **given, page=3))
    want = run(q, k, v)
    k, v = (x.at[:, jnp.array([3, 4, 5, 8])].set(jnp.nan) for x in (k, v))
    np.testing.assert_array_equal(run(q, k, v), want)

  def test_placement(self):
    # Each layer's map is a mixture; the largest changes are at 3, 2 and 6.
    angles = np.cumsum([0, 0.1, 0.7, 0.9, 0.1, 0.2, 0.5, 0.1])
    maps = [jnp.array([[[[np.cos(a), np.sin(a)]]]] * 2) for a in angles]
    want = [0, *(1 - np.cos(np.diff(angles)))]
    np.testing.assert_allclose(delta.changes(maps), want, atol=1e-6)
    self.assertEqual(delta.full_layers(maps, selections=2), (0, 1, 3, 6))
    near = delta.full_layers(maps, selections=2, distance=1, dense=1)
    self.assertEqual(near, (0, 2, 3))
    self.assertEqual(delta.full_layers(maps, selections=3, distance=3), (0, 1, 3, 6))
    # By default they are 8 / (2 x 1) = 4 apart at least; 2 falls to the dense ones.
    self.assertEqual(delta.full_layers(maps, selections=1, dense=4), (0, 1, 2, 3, 6))
    with self.assertRaisesRegex(ValueError, "dense = 0"):
      delta.full_layers(maps, dense=0)

  def test_heads_of_maps_are_averaged(self):
    eye = jnp.eye(3)[None, None]
    one = jnp.concatenate([eye, eye], axis=1)
    two = jnp.concatenate([eye, eye[..., ::-1]], axis=1)
    mean = jnp.broadcast_to(two.mean(axis=1, keepdims=True), two.shape)
    np.testing.assert_allclose(
      delta.changes([one, two]), delta.changes([one, mean]), rtol=1e-6
    )
    self.assertGreater(delta.changes([one, two])[1], 0.1)

  def test_overlaps(self):
    sets = jnp.array([[[1, 1, 0, 0]], [[1, 0, 1, 0]], [[1, 0, 1, 0]]], bool)
    self.assertEqual(delta.overlaps(list(sets)), [0.5, 1.0])


if __name__ == "__main__":
  absltest.main()
