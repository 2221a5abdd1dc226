"""Masks, positions and caches: the small pure pieces."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import masks, positions
from attnjax.core.cache import KeyValueCache


class MaskTest(parameterized.TestCase):
  def test_definition(self):
    ids = [0, 0, 1, -1, 1]
    mask = masks.conjunction((1, 1, 5, 5), True, None, jnp.array([ids]))
    want = [
      [s <= t and ids[s] == ids[t] and ids[t] >= 0 for s in range(5)] for t in range(5)
    ]
    np.testing.assert_array_equal(mask.dense(5, 5)[0, 0], want)

  @parameterized.parameters((3, 8), (8, 3), (5, 5))
  def test_causal_is_aligned_bottom_right(self, T, S):
    seen = masks.conjunction((1, 1, T, S), True).dense(T, S)[0, 0]
    np.testing.assert_array_equal(seen, np.tri(T, S, S - T, dtype=bool))

  def test_segments_and_padding(self):
    real = jnp.array([[True, True, False]])
    np.testing.assert_array_equal(masks.segments(None, real, (1, 3)), [[0, 0, -1]])
    ids = masks.segments(jnp.array([[4, 5, 5]]), real, (1, 3))
    np.testing.assert_array_equal(ids, [[4, 5, -1]])
    self.assertIsNone(masks.segments(None, None, (1, 3)))

  def test_documents_are_runs(self):
    ids = jnp.array([[7, 7, 3, -1, 3, 7]])
    np.testing.assert_array_equal(masks.documents(ids), [[0, 0, 1, -1, 3, 4]])

  @parameterized.parameters(
    ({"segment_ids": jnp.zeros((1, 4), int)}, r"segment_ids .*\(1, 4\).*\(1, 3\)"),
    ({"kv_segment_ids": jnp.zeros((1, 5), int)}, "without segment_ids"),
    ({"array": jnp.ones((1, 1, 3, 5))}, "float32.*boolean"),
    ({"array": jnp.ones((1, 1, 3, 4), bool)}, "does not broadcast"),
  )
  def test_errors(self, arguments, message):
    with self.assertRaisesRegex(ValueError, message):
      masks.conjunction((1, 1, 3, 5), **arguments)


class PositionsTest(absltest.TestCase):
  def test_rotation_is_a_complex_product(self):
    x = np.random.default_rng(0).normal(size=(1, 6, 2, 8)).astype("float32")
    got = positions.rotate(jnp.asarray(x), jnp.arange(6))
    pairs = x[..., :4] + 1j * x[..., 4:]
    angle = np.arange(6)[:, None] * 10000.0 ** (-np.arange(4) / 4)
    want = pairs * np.exp(1j * angle)[None, :, None]
    np.testing.assert_allclose(got[..., :4], want.real, atol=1e-5)
    np.testing.assert_allclose(got[..., 4:], want.imag, atol=1e-5)

  def test_scores_depend_on_the_distance_only(self):
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))

    def score(a, b):
      turned = [positions.rotate(x, jnp.array([p])) for x, p in ((q, a), (k, b))]
      return jnp.vdot(*turned)

    np.testing.assert_allclose(score(9, 4), score(105, 100), rtol=1e-4)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "head size 7.*even"):
      positions.rotate(jnp.ones((1, 1, 1, 7)), jnp.arange(1))
    with self.assertRaisesRegex(ValueError, "dim 6 must divide by 2 x 2"):
      positions.sinusoids((2, 2), 6)

  def test_sinusoids_do_not_depend_on_the_grid(self):
    small, large = positions.sinusoids((3, 4), 8), positions.sinusoids((5, 9), 8)
    np.testing.assert_array_equal(small, large[:3, :4])


class CacheTest(absltest.TestCase):
  def test_append_in_order(self):
    cache = KeyValueCache.empty(1, 4, (1, 2), (1, 3), jnp.float32)
    k, v = jnp.ones((1, 2, 1, 2)), jnp.full((1, 2, 1, 3), 2.0)
    cache = cache.append(k, v).append(3 * k[:, :1], v[:, :1], jnp.array([[5]]))
    np.testing.assert_array_equal(cache.k[0, :, 0, 0], [1, 1, 3, 0])
    np.testing.assert_array_equal(cache.segment_ids, [[0, 0, 5, -1]])
    self.assertEqual(int(cache.length), 3)

  def test_overflow_is_nan_and_never_another_answer(self):
    cache = KeyValueCache.empty(1, 2, (1, 2), (1, 2), jnp.float32)
    k = jnp.ones((1, 2, 1, 2))
    full = jax.jit(lambda c, k: c.append(k, k).append(k, k))(cache, k)
    self.assertTrue(jnp.isnan(full.v).all())
    with self.assertRaisesRegex(ValueError, "3 tokens do not fit .* length 2"):
      cache.append(jnp.ones((1, 3, 1, 2)), jnp.ones((1, 3, 1, 2)))


if __name__ == "__main__":
  absltest.main()
