"""The routing transformer: clusters, what leaks, and centroids as a result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import routing_transformer as routing
from attnjax.variants.sparse.routing_transformer import grouped
from tests import dense
from tests.sparse import growth

_EPS = 1e-2


def _arrays(T=24, N=2, c=3, H=4):
  keys = jax.random.split(jax.random.key(0), 4)
  q, k, v = (jax.random.normal(key, (1, T, N, H)) for key in keys[:3])
  return q, k, v, routing.unit(jax.random.normal(keys[3], (N, c, H)))


def _run(kind, cluster_size, impl="xla", **options):
  options = {"causal": True} | options
  return jax.jit(
    lambda *x: routing.attend(
      *x, cluster_size=cluster_size, kind=kind, impl=impl, **options
    )
  )


class AttendTest(parameterized.TestCase):
  @parameterized.parameters(("past", 1), ("past", 3), ("all", 1), ("all", 3))
  def test_a_cluster_of_all_tokens_is_attention(self, kind, clusters):
    q, k, v, means = _arrays(c=clusters)
    # With "all" every token is in every cluster, and the mean is of equal outputs.
    count = clusters if kind == "all" else 1
    want = dot_product.attend(q, k, v, causal=True, impl="reference")
    got = _run(kind, 24, eps=_EPS)(q, k, v, means)
    np.testing.assert_allclose(got, want * count / (count + _EPS), rtol=1e-4, atol=1e-5)

  @parameterized.parameters("past", "all")
  def test_the_numbers_of_clusters_mean_nothing(self, kind):
    q, k, v, means = _arrays()
    run = _run(kind, 5, "reference")
    want = run(q, k, v, means)
    np.testing.assert_allclose(run(q, k, v, means[:, ::-1]), want, atol=1e-5)

  def test_a_token_in_no_cluster_gives_zero(self):
    q, k, v, means = _arrays()
    out = _run("all", 3)(q, k, v, means)
    near = routing.affinity(q, means)
    taken = (jnp.argsort(jnp.argsort(-near, axis=-1), axis=-1) < 3).any(axis=2)
    found = (out != 0).any(axis=-1).swapaxes(1, 2)
    np.testing.assert_array_equal(found & ~taken, False)
    self.assertTrue((~taken).any())

  def test_the_published_selection_leaks_and_that_of_the_past_does_not(self):
    q, k, v, means = _arrays()
    # Later queries and keys as near to the centroids as can be: they take all places.
    near = jnp.broadcast_to(means[:, 0], (1, 12, 2, 4))
    q_new, k_new = (x.at[:, 12:].set(near) for x in (q, k))
    past, published = (_run(kind, 6) for kind in ("past", "all"))
    before, after = (past(*x, v, means)[:, :12] for x in ((q, k), (q_new, k_new)))
    np.testing.assert_array_equal(after, before)
    before, after = (published(*x, v, means)[:, :12] for x in ((q, k), (q_new, k_new)))
    self.assertGreater(float(abs(after - before).max()), 0.1)
    # It is the choice alone: later values change nothing.
    after = published(q, k, v.at[:, 12:].add(1.0), means)[:, :12]
    np.testing.assert_array_equal(after, before)

  def test_padding_is_not_routed(self):
    q, k, v, means = _arrays()
    ids = jnp.where(jnp.arange(24) < 17, 0, -1)[None]
    out = _run("all", 5, causal=False, segment_ids=ids)(q, k, v, means)
    alone = _run("all", 5, causal=False)(*(x[:, :17] for x in (q, k, v)), means)
    np.testing.assert_allclose(out[:, :17], alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out[:, 17:], 0)

  @parameterized.parameters(("past", "xla"), ("all", "xla"), ("past", "triton"))
  def test_work_grows_as_the_root_of_the_cube(self, kind, impl):
    def run(q, k, v, means):
      size = means.shape[1]
      options = {"cluster_size": size, "kind": kind, "causal": True, "impl": impl}

      def loss(q, k, v):
        return routing.attend(q, k, v, means, **options).sum()

      with dense.replacing_kernels():
        return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    def shapes(T):
      heads, clusters = (1, T, 1, 8), round(T**0.5)
      return heads, heads, heads, (1, clusters, 8)

    flops, size = growth.powers(run, shapes, (4096, 16384))
    self.assertLess(flops, 1.6)
    self.assertLess(size, 1.6)

  @parameterized.parameters((1, 3), (16, 1), (37, 3), (64, 5), (40, 80))
  def test_groups_are_of_one_cluster(self, tokens, clusters):
    """Every query has a slot of its own, in a group of its cluster, in time's order."""
    draw = np.random.default_rng(0)
    cluster = draw.integers(0, clusters, (2, 2, tokens)) * draw.integers(
      0, 2, (2, 2, tokens)
    )
    slot, own = map(np.asarray, grouped._groups(jnp.asarray(cluster), clusters))
    for row in np.ndindex(2, 2):
      self.assertLen(set(slot[row]), tokens)
      self.assertLess(slot[row].max(), own.shape[2] * grouped.ROWS)
      np.testing.assert_array_equal(own[row][slot[row] // grouped.ROWS], cluster[row])
      for number in range(clusters):
        mine = slot[row][cluster[row] == number]
        np.testing.assert_array_equal(mine, np.arange(len(mine)) + mine[:1].sum())
    token = np.asarray(grouped._tokens(jnp.asarray(slot), own.shape[2] * grouped.ROWS))
    np.testing.assert_array_equal(
      np.take_along_axis(token, slot, axis=2),
      np.broadcast_to(range(tokens), slot.shape),
    )
    self.assertEqual((token < tokens).sum(), 4 * tokens)

  @parameterized.parameters(
    ({"kind": "future"}, "kind 'future'"),
    ({"kind": "past", "causal": False}, "kind 'past' is causal"),
    ({"cluster_size": 0}, "cluster_size = 0"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      routing.attend(*_arrays(), **({"cluster_size": 3, "causal": True} | options))


class KMeansTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    x = jax.random.normal(jax.random.key(2), (4, 30, 2, 4))
    self.x = x + 2 * jnp.sign(x[..., :1])
    self.means = routing.unit(jax.random.normal(jax.random.key(3), (2, 5, 4)))

  def test_updates_bring_centroids_nearer(self):
    clusters = routing.Clusters.start(self.means)
    update = jax.jit(lambda clusters: clusters.update(self.x, decay=0.9))
    losses = []
    for _ in range(30):
      losses.append(float(routing.commitment(self.x, clusters.means)))
      clusters = update(clusters)
    self.assertLess(losses[-1], 0.5 * losses[0])

  def test_empty_clusters_keep_their_centroids(self):
    near, away = jnp.array([[[1.0, 0, 0]]]), jnp.array([[[0, 1.0, 0]]])
    clusters = routing.Clusters.start(jnp.concatenate([near, away], axis=1))
    x = jnp.broadcast_to(near, (1, 4, 1, 3))

    @jax.jit
    def after(clusters, number):
      step = lambda _, c: c.update(x, decay=0.9)  # noqa: E731
      return jax.lax.fori_loop(0, number, step, clusters)

    clusters = after(clusters, 2000)
    np.testing.assert_allclose(clusters.means[0], [[1, 0, 0], [0, 1, 0]], atol=1e-4)
    # A token that is far from both is nearer to the one that is not opposite.
    token = jnp.array([[[[-0.6, -0.5, 0.62]]]])
    self.assertEqual(int(routing.assign(token, clusters.means)[0, 0, 0]), 1)
    token = jnp.array([[[[-0.5, -0.6, 0.62]]]])
    self.assertEqual(int(routing.assign(token, clusters.means)[0, 0, 0]), 0)
    # When one comes in its turn, it draws the centroid at once.
    new = clusters.update(jnp.broadcast_to(away, (1, 4, 1, 3)), decay=0.9)
    np.testing.assert_allclose(new.means[0, 1], [0, 1, 0], atol=1e-3)

  def test_centroids_may_follow_an_iteration_of_each_batch(self):
    # Two tokens of length 2 and 3 join the first centroid, none the second.
    means, x = jnp.array([[[1.0, 0], [-1, 0]]]), jnp.array([[[[2.0, 0]], [[0, 3.0]]]])
    new, half = np.array([[[0.5**0.5, 0.5**0.5], [-1, 0]]]), 0.5**0.5 / 2
    np.testing.assert_allclose(routing.iterate(means, x), new, atol=1e-6)
    clusters = routing.Clusters.start(means)
    moved = clusters.update(x, decay=0.5, averaged="means").means
    np.testing.assert_allclose(moved, [[[0.5 + half, half], [-1, 0]]], atol=1e-6)
    both = routing.follow(means, [jnp.asarray(new), -means], decay=0.75)
    mean = [[0.5**0.5 - 1, 0.5**0.5], [0, 0]]
    np.testing.assert_allclose(both, 0.75 * means + 0.125 * np.array([mean]), atol=1e-6)
    layer = routing.Layer(
      8, form="causal", heads=2, clusters=2, cluster_size=2, rngs=nnx.Rngs(0)
    )
    tokens = jax.random.normal(jax.random.key(1), (1, 5, 8))
    clusters = routing.Clusters.start(layer.start_means())
    learn = functools.partial(layer.learn, decay=0.5, averaged="means")
    _, _, after = jax.jit(learn)(tokens, clusters)
    routed = jnp.concatenate([layer.query(tokens), layer.key(tokens)], axis=1)
    want = 0.5 * (clusters.means + routing.iterate(clusters.means, routed))
    np.testing.assert_allclose(after.means, want, atol=1e-6)
    with self.assertRaisesRegex(ValueError, "unknown averaged 'medians'"):
      clusters.update(x, averaged="medians")

  def test_replicas_update_as_one(self):
    clusters, parts = routing.Clusters.start(self.means), self.x.reshape(2, 2, 30, 2, 4)
    run = jax.vmap(lambda x: clusters.update(x, axis_name="data"), axis_name="data")
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5, atol=1e-6),
      run(parts),
      clusters.update(self.x),
    )

  def test_padding_does_not_count(self):
    real = jnp.broadcast_to(jnp.arange(30) < 11, (4, 30))
    clusters, part = routing.Clusters.start(self.means), self.x[:, :11]
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      (clusters.update(self.x, real), routing.commitment(self.x, self.means, real)),
      (clusters.update(part), routing.commitment(part, self.means)),
    )

  def test_an_empty_cluster_stays(self):
    x = jnp.broadcast_to(self.means[:, 1], (1, 3, 2, 4))
    new = routing.iterate(self.means, x)
    np.testing.assert_allclose(new, self.means, rtol=1e-5, atol=1e-6)

  def test_the_loss_moves_tokens_and_no_centroids(self):
    dx, dmeans = jax.grad(routing.commitment, (0, 1))(self.x, self.means)
    self.assertGreater(float(abs(dx).max()), 0)
    np.testing.assert_array_equal(dmeans, 0)


class LayerTest(parameterized.TestCase):
  def test_centroids_are_an_argument_and_a_result(self):
    layer = routing.Layer(
      16, form="causal", clusters=3, cluster_size=4, window=3, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(1), (2, 9, 16))
    start = routing.Clusters.start(layer.start_means(1))
    y, loss, new = jax.jit(layer.learn)(x, start, index=1)
    np.testing.assert_allclose(y, layer(x, index=1), rtol=1e-4, atol=1e-6)
    self.assertGreater(float(loss), 0)
    self.assertGreater(float(abs(new.means - start.means).max()), 0)

  def test_weights_leave_out_the_memory(self):
    options = {"clusters": 3, "cluster_size": 4, "window": 3, "rngs": nnx.Rngs(0)}
    layer = routing.Layer(16, form="causal", memory=2, **options)
    x = jax.random.normal(jax.random.key(1), (1, 4, 16))  # as many as values are wide
    weights = jax.jit(lambda x: contract.weights(layer, x))(x)
    self.assertEqual((weights.shape, weights.dtype), ((1, 4, 4, 4), "float32"))
    total = weights.sum(axis=-1)
    np.testing.assert_allclose(total[:, :2], 1, rtol=1e-5)
    self.assertLess(float(total[:, 2:].max()), 0.99)
    layer.memory_v[...] = jnp.zeros_like(layer.memory_v[...])
    v = jnp.concatenate([layer.local.value(x), layer.value(x)], axis=2)
    y = layer.out(jnp.einsum("bnts,bsne->btne", weights, v))
    np.testing.assert_allclose(y, layer(x), rtol=1e-4, atol=1e-6)

  def test_what_it_cannot_do_it_says(self):
    options = {"clusters": 3, "cluster_size": 4, "window": 3, "rngs": nnx.Rngs(0)}
    layer = routing.Layer(16, form="causal", kind="all", **options)
    x = jnp.zeros((1, 9, 16))
    with self.assertRaisesRegex(NotImplementedError, "segment_ids: kind 'all'"):
      layer(x, segment_ids=jnp.zeros((1, 9), jnp.int32))
    with self.assertRaisesRegex(NotImplementedError, "does not decode"):
      layer.init_cache(1, 9)
    with self.assertRaisesRegex(ValueError, "local_heads = 4; at least one of 4"):
      routing.Layer(16, form="causal", local_heads=4, **options)


if __name__ == "__main__":
  absltest.main()
