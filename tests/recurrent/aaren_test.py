"""Aaren: what the paper and its layer promise."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core.recurrence.prefix import State
from attnjax.variants.recurrent import aaren
from attnjax.variants.softmax import dot_product


def _close(found, wanted, tolerance=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance),
    found,
    wanted,
  )


def _arrays(B, T, N, K, H, E):
  shapes = (N, H), (B, T, K, H), (B, T, K, E)
  keys = jax.random.split(jax.random.key(0), 3)
  return tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes))


@functools.cache
def _layer(form="causal", **options):
  layer = aaren.Layer(16, form=form, **options, rngs=nnx.Rngs(0))
  # Larger than at the start of training, for the differences to show.
  return jax.tree.map(lambda x: 10 * x + 0.1, layer)


_call = jax.jit(lambda layer, x, **context: layer(x, **context))
_attend = jax.jit(
  functools.partial(aaren.attend, return_state=True), static_argnames=("impl", "scale")
)


class AttendTest(parameterized.TestCase):
  def test_is_softmax_attention_with_one_query_in_every_row(self):
    query, k, v = _arrays(2, 33, 4, 2, 8, 8)
    cotangent = jax.random.normal(jax.random.key(1), (2, 33, 4, 8))

    def softmax(query, k, v):
      rows = jnp.broadcast_to(query, (2, 33, 4, 8))
      return jax.nn.dot_product_attention(rows, k, v, is_causal=True)

    def results(function, scale):
      def run(*x):
        out, pull = jax.vjp(lambda query, *x: function(scale * query, *x), *x)
        return out, pull(cotangent)

      return jax.jit(run)(query, k, v)

    for scale in (1, 30):  # scores to +-80 and more
      found, wanted = results(aaren.attend, scale), results(softmax, scale)
      # Relative to the largest: steep scores have fewer digits behind the point.
      for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * abs(y).max())

  def test_does_not_know_the_order_of_what_it_has_seen(self):
    query, k, v = _arrays(1, 20, 2, 2, 4, 4)
    order = jax.random.permutation(jax.random.key(1), 15)
    order = jnp.concatenate([order, jnp.arange(15, 20)])
    out, _ = _attend(query, k, v)
    mixed, _ = _attend(query, k[:, order], v[:, order])
    _close(mixed[:, 14:], out[:, 14:])
    self.assertGreater(abs(mixed[:, :14] - out[:, :14]).max(), 0.1)

  def test_of_equal_scores_is_the_running_mean(self):
    query, k, v = _arrays(1, 20, 2, 2, 4, 4)
    mean = jnp.cumsum(v, axis=1) / jnp.arange(1, 21)[:, None, None]
    _close(_attend(query, jnp.zeros_like(k), v)[0], mean)
    _close(_attend(query, k, v)[0][:, :1], v[:, :1])

  def test_states_hand_over_and_combine(self):
    query, k, v = _arrays(2, 20, 4, 2, 4, 3)
    out, state = _attend(query, k, v)
    head, first = _attend(query, k[:, :8], v[:, :8])
    tail, last = _attend(query, k[:, 8:], v[:, 8:], first)
    _close((jnp.concatenate([head, tail], axis=1), last), (out, state))
    _, second = _attend(query, k[:, 8:], v[:, 8:])
    _close(aaren.combine(first, second), state)
    _close(aaren.combine(second, first), state)

  def test_step_is_a_token_of_the_whole(self):
    query, k, v = _arrays(2, 6, 4, 2, 4, 3)
    out, last = _attend(query, k, v)
    state, step = State.empty((2, 4, 3)), jax.jit(aaren.step)
    for t in range(6):
      y, state = step(query, k[:, t], v[:, t], state)
      _close(y, out[:, t])
    _close(state, last)

  @parameterized.parameters("reference", "xla")
  def test_padding_is_as_if_not_there(self, impl):
    query, k, v = _arrays(1, 20, 2, 1, 4, 3)
    real = (jnp.arange(20) > 4) & (jnp.arange(20) % 7 > 0) & (jnp.arange(20) < 18)
    k, v = (jnp.where(real[:, None, None], x, jnp.nan) for x in (k, v))
    ids = jnp.array([[3] * 11 + [1] * 9])

    @jax.jit
    def run(query, k, v):
      def loss(query, k, v):
        options = {"segment_ids": ids, "valid": real[None], "impl": impl}
        out, state = aaren.attend(query, k, v, **options, return_state=True)
        return out.sum() + state.out.sum(), (out, state)

      return jax.grad(loss, (0, 1, 2), has_aux=True)(query, k, v)

    gradients, (out, last) = run(query, k, v)
    _close(out[:, ~real], jnp.zeros((1, int((~real).sum()), 2, 3)), 0)
    parts = [real & (ids[0] == i) for i in (3, 1)]
    alone = [aaren.reference(query, k[:, p], v[:, p], return_state=True) for p in parts]
    _close(out[:, real], jnp.concatenate([y for y, _ in alone], axis=1))
    _close(last, alone[-1][1])
    for gradient in gradients:
      self.assertTrue(jnp.isfinite(gradient).all())

  def test_errors_name_the_argument(self):
    query, k, v = _arrays(1, 5, 4, 2, 4, 3)
    wrong: Any = (
      ((query[:3], k, v), "3 queries do not divide by 2 key/value heads"),
      ((query, k, v, State.empty((1, 2, 3))), r"initial.top \(1, 2\) must be"),
    )
    for arguments, message in wrong:
      with self.assertRaisesRegex(ValueError, message):
        aaren.attend(*arguments)


class LayerTest(parameterized.TestCase):
  @parameterized.product(chunk=(1, 5), kv_heads=(0, 2))
  def test_decodes_as_the_whole(self, chunk, kv_heads):
    layer, T = _layer(kv_heads=kv_heads), 10
    x = jax.random.normal(jax.random.key(1), (3, T, 16))
    ids = jnp.array([[0] * T, [4] * 3 + [1] * 4 + [4] * 3, [2] * 6 + [3] * 4])
    valid = jnp.arange(T) >= jnp.array([[6], [0], [2]])
    valid = valid.at[1, 8:].set(False)
    whole = _call(layer, x, segment_ids=ids, valid=valid)
    cache, outs = layer.init_cache(3, T, x.dtype), []
    step = jax.jit(lambda x, cache, **more: layer.step(x, cache, **more))
    for t in range(0, T, chunk):
      part = slice(t, t + chunk)
      out, cache = step(
        x[:, part], cache, segment_ids=ids[:, part], valid=valid[:, part]
      )
      outs.append(out)
    _close(jnp.concatenate(outs, axis=1), whole, 1e-4)
    np.testing.assert_array_equal(cache.segment_ids, [0, 4, 3])

  def test_has_one_vector_more_than_softmax_attention(self):
    def size(layer):
      return sum(x.size for x in jax.tree.leaves(layer))

    theirs = dot_product.Layer(
      16, form="causal", qkv_bias=True, out_bias=True, rngs=nnx.Rngs(0)
    )
    self.assertEqual(size(_layer()) - size(theirs), 16)

  @parameterized.parameters("causal", "sequence")
  def test_weights_are_those_of_the_values(self, form):
    layer = _layer(form, kv_heads=2)
    x = jax.random.normal(jax.random.key(1), (2, 7, 16))
    valid = jnp.arange(7) >= jnp.array([[3], [0]])
    weights = jax.jit(lambda: contract.weights(layer, x, valid=valid))()
    self.assertEqual((weights.shape, weights.dtype), ((2, 4, 7, 7), "float32"))
    total = {"causal": 1, "sequence": 2}[form]
    wanted = jnp.broadcast_to(total * valid[:, None], (2, 4, 7))
    _close(weights.sum(axis=-1), wanted.astype("float32"))
    v = jnp.repeat(layer.qkv.value(x), 2, axis=2)
    y = layer.out(jnp.einsum("bnts,bsne->btne", weights, v))
    _close(y, _call(layer, x, valid=valid), 1e-4)

  def test_both_directions_are_added(self):
    x = jax.random.normal(jax.random.key(1), (1, 7, 16))
    bare = {"qkv_bias": False, "out_bias": False}
    causal, both = _layer(**bare), _layer("sequence", **bare)
    ahead, back = _call(causal, x), _call(causal, x[:, ::-1])[:, ::-1]
    _close(_call(both, x), ahead + back, 1e-4)
    with self.assertRaisesRegex(NotImplementedError, "'sequence' does not decode"):
      both.init_cache(1, 7)

  @parameterized.parameters(
    ({"impl": "cuda"}, "unknown impl 'cuda'"),
    ({"form": "image"}, "unknown form 'image'"),
    ({"heads": 3}, "dim = 16 does not divide by heads = 3"),
    ({"kv_heads": 3}, "heads = 4 do not divide by kv_heads = 3"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      aaren.Layer(16, **{"form": "causal"} | options, rngs=nnx.Rngs(0))


if __name__ == "__main__":
  absltest.main()
