"""Column sums, argmax and entropy of softmax weights against NumPy, with gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from attnjax import masks

# (B, T, S, N, K, H), arguments of the scores; tiles are of 128 queries and 512 keys.
IDS = jnp.array([[0] * 4 + [1] * 3, [0, 0, 5, 5, -1, 1, 1]])
PROBLEMS = {
  "causal": ((2, 63, 63, 4, 2, 8), {"is_causal": True}),
  "window": ((1, 130, 700, 2, 2, 4), {"is_causal": True, "local_window_size": (40, 0)}),
  "one_token": ((1, 1, 65, 1, 1, 4), {}),
  "documents": ((2, 7, 7, 2, 1, 4), {"segment_ids": IDS}),
  "bias": ((1, 7, 9, 2, 2, 4), {"bias": jnp.arange(63.0).reshape(7, 9) / 9}),
  "program": (
    (1, 65, 63, 2, 2, 4),
    {
      "score": lambda x, b, n, q, k: x - 0.1 * jnp.abs(q - k),
      "softcap": 2.0,
      "mask": ~masks.Window(3, 3),
      "scale": 0.7,
    },
  ),
}


def arrays(name, dtype="float32"):
  """Returns q and k of a problem."""
  B, T, S, N, K, H = PROBLEMS[name][0]
  draw = np.random.default_rng(len(name)).standard_normal
  return [jnp.asarray(draw(x), dtype) for x in ((B, T, N, H), (B, S, K, H))]


def dense(q, k, **options):
  """Returns (weights, scores, lse), (B, N, T, S) of the engine."""
  S, K = k.shape[1:3]
  eye = jnp.broadcast_to(jnp.eye(S)[None, :, None], (*k.shape[:3], S))
  out, lse = attnjax.dot_product_attention(
    q, k, eye, return_lse=True, impl="reference", **options
  )
  weights, lse = np.asarray(out.swapaxes(1, 2)), np.asarray(lse)
  with np.errstate(divide="ignore"):
    return weights, np.log(weights) + lse.swapaxes(1, 2)[..., None], lse


def expected(q, k, **options):
  """Returns (column sums, argmax, entropy, lse) by the definitions."""
  weights, scores, lse = dense(q, k, **options)
  some = np.isfinite(lse.swapaxes(1, 2))
  argmax = np.where(some, np.nan_to_num(scores, nan=-np.inf).argmax(-1), -1)
  with np.errstate(divide="ignore", invalid="ignore"):
    entropy = -np.nansum(weights * np.log(weights), axis=-1)
  return weights.sum(2), argmax.swapaxes(1, 2), entropy.swapaxes(1, 2), lse


class StatisticsTest(parameterized.TestCase):
  @parameterized.product(name=tuple(PROBLEMS), impl=("reference", "xla"))
  def test_definitions(self, name, impl):
    q, k = arrays(name)
    options = PROBLEMS[name][1]
    columns, argmax, entropy, lse = expected(q, k, **options)
    got = attnjax.attention_column_sums(q, k, lse, impl=impl, **options)
    rows = attnjax.attention_rows(q, k, lse, impl=impl, **options)
    _close(got, columns)
    np.testing.assert_array_equal(rows.argmax, argmax)
    _close(rows.entropy, entropy)
    seen = np.isfinite(lse).sum(1)
    _close(got.sum(2), seen)  # each query that sees something gives 1

  @parameterized.parameters("causal", "program", "documents")
  def test_gradients(self, name):
    q, k = arrays(name)
    options = PROBLEMS[name][1]

    def loss(impl, q, k):
      _, lse = attnjax.dot_product_attention(
        q, k, k, return_lse=True, impl=impl, **options
      )
      sums = attnjax.attention_column_sums(q, k, lse, impl=impl, **options)
      rows = attnjax.attention_rows(q, k, lse, impl=impl, **options)
      return jnp.sum(jnp.sin(sums)) + jnp.sum(jnp.cos(rows.entropy))

    want, got = (
      jax.jit(jax.grad(lambda *x, i=impl: loss(i, *x), (0, 1)))(q, k)
      for impl in ("reference", "xla")
    )
    for a, b in zip(got, want):
      self.assertGreater(jnp.abs(b).max(), 1e-3)
      _close(a, b)

  @parameterized.parameters("reference", "xla")
  def test_fewer_pairs_may_be_counted(self, impl):
    q, k = arrays("causal")
    weights, _, lse = dense(q, k, is_causal=True)
    far = masks.Causal() & ~masks.Window(16, 0)
    got = attnjax.attention_column_sums(q, k, lse, mask=far, impl=impl)
    t, s = np.indices((63, 63))
    _close(got, (weights * (t - s > 16)).sum(2))

  @parameterized.parameters("reference", "xla")
  def test_equal_scores_and_nan(self, impl):
    q, k = arrays("causal")
    rows = attnjax.attention_rows(0 * q, k, jnp.zeros(q.shape[:3]), impl=impl)
    np.testing.assert_array_equal(rows.argmax, 0)
    # A key of NaN reaches the queries that see it, and no others.
    k = k.at[:, 40].set(jnp.nan)
    _, lse = attnjax.dot_product_attention(q, k, k, is_causal=True, return_lse=True)
    rows = attnjax.attention_rows(q, k, lse, is_causal=True, impl=impl)
    bad = np.isnan(rows.entropy)
    self.assertTrue(bad[:, 40:].all())
    self.assertFalse(bad[:, :40].any())
    sums = attnjax.attention_column_sums(
      q, k, lse, mask=masks.Causal() & masks.Where(lambda t, s: t < 40), impl=impl
    )
    self.assertTrue(np.isfinite(sums).all())

  def test_empty_axes_and_many_batch_axes(self):
    q, k = arrays("causal")
    none = attnjax.attention_column_sums(q[:, :0], k, jnp.zeros((2, 0, 4)))
    np.testing.assert_array_equal(none, np.zeros((2, 4, 63)))
    rows = attnjax.attention_rows(q, k[:, :0], jnp.full((2, 63, 4), -jnp.inf))
    np.testing.assert_array_equal(rows.argmax, np.full((2, 63, 4), -1))
    lse = jnp.zeros((63, 4))
    one = attnjax.attention_column_sums(q[0], k[0], lse)
    two = attnjax.attention_column_sums(q[:1, None], k[:1, None], lse[None, None])
    self.assertEqual((one.shape, two.shape), ((4, 63), (1, 1, 4, 63)))
    _close(two[0, 0], one)

  def test_errors_name_value_and_rule(self):
    q, k = arrays("causal")
    with self.assertRaisesRegex(ValueError, r"lse has the shape \(2, 4, 63\).*63, 4"):
      attnjax.attention_rows(q, k, jnp.zeros((2, 4, 63)))
    with self.assertRaisesRegex(TypeError, "causal"):
      attnjax.attention_column_sums(q, k, jnp.zeros((2, 63, 4)), causal=True)
    with self.assertRaisesRegex(ValueError, "'cuda'.*reference"):
      attnjax.attention_column_sums(q, k, jnp.zeros((2, 63, 4)), impl="cuda")


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
