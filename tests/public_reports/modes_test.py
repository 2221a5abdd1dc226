"""Reports of JAX's modes: 64 bits, ranks, leaks, infinities; and of empty axes."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

import attnjax
from attnjax import attention, masks
from attnjax.core.softmax import xla_dense
from tests.public_reports import arrays, attend, close, expected

T, N = 20, 2
_IDS = np.repeat([0, 1, -1], [9, 8, 3])[None]
_LISTS, _COUNT = np.zeros((1, 1, 2, 1), int), np.ones((1, 1, 2), int)
# Features that are traced together, of arrays in the type of a user's own.
FEATURES = {
  "seen": lambda bias, heads, left: {
    "is_causal": True,
    "local_window_size": (left, 9),
    "segment_ids": jnp.asarray(_IDS),
    "key_value_seq_lengths": jnp.array([T - 3]),
    "mask": (bias > 0).astype(bias.dtype),
    "sinks": heads,
    "bias": bias,
  },
  "algebra": lambda bias, heads, left: {
    "mask": masks.per_head([masks.Causal(left), masks.Chunked(4)])
    & masks.Blocks(jnp.asarray(_LISTS), jnp.asarray(_COUNT), 10, 10, T, T),
    "scale": heads.reshape(N, 1, 1),
    "softcap": heads[0],
    "query_positions": jnp.arange(T),
    "dropout_rate": 0.1,
    "dropout_rng": jax.random.key(0),
    "score": lambda s, b, n, q, k: s - heads[n] * jnp.abs(q - k),
  },
}
_MODES = {
  "ranks": lambda: jax.numpy_rank_promotion("raise"),
  "leaks": jax.checking_leaks,
  "wide": lambda: jax.enable_x64(True),
}


class ModeTest(parameterized.TestCase):
  """Each feature is traced with its gradient, which is where these modes complain."""

  @parameterized.parameters(
    (mode, features, size)
    for mode in sorted(_MODES)
    for features in sorted(FEATURES)
    for size in ("matrix", "tiles")
    if (mode, size) != ("leaks", "matrix")  # slow; the tiles trace the same and more
  )
  def test_features(self, mode, features, size):
    """google/flax#1534, PR#3571, keras-team/keras#19394, jax#7208; leaks of tracers."""
    with (
      mock.patch.object(
        xla_dense, "MATRIX", 0 if size == "tiles" else xla_dense.MATRIX
      ),
      _MODES[mode](),
    ):
      q, k, v = arrays(T)
      # Of the mode's own type: float64 where that is the default.
      own = jnp.ones((1, N, T, T), float), jnp.ones(N, float), jnp.array(2)

      def loss(q, bias, heads, left):
        options = FEATURES[features](bias, heads, left)
        out = attend(q, k, v, **options, impl="xla")
        self.assertEqual(out.dtype, jnp.float32)
        return jnp.sin(out).sum()

      found = jax.eval_shape(jax.jit(jax.grad(loss, (0, 1, 2))), q, *own)
      want = [x.dtype for x in (q, *own[:2])]
      self.assertEqual([x.dtype for x in found], want)

  def test_layers_with_ranks_apart(self):
    x = jnp.ones((1, 16, 32))
    with jax.numpy_rank_promotion("raise"):
      for system in (attnjax.dot_product, attnjax.gated_attention):
        layer = system.Layer(32, form="causal", rngs=nnx.Rngs(0))
        jax.eval_shape(lambda x, layer=layer: layer(x), x)

  def test_wide_values(self):
    """The README's ALiBi: slopes are float64 where that is the default."""
    with jax.enable_x64(True):
      slopes = 2.0 ** -jnp.arange(1, 3)
      q, k, v = arrays(T)
      far = abs(np.arange(T)[:, None] - np.arange(T))
      want = expected(q, k, v, bias=-np.asarray(slopes)[:, None, None] * far)
      for impl in ("reference", "xla"):
        got = attend(
          q, k, v, score=lambda s, b, n, q, k: s - slopes[n] * abs(q - k), impl=impl
        )
        self.assertEqual(got.dtype, jnp.float32)
        close(got, want)

  @parameterized.parameters(7, T)
  def test_infinities_of_masks_are_no_errors(self, length):
    """jax-ml/jax#37422."""
    q, k, v = arrays(length)
    seen = np.arange(length) <= length // 2
    with jax.debug_infs(True):
      got = attend(q, k, v, mask=jnp.asarray(seen)[None])
      gradient = jax.grad(lambda q: attend(q, k, v, mask=seen[None]).sum())(q)
    close(got, expected(q, k, v, seen))
    self.assertTrue(np.isfinite(gradient).all())

  def test_no_nan_on_the_way(self):
    """jax-ml/jax#5698, pytorch#41508, PR#196170: rows of -inf, finite gradients."""
    q, k, v = arrays(T)

    def loss(q, bias):
      options = {"is_causal": True, "softcap": 2.0, "key_value_seq_lengths": [5]}
      out = attend(q, k, v, bias, query_positions=-3, **options)
      return jnp.sin(out).sum()

    bias = jnp.zeros((1, 1, T, T)).at[0, 0, 7].set(-jnp.inf)
    with jax.debug_nans(True):
      found = jax.jit(jax.grad(loss, (0, 1)))(q, bias)
    for gradient in found:
      self.assertTrue(np.isfinite(gradient).all())
    self.assertEqual(float(abs(found[0][:, [0, 1, 2, 7]]).max()), 0)


class EmptyTest(parameterized.TestCase):
  """pytorch#165944, PR#174950, PR#195812, NVIDIA/cudnn-frontend#101."""

  @parameterized.parameters(
    ((0, 5, 6), "xla"), ((2, 0, 6), "auto"), ((2, 5, 0), "reference")
  )
  def test_nothing_to_attend(self, shape, impl):
    B, T, S = shape
    q, k, v = jnp.ones((B, T, 4, 8)), jnp.ones((B, S, 2, 8)), jnp.ones((B, S, 2, 3))
    options = {"is_causal": True, "key_value_seq_lengths": np.zeros(B, int)}
    options |= {"bias": jnp.zeros((1, 1, 1, S)), "segment_ids": jnp.zeros((B, T), int)}
    options |= {"kv_segment_ids": jnp.zeros((B, S), int), "impl": impl}
    for given in ({}, options):
      out, lse = attend(q, k, v, **given | {"impl": impl}, return_lse=True)
      self.assertEqual((out.shape, lse.shape), ((B, T, 4, 3), (B, T, 4)))
      self.assertFalse(out.any() or np.isfinite(lse).any())
    sinks = jnp.arange(4.0)
    out, lse = attention.attend(q, k, v, sinks=sinks, impl=impl)
    np.testing.assert_array_equal(lse, jnp.broadcast_to(sinks, lse.shape))
    gradient = jax.grad(lambda q: attend(q, k, v, impl=impl).sum())(q)
    self.assertEqual(gradient.shape, q.shape)

  def test_no_features_and_no_batch(self):
    q, k, v = arrays(5)
    close(attend(q[..., :0], k[..., :0], v), expected(q, k, v, scale=0.0))
    out, lse = attend(q, k, v[..., :0], return_lse=True, impl="reference")
    self.assertEqual(out.shape, (*q.shape[:3], 0))
    close(lse, attend(q, k, v, return_lse=True, impl="reference")[1])
    self.assertEqual(attend(q[0, :0], k[0], v[0]).shape, (0, 2, 8))
    none = jnp.ones((3, 0, 5, 2, 8))
    self.assertEqual(attend(none, none, none).shape, none.shape)


if __name__ == "__main__":
  absltest.main()
