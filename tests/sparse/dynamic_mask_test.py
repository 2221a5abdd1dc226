"""Dynamic mask attention: what the paper alone promises."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import dynamic_mask
from tests.sparse import growth


def _arrays(T=21, N=4, K=2, H=4):
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = ((1, T, N, H), (1, T, K, H), (1, T, K, H), (1, T, K))
  return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


class AttendTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_with_all_kept_it_is_attention_with_a_bias(self, causal):
    q, k, v, importance = _arrays()
    bias = jnp.repeat(importance, 2, axis=2).swapaxes(1, 2)[:, :, None]
    want = dot_product.attend(q, k, v, bias=bias, causal=causal, impl="reference")
    got = dynamic_mask.attend(
      q, k, v, importance, keep_keys=21, causal=causal, impl="xla"
    )
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

  def test_early_queries_keep_all_they_see_and_later_ones_so_many(self):
    *_, importance = _arrays()
    allowed = dynamic_mask.allowed((1, 21, 21), True)
    kept = dynamic_mask.selected(importance, allowed, 6)
    want = jnp.minimum(jnp.arange(21) + 1, 6)
    np.testing.assert_array_equal(kept.sum(axis=-1)[0], jnp.stack([want, want]))
    self.assertFalse((kept & ~allowed).any())

  def test_later_importances_and_values_do_not_show_before(self):
    q, k, v, importance = _arrays()
    run = jax.jit(
      lambda *x: dynamic_mask.attend(*x, keep_keys=4, causal=True, impl="xla")
    )
    before = run(q, k, v, importance)
    after = run(q, k, v.at[:, 12:].add(1.0), importance.at[:, 12:].add(9.0))
    np.testing.assert_allclose(after[:, :12], before[:, :12], rtol=1e-5, atol=1e-6)
    self.assertGreater(float(abs(after - before)[:, 12:].max()), 0.1)

  def test_the_gradient_of_the_importance_is_the_slope(self):
    q, k, v, importance = _arrays(9)
    run = jax.jit(
      lambda x: jnp.sin(
        dynamic_mask.attend(q, k, v, x, keep_keys=4, causal=True, impl="reference")
      ).sum()
    )
    direction, step = jnp.cos(jnp.arange(18.0)).reshape(1, 9, 2), 1e-3
    slope = run(importance + step * direction) - run(importance - step * direction)
    got = jnp.vdot(jax.jit(jax.grad(run))(importance), direction)
    np.testing.assert_allclose(got, slope / (2 * step), rtol=1e-2)

  def test_groups_of_keys_are_kept_whole_or_not_at_all(self):
    kept = jnp.array([1, 1, 1, 0, 1, 1, 0, 0, 1, 1], bool).reshape(1, 1, 1, -1)
    want = [True] * 4 + [False] * 4 + [True] * 2
    self.assertEqual(dynamic_mask.smoothed(kept, 4).ravel().tolist(), want)

  @parameterized.parameters(
    {"causal": True},
    {"causal": True, "block_smooth": 16},
    {"causal": True, "keys": True},
    {"causal": False},
    {"causal": False, "block_smooth": 16, "keys": True},
  )
  def test_work_and_gradients_are_linear_in_the_length(self, keys=False, **options):
    def run(q, k, v, importance):
      mask = jnp.ones((1, 1, 1, k.shape[1]), bool) if keys else None

      def loss(*x):
        given = {"keep_keys": 64, "mask": mask, "impl": "xla"} | options
        return dynamic_mask.attend(*x, **given).sum()

      return jax.grad(loss, argnums=(0, 1, 2, 3))(q, k, v, importance)

    def shapes(T):
      return (1, T, 2, 8), (1, T, 1, 8), (1, T, 1, 8), (1, T, 1)

    flops, size = growth.powers(run, shapes, (8192, 32768))
    self.assertLess(flops, 1.05)
    self.assertLess(size, 1.05)

  @parameterized.product(queries=(3, 80), causal=(True, False), block_smooth=(0, 4))
  def test_other_queries_than_keys(self, queries, causal, block_smooth):
    q, k, v, importance = _arrays(70)
    q = jax.random.normal(jax.random.key(5), (1, queries, 4, 4))
    options = {"keep_keys": 20, "causal": causal, "block_smooth": block_smooth}
    options |= {"return_lse": True, "mask": (jnp.arange(70) % 7 > 0)[None, None, None]}
    run = jax.jit(
      lambda *x: dynamic_mask.attend(*x, **options, impl="xla"),
    )
    want = dynamic_mask.attend(q, k, v, importance, **options, impl="reference")
    for found, wanted in zip(run(q, k, v, importance), want):
      np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)

  def test_as_many_groups_as_can_be_are_listed(self):
    """Three keys of every group are listed: the groups are more than a quarter."""
    time = jnp.arange(128)
    q, k, v, _ = _arrays(128)
    importance = jnp.where(time % 4 == 3, -9, 0.02 * time)[None, :, None].repeat(2, 2)
    options = {"keep_keys": 15, "causal": True, "block_smooth": 4}
    run = jax.jit(
      lambda impl: dynamic_mask.attend(q, k, v, importance, **options, impl=impl),
      static_argnums=0,
    )
    np.testing.assert_allclose(run("xla"), run("reference"), rtol=1e-4, atol=1e-5)

  @parameterized.parameters(True, False)
  def test_a_mask_of_each_query_is_its_rows(self, causal):
    q, k, v, importance = _arrays(21)
    keys = jnp.arange(21) % 4 > 0
    rows = jnp.broadcast_to(keys, (1, 1, 21, 21)).at[:, :, 3].set(False)
    options = {"keep_keys": 3, "causal": causal, "impl": "xla"}
    run = jax.jit(
      lambda mask: dynamic_mask.attend(q, k, v, importance, mask=mask, **options)
    )
    want = run(keys[None, None, None]).at[:, 3].set(0)
    np.testing.assert_allclose(run(rows), want, rtol=1e-4, atol=1e-5)

  def test_errors(self):
    q, k, v, importance = _arrays()
    with self.assertRaisesRegex(ValueError, "keep_keys = 0; a query keeps at least 1"):
      dynamic_mask.attend(q, k, v, importance, keep_keys=0)
    with self.assertRaisesRegex(ValueError, "segment_ids need T = S; here are 3"):
      ids = jnp.zeros((1, 3), jnp.int32)
      dynamic_mask.attend(q[:, :3], k, v, importance, keep_keys=1, segment_ids=ids)


class LayerTest(parameterized.TestCase):
  def test_without_amplitude_it_is_attention(self):
    layer = dynamic_mask.Layer(
      16, form="causal", kv_heads=2, keep_keys=50, rngs=nnx.Rngs(0)
    )
    layer.amplitude[...] = jnp.zeros(2)
    plain = dot_product.Layer(
      16, form="causal", kv_heads=2, qk_norm=True, rngs=nnx.Rngs(0)
    )
    plain.qkv, plain.out = layer.qkv, layer.out
    x = jax.random.normal(jax.random.key(1), (2, 9, 16))
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-4, atol=1e-6)

  def test_a_steep_importance_stays_finite(self):
    v = jnp.full((1, 3, 1, 2), 50.0)
    weight, amplitude = jnp.ones((1, 2, 1)), jnp.ones(1)
    steep = dynamic_mask.value_importance(v, weight, amplitude)
    np.testing.assert_allclose(steep, np.exp(30.0), rtol=1e-5)
    linear = dynamic_mask.value_importance(v, weight, amplitude, form="linear")
    np.testing.assert_allclose(linear, 100.0, rtol=1e-5)

  def test_the_cache_is_as_small_as_what_is_kept(self):
    layer = dynamic_mask.Layer(
      16, form="causal", kv_heads=2, keep_keys=5, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(1), (1, 17, 16))
    _, cache = jax.jit(layer.step)(x, layer.init_cache(1, 17))
    kept = cache.document.state
    self.assertEqual(kept.k.shape, (1, 5, 2, 4))
    importance = layer.importances(layer.qkv.value(x))
    want = -jnp.sort(-importance, axis=1)[:, :5]
    np.testing.assert_allclose(kept.importance, want, rtol=1e-6)

  def test_weights_are_those_of_the_kept_values(self):
    layer = dynamic_mask.Layer(
      16, form="causal", kv_heads=2, keep_keys=3, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(1), (1, 9, 16))
    weights = jax.jit(lambda x: contract.weights(layer, x))(x)
    self.assertEqual((weights.shape, weights.dtype), ((1, 4, 9, 9), "float32"))
    count = jnp.broadcast_to(jnp.minimum(jnp.arange(9) + 1, 3), (1, 4, 9))
    np.testing.assert_array_equal((weights > 0).sum(axis=-1), count)
    v = jnp.repeat(layer.qkv.value(x), 2, axis=2)
    y = layer.out(jnp.einsum("bnts,bsne->btne", weights, v))
    np.testing.assert_allclose(y, layer(x), rtol=1e-4, atol=1e-6)

  @parameterized.parameters("causal", "sequence")
  def test_it_follows_the_definition(self, form):
    layer = dynamic_mask.Layer(
      16, form=form, kv_heads=2, keep_keys=3, rope_theta=0.0, rngs=nnx.Rngs(0)
    )
    layer.amplitude[...] = jnp.array([0.9, -0.7])
    for part in (layer.qkv.query, layer.qkv.key, layer.qkv.value, layer.importance):
      part.kernel[...] *= 20
    x = jax.random.normal(jax.random.key(1), (1, 7, 16))

    def heads(part):
      return np.einsum("td,dnh->tnh", x[0], part.kernel)

    def norm(y):
      return y / np.sqrt((y * y).mean(axis=-1, keepdims=True) + 1e-6)

    q, k = norm(heads(layer.qkv.query)), norm(heads(layer.qkv.key))
    v = heads(layer.qkv.value)
    dt = np.einsum("tkh,khn->tn", v, layer.importance.kernel)
    importance = np.exp(np.array([0.9, -0.7]) * np.log1p(np.exp(dt)))
    out = np.zeros((7, 4, 4))
    for t, n in np.ndindex(7, 4):
      seen = t + 1 if form == "causal" else 7
      kept = np.argsort(-importance[:seen, n // 2])[:3]
      score = k[kept, n // 2] @ q[t, n] / 2 + importance[kept, n // 2]
      weight = np.exp(score - score.max())
      out[t, n] = weight @ v[kept, n // 2] / weight.sum()
    want = np.einsum("tnh,nhd->td", out, layer.out.kernel)
    got = jax.jit(lambda layer, x: layer(x))(layer, x)
    np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)

  def test_what_it_cannot_honour_it_says(self):
    layer = dynamic_mask.Layer(16, form="sequence", rope_theta=0.0, rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 9, 16))
    with self.assertRaisesRegex(NotImplementedError, "positions: no rotation"):
      layer(x, positions=jnp.arange(9))
    with self.assertRaisesRegex(NotImplementedError, "'sequence' does not decode"):
      layer.init_cache(1, 9)

  @parameterized.parameters(
    ({"bias_form": "square"}, "bias_form 'square'"),
    ({"keep_keys": 0}, "keep_keys = 0"),
    ({"form": "image"}, "form 'image'"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      dynamic_mask.Layer(16, **{"form": "causal"} | options, rngs=nnx.Rngs(0))


if __name__ == "__main__":
  absltest.main()
