"""NPRF: what the paper promises of normalised features with relative positions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core import random_features
from attnjax.variants.linear import nprf
from attnjax.variants.linear.nprf.layer import bucket


def _arrays(B, T, N, H, E, M, D, seed=0):
  keys = jax.random.split(jax.random.key(seed), 5)
  shapes = ((B, T, N, H),) * 2 + ((B, T, N, E), (N, 2 * D - 1), (M, H))
  return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


def _close(got, want, tolerance=1e-5):
  np.testing.assert_allclose(got, want, atol=tolerance, rtol=tolerance)


_run = jax.jit(nprf.attend, static_argnames=("causal", "normalise", "impl"))


def _layer(form="causal", **options):
  options = {"max_distance": 6, "num_features": 5} | options
  layer = nprf.Layer(16, form=form, rngs=nnx.Rngs(0), **options)
  # Larger than at the start of training, for the differences to show.
  keys = iter(jax.random.split(jax.random.key(2), 9))
  return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), layer)


class AttendTest(parameterized.TestCase):
  def test_is_the_definition_by_loops(self):
    """A lag is key - query: the table has different sides."""
    q, k, v, bias, w = _arrays(1, 5, 1, 3, 2, 4, 3)
    got = nprf.reference(q, k, v, bias, w)
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    want = np.zeros((5, 2))
    for i in range(5):
      weights = np.zeros(5)
      for j in range(5):
        features = [
          np.exp(np.asarray(w) @ np.asarray(x) - 0.5) / 2
          for x in (q[0, i, 0], k[0, j, 0])
        ]
        lag = np.clip(j - i, -2, 2)
        weights[j] = np.exp(bias[0, lag + 2]) * features[0] @ features[1]
      want[i] = weights @ np.asarray(v[0, :, 0]) / weights.sum()
    _close(got[0, :, 0], want)

  def test_many_features_are_softmax_attention(self):
    """jax.nn's, on unit vectors with the bias; the error falls as M^-1/2."""
    q, k, v, bias, _ = _arrays(1, 33, 2, 8, 8, 1, 33)
    units = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    lags = np.arange(33)[None, :] - np.arange(33)[:, None]
    scores = bias[None, :, lags + 32]
    want = jax.nn.dot_product_attention(*units, v, bias=scores, scale=1.0)

    @jax.jit
    def error(w):
      z = nprf.attend(q, k, v, bias, w, impl="chunked")
      return jnp.sqrt(jnp.mean((z - want) ** 2))

    errors = []
    for M in (64, 4096):
      keys = jax.random.split(jax.random.key(M), 4)
      draws = [random_features.draw(key, M, 8, orthogonal=False) for key in keys]
      errors.append(np.mean([error(w) for w in draws]))
    self.assertLess(errors[1], 0.03)
    self.assertBetween(errors[0] / errors[1], 4, 16)  # 8 of 64 times as many

  def test_a_constant_of_the_bias_cancels(self):
    q, k, v, bias, w = _arrays(1, 9, 2, 4, 3, 6, 9)
    run = jax.jit(lambda bias: nprf.attend(q, k, v, bias, w, causal=True, impl="xla"))
    _close(run(bias + 30), run(bias), 1e-4)

  def test_without_bias_it_is_linear_attention(self):
    q, k, v, _, _ = _arrays(2, 20, 2, 4, 3, 6, 9)
    phi_q, phi_k = jax.nn.elu(q / 2**0.5) + 1, jax.nn.elu(k / 2**0.5) + 1
    state = jnp.einsum("bsnh,bsne->bnhe", phi_k, v)
    want = jnp.einsum("btnh,bnhe->btne", phi_q, state)
    want /= jnp.einsum("btnh,bsnh->btn", phi_q, phi_k)[..., None]
    _close(nprf.reference(q, k, v, feature_map="elu", normalise=False), want)

  @parameterized.parameters("positive", "trigonometric")
  def test_lengths_matter_only_without_normalisation(self, features):
    q, k, v, bias, w = _arrays(1, 9, 2, 4, 3, 6, 9)
    run = jax.jit(nprf.attend, static_argnames=("feature_map", "normalise"))
    once = run(q, k, v, bias, w, feature_map=features)
    _close(run(3 * q, 0.1 * k, v, bias, w, feature_map=features), once, 1e-4)
    apart = [run(x, k, v, bias, w, normalise=False) for x in (q, 3 * q)]
    self.assertGreater(float(abs(apart[0] - apart[1]).max()), 1e-2)

  def test_huge_keys_do_not_overflow(self):
    q, k, v, bias, w = _arrays(1, 9, 2, 4, 3, 6, 9)
    z = nprf.attend(30 * q, 30 * k, v, bias, w, normalise=False)
    self.assertTrue(jnp.isfinite(z).all())

  def test_zero_vectors_have_finite_gradients(self):
    q, k, v, bias, w = _arrays(1, 5, 1, 4, 3, 6, 5)
    gradient = jax.grad(lambda q: nprf.attend(q, k, v, bias, w).sum())(0 * q)
    self.assertTrue(jnp.isfinite(gradient).all())

  def test_padding_is_exact(self):
    q, k, v, bias, w = _arrays(1, 12, 2, 4, 3, 6, 12)
    real = (jnp.arange(12) >= 2) & (jnp.arange(12) < 9)
    hidden = (jnp.where(real[:, None, None], x, 7.0) for x in (q, k, v))
    run = jax.jit(functools.partial(nprf.attend, impl="xla"))
    got = run(*hidden, bias, w, valid=real[None])
    want = run(*(x[:, 2:9] for x in (q, k, v)), bias[:, 5:-5], w)
    _close(got[:, 2:9], want, 1e-4)
    _close(got[:, ~real], jnp.zeros((1, 5, 2, 3)), 0)

  def test_positions_of_packed_documents(self):
    q, k, v, bias, w = _arrays(1, 150, 1, 4, 3, 6, 9)
    ids = jnp.array([[1] * 100 + [4] * 50])
    restarted = jnp.concatenate([jnp.arange(100), jnp.arange(50)])
    run = jax.jit(nprf.attend, static_argnames=("causal", "impl"))
    options = {"segment_ids": ids, "causal": True, "impl": "chunked"}
    got = run(q, k, v, bias, w, **options)
    _close(run(q, k, v, bias, w, **options, positions=restarted), got, 1e-4)
    spaced = run(q, k, v, bias, w, **options, positions=3 * restarted)
    self.assertGreater(float(abs(spaced - got).max()), 1e-2)
    options["impl"] = "reference"
    _close(spaced, run(q, k, v, bias, w, **options, positions=3 * restarted), 1e-4)
    alone = run(*(x[:, 100:] for x in (q, k, v)), bias, w, causal=True)
    _close(got[:, 100:], alone, 1e-4)

  def test_errors(self):
    q, k, v, bias, w = _arrays(1, 5, 2, 4, 3, 6, 5)
    for arguments, options, message in (
      ((q, k, v, bias), {}, "feature_map 'positive' needs w"),
      ((q, k, v, bias[:, 1:], w), {}, r"bias \(2, 8\) must be \(N, 2 D - 1\)"),
      ((q, k, v, bias, jnp.ones((3, 6, 4))), {}, r"w \(3, 6, 4\) must be"),
      ((q, k, v, bias, w), {"feature_map": "cosine"}, "unknown feature_map 'cosine'"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        nprf.attend(*arguments, **options)
    with self.assertRaisesRegex(NotImplementedError, "impl 'xla' takes no segment_ids"):
      nprf.attend(q, k, v, bias, w, segment_ids=jnp.zeros((1, 5), int), impl="xla")


def _truth(q, k, v, bias, w, causal, normalise):
  """The definition in float64, by logarithms; of one batch entry and head."""
  q, k, v, w = (np.asarray(x, np.float64) for x in (q, k, v, w))
  if normalise:
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, k))
  else:
    q, k = (x / x.shape[1] ** 0.25 for x in (q, k))
  q, k = (x @ w.T - np.square(x).sum(1, keepdims=True) / 2 for x in (q, k))
  T, D = len(q), (len(bias) + 1) // 2
  lags = np.arange(T) - np.arange(T)[:, None]
  logs = np.logaddexp.reduce(q[:, None] + k, axis=2)
  logs += np.asarray(bias, np.float64)[np.clip(lags, 1 - D, D - 1) + D - 1]
  logs = np.where(causal & (lags > 0), -np.inf, logs)
  weight = np.exp(logs - logs.max(axis=1, keepdims=True))
  return weight @ v / weight.sum(axis=1, keepdims=True)


class NumbersTest(parameterized.TestCase):
  """Weights, keys and biases of any size, in every implementation."""

  def _problem(self, kind):
    q, k, v, bias, w = _arrays(1, 140, 1, 4, 3, 6, 9)
    normalise, bias = kind == "bias", 0.3 * bias
    match kind:
      case "bias":
        bias = bias.at[:, 2].set(16)
      case "long":
        q, k = 4 * q, 4 * k
      case "longest":
        q, k = 60 * q, 60 * k
      case "last":
        k = k.at[:, -1].multiply(40)
      case "short":
        q, k, normalise = 1e-20 * q, 1e12 * k, True
    return (q, k, v, bias, w), normalise

  @parameterized.product(
    kind=("bias", "long", "longest", "last", "short"),
    impl=nprf.IMPLEMENTATIONS,
  )
  def test_is_the_mean_of_the_definition(self, kind, impl):
    (q, k, v, bias, w), normalise = self._problem(kind)
    v = v.at[..., 0].set(1)
    for causal in (True, False) if impl == "xla" else (True,):
      z = _run(q, k, v, bias, w, causal=causal, normalise=normalise, impl=impl)
      rows = (x[0, :, 0] for x in (q, k, v))
      want = _truth(*rows, bias[0], w, causal, normalise)
      # What rounding leaves of exponents of some thousands.
      tolerance = {"longest": 3e-2, "long": 1e-3, "last": 1e-3}.get(kind, 1e-4)
      np.testing.assert_allclose(z[0, :, 0], want, rtol=0, atol=tolerance)
      np.testing.assert_allclose(z[..., 0], 1, rtol=2e-5)

  @parameterized.parameters(*nprf.IMPLEMENTATIONS)
  def test_no_later_key_changes_a_row(self, impl):
    q, k, v, bias, w = _arrays(1, 140, 1, 4, 3, 6, 9)
    options = {"causal": True, "normalise": False, "impl": impl}
    before = _run(q, k, v, bias, w, **options)
    k, v = k.at[:, -1].multiply(50), v.at[:, -1].set(1e10)
    after = _run(q, k, v, bias, w, **options)
    np.testing.assert_array_equal(before[:, :-1], after[:, :-1])

  @parameterized.parameters("positive", "trigonometric")
  def test_decodes_keys_of_any_size(self, features):
    q, k, v, bias, w = _arrays(1, 12, 1, 4, 3, 6, 3)
    k = k.at[:, 3].multiply(9).at[:, 8].multiply(4)
    v = v.at[..., 0].set(1)
    options = {"feature_map": features, "normalise": False}
    number = {"positive": 6, "trigonometric": 12}
    state = nprf.State.empty(1, 3, 1, 4, 3, number[features], jnp.float32)
    step = jax.jit(functools.partial(nprf.step, **options))
    want = nprf.reference(q, k, v, bias, w, causal=True, **options)
    for t in range(12):
      part = slice(t, t + 1)
      z, state = step(q[:, part], k[:, part], v[:, part], state, bias, w)
      np.testing.assert_allclose(z, want[:, part], rtol=1e-3, atol=1e-3)

  def test_gradients_of_long_keys(self):
    q, k, v, bias, w = _arrays(1, 140, 1, 4, 3, 6, 9)

    def gradient(impl):
      def loss(q, k, v, bias):
        z = nprf.attend(
          4 * q, 4 * k, v, bias, w, causal=True, normalise=False, impl=impl
        )
        return jnp.sin(z).sum()

      return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(q, k, v, bias)

    for got, want in zip(gradient("xla"), gradient("reference")):
      np.testing.assert_allclose(got, want, rtol=0, atol=2e-3 * abs(want).max())


class LayerTest(parameterized.TestCase):
  @parameterized.parameters(
    (1, {"rpe": "none", "kind": "trigonometric"}),
    (5, {"rpe": "bucket", "kind": "elu", "max_distance": 12, "buckets": 6}),
    (7, {"max_distance": 2, "normalise": False}),
  )
  def test_decodes_as_the_whole(self, chunk, options):
    layer, T = _layer(**options), 17
    x = jax.random.normal(jax.random.key(1), (3, T, 16))
    ids = jnp.array([[0] * T, [4] * 5 + [1] * 7 + [4] * 5, [2] * 9 + [3] * 8])
    valid = jnp.arange(T) >= jnp.array([[6], [0], [2]])
    valid = valid.at[1, 13:15].set(False)
    whole = jax.jit(lambda x, **more: layer(x, **more, index=1))(
      x, segment_ids=ids, valid=valid
    )
    step = jax.jit(lambda x, cache, **more: layer.step(x, cache, **more, index=1))
    cache, outs = layer.init_cache(3, T, x.dtype), []
    for t in range(0, T, chunk):
      part = slice(t, t + chunk)
      out, cache = step(
        x[:, part], cache, segment_ids=ids[:, part], valid=valid[:, part]
      )
      outs.append(out)
    _close(jnp.concatenate(outs, axis=1), whole, 1e-4)

  @parameterized.parameters("causal", "image")
  def test_weights_are_those_of_the_values(self, form):
    layer = _layer(form)
    shape = (1, 3, 4, 16) if form == "image" else (1, 12, 16)
    x = jax.random.normal(jax.random.key(1), shape)
    weights = jax.jit(contract.weights)(layer, x)
    _close(weights.sum(-1), jnp.ones((1, 4, 12)))
    value = layer.qkv.value(x).reshape(1, 12, 4, 4)
    z = jnp.einsum("bnts,bsne->btne", weights, value)
    whole = jax.jit(lambda x: layer(x))(x)
    _close(layer.out(z).reshape(shape), whole, 1e-4)

  def test_depth_and_seed_change_the_draws(self):
    x = jax.random.normal(jax.random.key(1), (1, 9, 16))
    layer, other = _layer(), _layer(seed=1)
    run = jax.jit(lambda layer, index: layer(x, index=index))
    first, again, deeper = run(layer, 0), run(layer, 0), run(layer, 1)
    np.testing.assert_array_equal(first, again)
    self.assertGreater(float(abs(first - deeper).max()), 1e-3)
    self.assertGreater(float(abs(first - run(other, 0)).max()), 1e-3)

  def test_buckets_are_those_of_t5(self):
    lags = np.array([-200, -20, -9, -8, -3, -1, 0, 1, 3, 8, 9, 20, 200])
    both = bucket(lags, 32, 128, causal=False)
    np.testing.assert_array_equal(both, [15, 10, 8, 8, 3, 1, 0, 17, 19, 24, 24, 26, 31])
    past = bucket(lags, 32, 128, causal=True)
    np.testing.assert_array_equal(past, [31, 17, 9, 8, 3, 1, 0, 0, 0, 0, 0, 0, 0])

  @parameterized.parameters(
    ({"rpe": "rotary"}, "unknown rpe 'rotary'"),
    ({"kind": "cosine"}, "unknown kind 'cosine'"),
    ({"form": "video"}, "unknown form 'video'"),
    ({"max_distance": 0}, "max_distance = 0 must be 1 or more"),
    ({"rpe": "bucket", "buckets": 1}, "buckets = 1: at least 2"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      nprf.Layer(16, **{"form": "causal"} | options, rngs=nnx.Rngs(0))

  def test_transforms_take_padding(self):
    """Padding is no document, which transforms refuse."""
    layer, x = _layer(impl="xla"), jax.random.normal(jax.random.key(1), (1, 9, 16))
    ids = jnp.array([[-1] * 2 + [0] * 7])
    run = jax.jit(lambda x, **more: layer(x, **more))
    _close(run(x, valid=ids >= 0)[:, 2:], run(x[:, 2:]), 1e-4)
    with self.assertRaisesRegex(NotImplementedError, "impl 'xla' takes no segment_ids"):
      layer(x, segment_ids=ids)

  def test_what_cannot_be_honoured_is_refused(self):
    with self.assertRaisesRegex(NotImplementedError, "form 'image' does not decode"):
      _layer("image").init_cache(1, 9)
    x, places = jnp.zeros((1, 3, 16)), jnp.arange(3)
    with self.assertRaisesRegex(NotImplementedError, "positions: rpe = 'none' tells"):
      _layer(rpe="none")(x, positions=places)
    layer = _layer()
    cache = layer.init_cache(1, 3)
    with self.assertRaisesRegex(NotImplementedError, "positions: a state keeps tokens"):
      layer.step(x, cache, positions=places)

  def test_a_state_is_of_the_last_document(self):
    layer, x = _layer(max_distance=3), jax.random.normal(jax.random.key(1), (1, 7, 16))
    empty = layer.init_cache(1, 9)
    step = jax.jit(lambda x, ids: layer.step(x, empty, segment_ids=ids)[1])
    cache = step(x, jnp.array([[5, 5, 5, 5, 2, -1, 2]]))
    np.testing.assert_array_equal(cache.segment_ids, [2])
    np.testing.assert_array_equal(cache.state.document, [[-1, 0]])
    # Of the document, token 4 alone is kept no longer.
    want = step(jnp.roll(x, -4, axis=1), jnp.array([[2] + [-1] * 6])).state
    _close(cache.state.sums, want.sums)
    _close(cache.state.peak, want.peak)


if __name__ == "__main__":
  absltest.main()
