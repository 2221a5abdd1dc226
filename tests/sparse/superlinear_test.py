"""Superlinear attention: stripes, spans and the gate."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core import masks
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import superlinear
from attnjax.variants.sparse.superlinear import paired
from experiments.training import cost
from tests.sparse import growth


def _arrays(T=30, N=2, K=1, H=4):
  keys = jax.random.split(jax.random.key(0), 4)
  heads = (N, N, K, K)
  return [jax.random.normal(key, (1, T, n, H)) for key, n in zip(keys, heads)]


class StripesTest(parameterized.TestCase):
  def test_powers_of_integers_are_exact(self):
    self.assertEqual(
      superlinear.stripes(100, 0, 1 / 2).tolist(), [i * i for i in range(1, 11)]
    )
    self.assertEqual(
      superlinear.stripes(1000, 2, 1 / 3).tolist(), [i**3 for i in range(3, 11)]
    )
    self.assertEqual(superlinear.window_length(3), 15)
    self.assertEqual(superlinear.window_length(0), 0)

  def test_the_first_anchor_is_next_to_the_window(self):
    for power in (0.5, 0.54, 1 / 3):
      W = superlinear.window_length(2, power)
      self.assertEqual(superlinear.anchor_positions(200, 2, power)[0], 200 - W)

  def test_spans_cover_every_token(self):
    for t in (0, 1, 2, 50, 399, 400, 401, 3000):
      seen = np.zeros(t + 1, bool)
      seen[max(0, t - superlinear.window_length(1) + 1) :] = True
      back = superlinear.reaches(t + 1, 2.0, 0.5)[-1]
      for anchor in superlinear.anchor_positions(t, 1):
        seen[max(0, anchor - back) : anchor + 1] = True
      self.assertTrue(seen.all(), t)


class AttendTest(parameterized.TestCase):
  def test_the_search_takes_the_best_anchors(self):
    q1, _, k, _ = _arrays(70)
    geometry = superlinear.Geometry(2, 1, 2.0, 1.0, 0.5, 0.5)
    where = superlinear.rows(jnp.zeros((1, 70), jnp.int32), 70, 0)
    search = jax.jit(lambda q1, k: superlinear.span_search(q1, k, where, geometry, 0))
    spans, score = search(q1, k)
    for t, n in ((2, 0), (3, 1), (20, 0), (69, 1)):
      anchors = superlinear.anchor_positions(t, 1)
      values = {a: float(q1[0, t, n] @ k[0, a, 0]) for a in anchors}
      best = sorted(values, key=values.get, reverse=True)[:2]
      want = (best + [-1, -1])[:2]
      self.assertEqual(spans.anchor[0, t, n].tolist(), want)
      scores = [values[a] for a in best]
      np.testing.assert_allclose(score[0, t, n, : len(best)], scores, rtol=1e-4)
      self.assertLessEqual(int(spans.end[0, t, n].max()), t - 3)

  def test_a_window_of_all_tokens_is_attention(self):
    q1, q2, k, v = _arrays(24)
    want = dot_product.attend(q2, k, v, causal=True, impl="reference")
    run = jax.jit(lambda *x: superlinear.attend(*x, window_index=4, impl="xla"))
    got = run(q1, q2, k, v)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

  def test_later_tokens_do_not_show_before(self):
    arrays = _arrays()
    run = jax.jit(lambda *x: superlinear.attend(*x, window_index=1, impl="xla"))
    later = [x.at[:, 17:].add(1.0) for x in arrays]
    np.testing.assert_allclose(run(*later)[:, :17], run(*arrays)[:, :17], atol=1e-6)

  def test_the_search_learns_by_the_gate(self):
    q1, q2, k, v = _arrays()

    def run(q1):
      out = superlinear.attend(q1, q2, k, v, window_index=1, impl="reference")
      return jnp.sin(out).sum()

    run = jax.jit(run)
    direction, step = jnp.cos(jnp.arange(240.0)).reshape(q1.shape), 2e-3
    slope = (run(q1 + step * direction) - run(q1 - step * direction)) / (2 * step)
    gradient = jax.jit(jax.grad(run))(q1)
    self.assertGreater(float(abs(gradient).max()), 1e-3)
    np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=3e-2)

  def test_a_row_that_sees_nothing_is_zero(self):
    arrays = _arrays()
    ids = jnp.where(jnp.arange(30) < 4, -1, 0)[None]
    run = jax.jit(lambda *x: superlinear.attend(*x, segment_ids=ids, impl="xla"))
    out = run(*arrays)
    np.testing.assert_array_equal(out[:, :4], 0)
    self.assertTrue(jnp.isfinite(out).all())

  def test_work_grows_as_the_root_of_the_cube(self):
    flops, sizes = [], []
    for T in (2048, 8192):
      arrays = _arrays(T, N=1, H=8)
      shapes = [x.shape for x in arrays]
      jaxpr = growth.traced(lambda *x: superlinear.attend(*x, impl="xla"), *shapes)
      flops.append(cost.flops(jaxpr, arrays))
      sizes.append(growth.largest(jaxpr))
    self.assertLess(np.log(flops[1] / flops[0]) / np.log(4), 1.6)
    self.assertLess(np.log(sizes[1] / sizes[0]) / np.log(4), 1.3)

  def test_blocks_of_sorted_pairs_visit_few_blocks_of_keys(self):
    q1, _, k, _ = _arrays(4096)
    geometry = superlinear.Geometry(3, 3, 2.0, 0.0, 0.5, 0.5)
    where = superlinear.rows(jnp.zeros((1, 4096), jnp.int32), 4096, 0)
    found, _ = superlinear.span_search(q1, k, where, geometry, 0)
    order, mask = paired.pairs(found, 1, 4096)
    self.assertEqual(sorted(np.asarray(order[0, 0])), list(range(2 * 4096 * 3)))
    schedule = masks.schedule(mask, (1, 1, 2 * 4096 * 3, 4096), 128, 128)
    # A span has up to 129 keys, in two or three blocks; of all there are 32.
    self.assertLess(float(schedule.density()), 3.2 / 32)

  @parameterized.parameters(
    ({"search_power": 1.0}, "search_power = 1.0"),
    ({"top": 0}, "top = 0"),
    ({"backward": -1.0}, "backward = -1.0"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      superlinear.attend(*_arrays(), **options)


class LayerTest(parameterized.TestCase):
  def test_weights_are_those_of_the_values(self):
    layer = superlinear.Layer(8, heads=2, kv_heads=1, window_index=1, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 30, 8))
    weights = jax.jit(lambda x: contract.weights(layer, x))(x)
    self.assertEqual((weights.shape, weights.dtype), ((1, 2, 30, 30), "float32"))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    v = jnp.repeat(layer.qkv.value(x), 2, axis=2)
    y = layer.out(jnp.einsum("bnts,bsne->btne", weights, v))
    np.testing.assert_allclose(y, layer(x), rtol=1e-4, atol=1e-6)

  def test_the_search_reads_rotated_queries_and_keys(self):
    layer = superlinear.Layer(
      8, heads=2, kv_heads=1, top=2, window_index=1, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(1), (1, 40, 8))
    angle = np.arange(40)[:, None] * 10000.0 ** -np.array([0, 0.5])
    cos, sin = np.cos(angle), np.sin(angle)

    def rotated(part):
      a, b = np.split(np.einsum("td,dnh->nth", x[0], part.kernel), 2, axis=-1)
      return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    score = rotated(layer.search) @ rotated(layer.qkv.key).swapaxes(1, 2)
    found = jax.jit(layer.spans)(x).anchor
    for t, n in np.ndindex(40, 2):
      anchors = superlinear.anchor_positions(t, 1)
      best = sorted(anchors, key=lambda at: -score[n, t, at])[:2]
      self.assertEqual(found[0, t, n].tolist(), (best + [-1, -1])[:2], (t, n))

  def test_positions_need_a_rotation(self):
    layer = superlinear.Layer(8, heads=2, rope_theta=0.0, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(NotImplementedError, "positions: no rotation"):
      layer(jnp.zeros((1, 9, 8)), positions=jnp.arange(9))

  def test_a_query_reads_fewer_keys_of_longer_sequences(self):
    shares = []
    for T in (256, 1024):
      layer = superlinear.Layer(8, heads=1, top=2, window_index=1, rngs=nnx.Rngs(0))
      x = jax.random.normal(jax.random.key(1), (1, T, 8))
      spans = jax.jit(layer.spans)(x)
      lengths = jnp.where(spans.anchor >= 0, spans.end - spans.start + 1, 0).sum(-1)
      anchors = len(superlinear.stripes(T, 1, 0.5))
      shares.append((float(lengths[0, -1, 0]) + 3 + anchors) / T)
    self.assertLess(shares[0], 0.4)
    self.assertLess(shares[1], 0.65 * shares[0])


if __name__ == "__main__":
  absltest.main()
