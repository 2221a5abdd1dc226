"""`attnjax.dot_product_attention` as its users call it."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import logging

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

import attnjax
from attnjax import backends, masks
from attnjax.core import programs
from pallas_kernels import calling

B, T, N, K, H = 2, 40, 4, 2, 8
_KERNELS = ("pallas", "triton")


def _arrays(S=T, V=H):
  shapes = ((B, T, N, H), (B, S, K, H), (B, S, K, V))
  keys = jax.random.split(jax.random.key(1), 3)
  return tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes))


def _user_script(attend):
  """Ten lines of a user: padding, causal, grouped heads, a window and a bias."""
  q, k, v = _arrays()
  lengths = jnp.array([T, 25])
  bias = 0.1 * jax.random.normal(jax.random.key(2), (1, N, T, T))

  def loss(q, k, v, bias):
    out = attend(
      q,
      k,
      v,
      bias,
      is_causal=True,
      local_window_size=(12, 0),
      query_seq_lengths=lengths,
      key_value_seq_lengths=lengths,
    )
    return jnp.sum(jnp.sin(out))

  return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(q, k, v, bias)


class UserTest(parameterized.TestCase):
  def test_replaces_jax_nn_in_a_script(self):
    got = _user_script(attnjax.dot_product_attention)
    want = _user_script(jax.nn.dot_product_attention)
    jax.tree.map(_close, got, want)

  @parameterized.parameters(None, "tnh")
  def test_takes_what_jax_nn_takes(self, layout):
    q, k, v = _arrays()
    if layout == "tnh":
      q, k, v = q[0], k[0], v[0]
    mask = jax.random.bernoulli(jax.random.key(0), 0.7, (1, N, T, T)).at[..., 0].set(1)
    for options in (
      {"mask": mask},
      {"scale": 0.3, "return_residual": True},
      {"local_window_size": 5, "implementation": "xla"},
    ):
      got = attnjax.dot_product_attention(q, k, v, **options)
      want = jax.nn.dot_product_attention(q, k, v, **options)
      jax.tree.map(_close, got, want)

  def test_any_number_of_batch_axes(self):
    q, k, v = (jnp.stack([x, 2 * x, -x]) for x in _arrays())
    out, lse = attnjax.dot_product_attention(q, k, v, return_lse=True)
    self.assertEqual((out.shape, lse.shape), ((3, B, T, N, H), (3, B, T, N)))
    _close(out[1], attnjax.dot_product_attention(q[1], k[1], v[1]))

  def test_serves_flax_multi_head_attention(self):
    x = jax.random.normal(jax.random.key(0), (2, 10, 16))

    def layer(**options):
      return nnx.MultiHeadAttention(4, 16, decode=False, rngs=nnx.Rngs(0), **options)

    own = layer(attention_fn=attnjax.dot_product_attention)
    _close(own(x, is_causal=True), layer()(x, is_causal=True))
    mask = nnx.make_causal_mask(jnp.ones((2, 10))) > 0
    _close(own(x, mask=mask), layer()(x, mask=mask))
    own(x, is_causal=True, sow_weights=True)
    (weights,) = jax.tree.leaves(nnx.state(own, nnx.Intermediate))
    _close(weights.sum(-1), jnp.ones((2, 4, 10)))
    self.assertEqual(float(jnp.abs(jnp.triu(weights, 1)).max()), 0)
    dropped = layer(attention_fn=attnjax.dot_product_attention, dropout_rate=0.5)
    self.assertGreater(jnp.abs(dropped(x, deterministic=False) - own(x)).max(), 1e-2)
    _close(dropped(x, deterministic=True), own(x))

  def test_dropout_has_the_mean_of_no_dropout(self):
    q, k, _ = _arrays()
    v = jnp.ones((B, T, K, H))
    out = attnjax.dot_product_attention(
      q, k, v, dropout_rate=0.25, dropout_rng=jax.random.key(0)
    )
    self.assertAlmostEqual(float(out.mean()), 1, delta=0.02)
    self.assertGreater(float(out.std()), 0.05)
    other = attnjax.dot_product_attention(
      q, k, v, dropout_rate=0.25, dropout_rng=jax.random.key(1)
    )
    self.assertGreater(float(jnp.abs(out - other).max()), 0.05)

  def test_decoding_against_a_cache_is_the_whole(self):
    q, k, v = _arrays()
    whole = attnjax.dot_product_attention(q, k, v, is_causal=True, impl="reference")
    room = [jnp.pad(x, ((0, 0), (0, 9), (0, 0), (0, 0))) for x in (k, v)]
    for start, stop in ((0, 17), (17, 18), (18, 40)):
      got = attnjax.dot_product_attention(
        q[:, start:stop],
        *room,
        is_causal=True,
        query_positions=jnp.array(start),
        impl="xla",
      )
      _close(got, whole[:, start:stop])

  def test_split_keys_combine(self):
    q, k, v = _arrays()
    whole = attnjax.dot_product_attention(q, k, v, is_causal=True)
    parts = [
      attnjax.dot_product_attention(
        q, k[:, a:b], v[:, a:b], mask=masks.Causal(), key_positions=a, return_lse=True
      )
      for a, b in ((0, 13), (13, 40))
    ]
    out, _ = attnjax.combine(*zip(*parts))
    _close(out, whole)


class DerivativeTest(parameterized.TestCase):
  def test_xla_has_derivatives_of_any_order(self):
    q, k, v = (x[:1, :9, :2, :2] for x in _arrays())  # more than few

    def loss(impl):
      return lambda q: jnp.sin(
        attnjax.dot_product_attention(q, k, v, is_causal=True, softcap=2.0, impl=impl)
      ).sum()

    got, want = (jax.jit(jax.hessian(loss(i)))(q) for i in ("xla", "reference"))
    _close(got, want)

  @parameterized.parameters(*_KERNELS)
  def test_kernels_say_who_has_forward_derivatives(self, impl):
    q, k, v = _arrays()

    def run(q):
      return attnjax.dot_product_attention(q, k, v, impl=impl)

    with simulate.accelerators(detect_races=False):
      with self.assertRaisesRegex(NotImplementedError, f"{impl!r}.*'xla'"):
        jax.jvp(run, (q,), (q,))
      with self.assertRaisesRegex(NotImplementedError, f"{impl!r}.*'xla'"):
        jax.grad(lambda q: jax.grad(lambda q: run(q).sum())(q).sum())(q)

  @parameterized.parameters("xla", *_KERNELS)
  def test_two_runs_are_bit_equal(self, impl):
    arrays = _arrays()

    def loss(q, k, v):
      out = attnjax.dot_product_attention(
        q, k, v, is_causal=True, softcap=3.0, impl=impl
      )
      return jnp.sin(out).sum()

    with simulate.accelerators(detect_races=False):
      run = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
      jax.tree.map(np.testing.assert_array_equal, run(*arrays), run(*arrays))

  @parameterized.parameters("xla", *_KERNELS)
  def test_sinks_that_vmap_maps_over(self, impl):
    q, k, v = _arrays()
    sinks = jnp.arange(2.0 * N).reshape(2, N)

    def run(sinks, impl=impl):
      def loss(sinks):
        return jnp.sin(
          attnjax.dot_product_attention(q, k, v, sinks=sinks, impl=impl)
        ).sum()

      return jax.value_and_grad(loss)(sinks)

    with simulate.accelerators(detect_races=False):
      got = jax.jit(jax.vmap(run))(sinks)
    want = jax.vmap(lambda s: run(s, "reference"))(sinks)
    jax.tree.map(_close, got, want)


class TraceTest(parameterized.TestCase):
  """A user's score function, and the program made of it, are traced once a call.

  A gradient traces neither again: its passes take the same program. Nor does a mask of
  lists, which passes do not test where their schedules express it.
  """

  @parameterized.product(
    impl=("xla", *_KERNELS), gradient=(False, True), lists=(False, True)
  )
  def test_once_a_call(self, impl, gradient, lists):
    slopes, traced = jnp.ones(N), []
    index = jnp.zeros((B, 1, 1, 1), jnp.int32)
    count = jnp.ones((B, 1, 1), jnp.int32)
    blocks = masks.Blocks(index, count, 256, 256, 200, 200)

    def score(score, b, n, q, k):
      traced.append(n)
      return score - slopes[n] * jnp.abs(q - k)

    def loss(q):
      mask = masks.Causal() & blocks if lists else masks.Causal()
      options = {"mask": mask, "score": score, "impl": impl}
      return attnjax.dot_product_attention(q, q, q, **options).sum()

    q = jax.ShapeDtypeStruct((B, 200, N, H), jnp.float32)
    with (
      absltest.mock.patch.object(calling, "triton", _launched),
      absltest.mock.patch.object(programs, "program", wraps=programs.program) as made,
    ):
      jax.eval_shape(jax.grad(loss) if gradient else loss, q)
    self.assertLen(traced, 1)
    self.assertEqual(made.call_count, 1)


def _launched(*arguments, out_type, **options):
  del arguments, options
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out_type)


class MappedTest(parameterized.TestCase):
  @parameterized.parameters("xla", *_KERNELS)
  def test_values_alone_of_a_batch_of_one(self, impl):
    q, k, v = (x[:1, :9, :2] for x in _arrays())
    values = jnp.stack([v, 2 * v, -v])

    def run(values, impl=impl):
      def loss(v):
        out = attnjax.dot_product_attention(q, k, v, is_causal=True, impl=impl)
        return jnp.sin(out).sum()

      return jax.vmap(jax.value_and_grad(loss))(values)

    with simulate.accelerators(detect_races=False):
      got = jax.jit(run)(values)
    jax.tree.map(_close, got, run(values, "reference"))


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"impl": "fast"}, ValueError, "impl 'fast'.*reference"),
    ({"impl": "xla", "implementation": "cudnn"}, ValueError, "give one"),
    ({"implementation": "cudnn"}, ValueError, "impl 'cudnn'"),
    ({"mask": jnp.full((1, 1, T, T), -1e9)}, ValueError, "float32.*below 0.*bias"),
    ({"mask": jnp.ones((1, 1, T, 3), bool)}, ValueError, "does not broadcast"),
    ({"mask": masks.Dense(jnp.ones((7, T), bool))}, ValueError, r"\(1, 1, 7, 40\)"),
    ({"bias": jnp.ones((3, 1, T, T))}, ValueError, "bias.*does not broadcast"),
    ({"bias": jnp.ones((T, T), int)}, ValueError, "floating point"),
    ({"local_window_size": (-1, 0)}, ValueError, "left = -1"),
    ({"segment_ids": jnp.zeros((B, 3), int)}, ValueError, "segment_ids"),
    ({"key_value_seq_lengths": jnp.zeros((3,), int)}, ValueError, r"\(2,\)"),
    ({"query_positions": jnp.zeros((B, 3), int)}, ValueError, "query_positions"),
    ({"softcap": -1.0}, ValueError, "softcap = -1"),
    ({"sinks": jnp.zeros(3)}, ValueError, r"sinks \(3,\)"),
    ({"dropout_rate": 0.1}, ValueError, "dropout_rng"),
    (
      {"dropout_rate": 1.0, "dropout_rng": jax.random.key(0)},
      ValueError,
      r"dropout_rate = 1.0",
    ),
    ({"score": lambda s, b, n, q, k: jnp.stack([s, s])}, ValueError, "one scalar"),
    (
      {"score": lambda s, b, n, q, k: jnp.sort(jnp.stack([s, s]))[0]},
      NotImplementedError,
      "'stack'|'concatenate'|'sort'",
    ),
    ({"precision": "highest", "impl": "pallas"}, NotImplementedError, "precision"),
  )
  def test_bad_input(self, options, error, message):
    with self.assertRaisesRegex(error, message):
      attnjax.dot_product_attention(*_arrays(), **options)

  def test_shapes(self):
    q, k, v = _arrays()
    with self.assertRaisesRegex(ValueError, "k .* and v .* differ"):
      attnjax.dot_product_attention(q, k, v[:, 1:])
    with self.assertRaisesRegex(ValueError, "3 query heads"):
      attnjax.dot_product_attention(q[:, :, :3], k, v)

  def test_triton_names_the_operation_it_cannot_do(self):
    with self.assertRaisesRegex(NotImplementedError, "lgamma"):
      attnjax.dot_product_attention(
        *_arrays(), score=lambda s, b, n, q, k: jax.lax.lgamma(s), impl="triton"
      )

  def test_auto_says_once_why_it_fell_back(self):
    backends.say_once.cache_clear()
    with self.assertLogs("attnjax.backends", logging.WARNING) as logs:
      backends.say_once("impl 'auto' takes 'xla'")
      backends.say_once("impl 'auto' takes 'xla'")
    self.assertLen(logs.output, 1)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
