"""SALE: what is kept and dropped, by the paper's rules and by hand-computed numbers."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract, policies
from attnjax.contract import Heads, Tokens
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import sale
from attnjax.variants.sparse.sale import calibration

_SIZES = {"block_q": 8, "block_k": 4, "local": 8, "segment": 8}
_T, _N, _K, _H = 61, 4, 2, 8


@functools.cache
def _arrays(seed=0, batch=1):
  """Returns sharp queries and keys that share a large mean, and values."""
  draw = np.random.default_rng(seed).standard_normal
  q = 2 * draw((batch, _T, _N, _H)) + 3 * draw((_N, _H))
  k = 2 * draw((batch, _T, _K, _H)) + 3 * draw((_K, _H))
  v = draw((batch, _T, _K, _H))
  return tuple(jnp.asarray(x, jnp.float32) for x in (q, k, v))


@functools.partial(jax.jit, static_argnames="bits")
def _select(q, k, tau, bits=4):
  return sale.select(q, k, tau=tau, bits=bits, **_SIZES)


@jax.jit
def _attend(q, k, v, tau):
  return sale.attend(q, k, v, tau=tau, **_SIZES)


def _selected(tau, **options):
  q, k, _ = _arrays()
  return np.asarray(_select(q, k, jnp.full((_N,), tau), **options))


def _exact():
  """Returns (scaled scores, what is seen anyway, candidates), by NumPy."""
  q, k, _ = (np.asarray(x, np.float64)[0] for x in _arrays())
  score = np.einsum("tnh,snh->nts", q, np.repeat(k, _N // _K, axis=1)) / _H**0.5
  t = np.arange(_T)
  # Of each block of 8 queries, the last candidate among the blocks of 4 keys.
  last = np.array([0, 0, 2, 4, 6, 8, 10, 12])[t // 8][:, None]
  candidate = (t // 4 >= 1) & (t // 4 <= last)
  return score, ~candidate & (t <= t[:, None]), candidate


class SelectionTest(parameterized.TestCase):
  def test_sizes_of_the_paper(self):
    last = sale.Sizes().last(64 * 8, None)[0]
    # 2 I + 2 blocks of keys are reached, less the sink and four local ones, in fours.
    self.assertEqual(last.tolist(), [0, 0, 0, 0, 4, 4, 8, 8])
    last = sale.Sizes().last(64 * 8, jnp.array([64 * 6 + 33, 0]))
    self.assertEqual(last.tolist(), [[0, 0, 0, 0, 4, 4, 8, 0], [0] * 8])
    sizes = sale.Sizes(8, 4, 8, 8)
    self.assertEqual(sizes.last(61, None)[0].tolist(), [0, 0, 2, 4, 6, 8, 10, 12])

  def test_without_a_threshold_it_is_dense(self):
    q, k, v = _arrays()
    got = _attend(q, k, v, jnp.zeros(_N))
    want = dot_product.attend(q, k, v, causal=True)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

  def test_with_a_large_one_the_sink_and_the_local_window_are_left(self):
    q, k, v = _arrays()
    _, anyway, _ = _exact()
    got = _attend(q, k, v, jnp.full((_N,), 1e9))
    want = dot_product.attend(q, k, v, mask=jnp.asarray(anyway)[None, None])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

  def test_a_larger_threshold_keeps_less(self):
    maps = [_selected(tau=tau) for tau in (0.0, 0.02, 0.2, 2.0)]
    for more, less in zip(maps, maps[1:]):
      self.assertTrue((more | ~less).all())
      self.assertTrue((more & ~less).any())
    self.assertFalse(_selected(tau=0.0)[0, 0, 2, 6:].any())  # after the diagonal

  @parameterized.parameters(0.02, 0.2)
  def test_exact_scores_drop_small_weights_alone(self, tau):
    score, anyway, candidate = _exact()
    mass = np.where(anyway, np.exp(score), 0).sum(-1, keepdims=True)
    share = np.where(candidate, np.exp(score) / mass, 0)
    padded = np.pad(share, ((0, 0), (0, 3), (0, 3)))
    most = padded.reshape(_N, 8, 8, 16, 4).max(axis=(2, 4))
    block = np.arange(16)
    within = (block >= 1) & (block <= np.array([0, 0, 2, 4, 6, 8, 10, 12])[:, None])
    got = _selected(tau=tau, bits=32)[0]
    np.testing.assert_array_equal(got[:, within], (most > tau)[:, within])
    q, k, _ = _arrays()
    defined = sale.reference_select(q, k, tau=tau, bits=32, **_SIZES)[0]
    np.testing.assert_array_equal(defined[:, within], got[:, within])
    self.assertTrue(0.1 < got[:, within].mean() < 0.9)
    # What a row loses is at most tau for each key that is dropped.
    weight = np.where(anyway | candidate, np.exp(score), 0)
    weight /= weight.sum(-1, keepdims=True)
    at = np.arange(_T)
    dropped = candidate & ~got[:, at // 8][..., at // 4]
    lost = (weight * dropped).sum(-1)
    self.assertTrue((lost <= tau * dropped.sum(-1)).all())

  def test_a_constant_of_all_keys_changes_nothing(self):
    q, k, v = _arrays()
    moved, tau = (
      k + 5 * jax.random.normal(jax.random.key(0), (_K, _H)),
      jnp.full(4, 0.1),
    )
    got, want = _attend(q, moved, v, tau), _attend(q, k, v, tau)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(_select(q, moved, tau), _selected(0.1))

  def test_heads_are_apart(self):
    q, k, _ = _arrays()
    tau = jnp.array([0.0, 0.01, 0.1, 1.0])
    found = _select(q, k, tau)
    order = jnp.array([2, 3, 0, 1])
    moved = _select(q[:, :, order], k[:, :, ::-1], tau[order])
    np.testing.assert_array_equal(moved, found[:, order])
    for n in range(4):
      alone = _selected(float(tau[n]))[:, n]
      np.testing.assert_array_equal(found[:, n], alone)

  @parameterized.parameters(*sale.GRANULARITIES)
  def test_estimates_err_by_the_bound_of_rounding(self, granularity):
    rounded = granularity == "group"

    @jax.jit
    def found(q, k):
      codes = sale.quantize(q, k, granularity=granularity)
      # Blocks of one query and one key hold the estimated scores themselves.
      sizes, least = sale.Sizes(1, 1, 1, 1), jnp.zeros((1, _T, _N))
      rough = sale.excesses(codes, least, sizes, rounded=rounded)
      return rough[0], codes.q_scale[0], codes.k_scale[0]

    q, k, _ = _arrays()
    rough, one, two = map(np.asarray, found(q, k))
    q, k = (np.asarray(x[0] - x[0].mean(axis=0), np.float64) for x in (q, k))
    k, two = np.repeat(k, 2, axis=1), np.repeat(two, 2, axis=1)
    mean = np.asarray(_arrays()[0][0], np.float64).mean(axis=0)
    exact = np.einsum("tnh,snh->nts", q + mean, k)
    one, two = one.T[:, :, None], two.T[:, None]
    q_sum, k_sum = (np.abs(x).sum(axis=2).T for x in (q, k))
    bound = one / 2 * k_sum[:, None] + two / 2 * q_sum[:, :, None]
    bound += (_H / 4 + rounded / 2) * one * two
    error, parts = np.abs(rough - exact), rough / (one * two)
    whole = np.abs(parts - np.round(parts)).max() < 1e-3
    self.assertEqual(bool(whole), rounded)
    self.assertTrue((error <= bound * (1 + 1e-4) + 1e-4).all())
    self.assertGreater((error / bound).max(), 0.2)
    self.assertLess((error / bound).mean(), 0.3)


class QuantizerTest(parameterized.TestCase):
  def test_by_hand(self):
    # The mean is 0; the largest of a token becomes 7, halves go to the even code.
    x = jnp.array(
      [[7.0, 2.5, -3.5, 0.4], [-14.0, -5.0, 7.0, -0.8], [7, 2.5, -3.5, 0.4]]
    )
    codes = sale.quantize(x[None, :, None], x[None, :, None])
    want = [[7, 2, -4, 0], [-7, -2, 4, 0], [7, 2, -4, 0]]
    np.testing.assert_array_equal(codes.q[0, :, 0], want)
    np.testing.assert_allclose(codes.k_scale[0, :, 0], [1, 2, 1], rtol=1e-6)
    codes = sale.quantize(x[None, :, None], x[None, :, None], bits=8)
    np.testing.assert_array_equal(codes.q[0, 0, 0], [127, 45, -64, 7])

  def test_groups(self):
    size = jnp.arange(1.0, 41)[None, :, None, None] * jnp.array([1.0, -1.0])
    # Centered tokens of both signs keep their sizes.
    x = jnp.concatenate([size, -size], axis=0).reshape(1, 80, 1, 2)
    codes = sale.quantize(x, x, granularity="group", block_k=16)
    q, k = 7 * codes.q_scale[0, :, 0], 7 * codes.k_scale[0, :, 0]
    np.testing.assert_allclose(q[:10], [*range(9, 17), 9, 10], rtol=1e-6)
    np.testing.assert_allclose(q[16:19], [25, 26, 27], rtol=1e-6)
    np.testing.assert_allclose(k[:9], [10, 10, 12, 12, 14, 14, 16, 16, 10], rtol=1e-6)
    part = sale.quantize(x[:, :37], x[:, :37], granularity="group", block_k=16)
    np.testing.assert_array_equal(part.q.shape, (1, 37, 1, 2))

  def test_padding_and_zeros(self):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 1, 4)), jnp.float32)
    lengths = jnp.array([5, 0])
    codes = sale.quantize(x, x, lengths=lengths)
    alone = sale.quantize(x[:1, :5], x[:1, :5])
    np.testing.assert_array_equal(codes.q[:1, :5], alone.q)
    np.testing.assert_allclose(codes.bias[:1, :5], alone.bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(codes.q[:1, 5:], 0)
    np.testing.assert_array_equal(codes.k_scale[1], 0)
    zero = sale.quantize(x * 0, x * 0, granularity="group")
    for array in jax.tree.leaves(zero):
      np.testing.assert_array_equal(array, 0)

  def test_packing(self):
    codes = jnp.array([[-7, 7, 0, -1], [3, -4, 5, 6]], jnp.int8)
    packed = sale.pack(codes)
    np.testing.assert_array_equal(packed, [[0x97, 0x0F], [0x3C, 0x56]])
    np.testing.assert_array_equal(sale.unpack(packed), codes)
    with self.assertRaisesRegex(ValueError, "3 channels"):
      sale.pack(codes[:, :3])


class CalibrationTest(absltest.TestCase):
  def test_halves_until_the_error_is_small(self):
    q, k, v = _arrays(1, 2)
    dense = dot_product.attend(q, k, v, causal=True)

    def errors(tau, b):
      got = _attend(q[b:][:1], k[b:][:1], v[b:][:1], tau)
      return np.abs(got - dense[b:][:1]).sum(axis=(0, 1, 3)) / _T

    first, theta, want = 0.5, 0.025, []
    tau = np.full(_N, first, np.float32)
    for b in range(2):
      while ((errors(jnp.asarray(tau), b) >= theta) & (tau > 0)).any():
        tau = np.where((errors(jnp.asarray(tau), b) >= theta) & (tau > 0), tau / 2, tau)
        tau = np.where(tau <= 1e-4, 0, tau).astype(np.float32)
      want.append(tau)
    run = jax.jit(functools.partial(sale.calibrate, **_SIZES))
    got = run(q, k, v, theta=theta, first=first)
    np.testing.assert_allclose(got, want[1], rtol=1e-6)
    self.assertGreater(len(set(got.tolist())), 1)
    self.assertTrue((want[0] != want[1]).any())
    self.assertEqual(want[0].tolist(), [0.5, 0.125, 0.25, 0.125])
    np.testing.assert_array_equal(run(q, k, v, theta=1e9, first=0.5), 0.5)
    # Half of the last one is less than 1e-4.
    got = run(2 * q, k, 1e3 * v, theta=6e-4, first=1.5e-4)
    self.assertEqual(set(got.tolist()), {0.0})
    with self.assertRaisesRegex(ValueError, "theta = 0"):
      sale.calibrate(q, k, v, theta=0)

  def test_defaults_are_the_papers(self):
    policy = sale.Policy()
    sizes = policy.block_q, policy.block_k, policy.local, policy.segment
    self.assertEqual(sizes, (64, 32, 128, 128))
    self.assertEqual((policy.tau, policy.bits, policy.dense_length), (0.004, 4, 1024))

  def test_density(self):
    chosen = jnp.asarray(_selected(0.0))
    sizes = sale.Sizes(**_SIZES)
    np.testing.assert_array_equal(sale.density(chosen, sizes), 1)
    chosen = chosen.at[:, 1, 4, :10].set(False)
    want = [1, 1 - 10 / (2 * 36), 1, 1]
    np.testing.assert_allclose(sale.density(chosen, sizes)[0], want, rtol=1e-6)


class PolicyTest(parameterized.TestCase):
  def test_a_layer_sees_what_is_selected(self):
    tau = (0.0, 0.05, 0.2, 0.8)
    policy = sale.Policy((tau,), **_SIZES, dense_length=0)
    made = contract.load("dot_product").Layer

    @jax.jit
    def run(x):
      layer = made(16, form="causal", heads=4, kv_heads=2, rngs=nnx.Rngs(0))
      cache = policies.under(policy, layer.init_cache(2, 40))
      heads = layer.project(x)
      out = _attend(heads.q, heads.k, heads.v, jnp.array(tau))
      return layer.step(x, cache)[0], layer.merge(out, heads), layer(x)

    draw = np.random.default_rng(2).standard_normal
    got, want, dense = run(4 * draw((2, 40, 16)).astype(np.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    self.assertGreater(jnp.abs(got - dense).max(), 1e-3)

  def test_layers_have_thresholds_of_their_own(self):
    q, k, _ = _arrays()
    policy = sale.Policy(((0.02,) * 4, (0.2,) * 4), **_SIZES, dense_length=0)
    prefill = jax.jit(lambda index: policy.prefill(q, k, jnp.array([_T]), index).map())
    for index, tau in ((0, 0.02), (1, 0.2)):
      np.testing.assert_array_equal(prefill(index), _selected(tau))

  def test_short_prompts_and_first_layers_are_dense(self):
    q, k, _ = _arrays()
    policy = sale.Policy(9.0, **_SIZES, dense_length=30, dense_layers=2)

    @jax.jit
    def missing(count, index):
      chosen = policy.prefill(q, k, jnp.array([count]), index).map()
      sizes = policy.sizes
      every = sizes.anyway(_T, jnp.array([count]))
      return (~chosen & (every | sizes.candidates(_T, jnp.array([count])))).sum()

    self.assertEqual([missing(30, 2), missing(31, 1), missing(31, 0)], [0, 0, 0])
    self.assertGreater(missing(31, 2), 0)

  @parameterized.parameters(
    ({"block_q": 6}, "block_q = 6.*multiples of block_k"),
    ({"local": 32}, "local = 32.*block_q at least"),
    ({"segment": 0}, "segment = 0.*at least 1"),
    ({"bits": 9}, "bits = 9"),
    ({"granularity": "head"}, "granularity 'head'"),
    ({"tau": -0.1}, "tau = -0.1"),
    ({"dense_layers": -1}, "dense_layers = -1"),
    ({"granularity": "group", "block_k": 4, "segment": 4}, "block_k = 4.*of 8"),
  )
  def test_policies_that_do_not_fit(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      sale.Policy(**options)

  def test_tables_that_do_not_fit(self):
    policy = sale.Policy(((0.1, 0.2), (0.1, 0.2)))
    with self.assertRaisesRegex(ValueError, "tau of 2 layers for a model of 3"):
      policy.fitted(3)
    q, k, _ = _arrays()
    with self.assertRaisesRegex(ValueError, "tau of 2 heads for a layer of 4"):
      policy.prefill(q, k, jnp.array([_T]), 0)

  def test_thresholds_of_a_model(self):
    def found(q, k, v, *, theta, **options):
      del k, v, options
      return theta * q[0, 0, :, 0]

    heads = [Heads(*_arrays(seed), Tokens(None)) for seed in (0, 1)]
    with mock.patch.object(calibration, "calibrate", found):
      table = sale.table(heads, theta=0.5, **_SIZES)
    np.testing.assert_allclose(table, [one.q[0, 0, :, 0] / 2 for one in heads])
    self.assertEqual(hash(sale.Policy(((0.1,),))), hash(sale.Policy(((0.1,),))))


if __name__ == "__main__":
  absltest.main()
