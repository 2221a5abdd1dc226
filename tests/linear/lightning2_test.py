"""Lightning Attention-2: what the paper and its layers promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core.recurrence import linear
from attnjax.variants.linear import lightning2
from tests import precision

_MINIMAX = {"slope_kind": "minimax", "gate": "full", "norm": "rms"}


def _close(found, wanted, tolerance=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance),
    found,
    wanted,
  )


def _arrays(B, T, N, K, H, E):
  shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, E), (B, N, H, E))
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes))


def _layer(**options):
  layer = lightning2.Layer(16, layers=3, **options, rngs=nnx.Rngs(0))
  # Larger than at the start of training, for the differences to show.
  return jax.tree.map(lambda x: 10 * x if x.ndim > 1 else x + 0.1, layer)


class AttendTest(parameterized.TestCase):
  @parameterized.parameters("reference", "xla")
  def test_is_the_recurrence(self, impl):
    q, k, v, state = _arrays(2, 70, 4, 2, 3, 5)
    slopes = lightning2.slopes(4)
    found = lightning2.attend(
      q, k, v, slopes, initial_state=state, return_state=True, impl=impl
    )

    def body(state, token):
      q, k, v = token
      out, state = lightning2.step(q, k, v, state, slopes)
      return state, out

    tokens = tuple(x.swapaxes(0, 1) for x in (q, k, v))
    state, out = jax.lax.scan(body, state, tokens)
    _close(found, (out.swapaxes(0, 1), state), 1e-4)

  @parameterized.parameters("reference", "xla")
  def test_a_slope_of_infinity_keeps_nothing(self, impl):
    q, k, v, state = _arrays(1, 70, 2, 2, 3, 5)
    slopes = jnp.array([jnp.inf, 0.1])
    valid = jnp.arange(70) % 9 > 0

    def run(slopes, state):
      options = {"initial_state": state, "valid": valid[None]}
      return lightning2.attend(q, k, v, slopes, **options, impl=impl)

    out, pull = jax.vjp(run, slopes, state)
    own = jnp.einsum("bth,bth->bt", q[:, :, 0], k[:, :, 0])[..., None] * v[:, :, 0]
    _close(out[:, :, 0], jnp.where(valid[:, None], own, 0))
    _close(out[:, :, 1], run(jnp.array([0.5, 0.1]), state)[:, :, 1])
    by_slopes, by_state = pull(out)
    self.assertEqual(float(by_slopes[0]), 0)
    self.assertTrue(jnp.isfinite(by_slopes).all())
    _close(by_state[:, 0], jnp.zeros((1, 3, 5)), 0)

  @parameterized.parameters(1, 30, 64, 69)
  def test_the_state_hands_over(self, cut):
    q, k, v, state = _arrays(1, 70, 2, 2, 3, 5)
    slopes = lightning2.slopes(2)

    def run(part, state):
      q, k, v = part
      return lightning2.attend(q, k, v, slopes, initial_state=state, return_state=True)

    head, middle = run([x[:, :cut] for x in (q, k, v)], state)
    tail, last = run([x[:, cut:] for x in (q, k, v)], middle)
    _close((jnp.concatenate([head, tail], 1), last), run((q, k, v), state))

  def test_limits_of_the_decay(self):
    q, k, v, _ = _arrays(1, 70, 2, 2, 3, 5)
    own = jnp.einsum("btnh,btnh->btn", q, k)[..., None] * v
    _close(lightning2.attend(q, k, v, jnp.full(2, 1e4)), own)
    zero = lightning2.attend(q, k, v, jnp.zeros(2))
    _close(zero, lightning2.attend(q, k, v), 1e-4)
    _close(zero, linear.recurrent(q, k, v)[0], 1e-4)

  @parameterized.parameters("reference", "xla")
  def test_documents_are_apart(self, impl):
    q, k, v, state = _arrays(1, 90, 2, 1, 3, 5)
    slopes = lightning2.slopes(2)
    ids = jnp.array([[7] * 20 + [2] * 50 + [7] * 15 + [-1] * 5])
    out, last = lightning2.attend(
      q,
      k,
      v,
      slopes,
      initial_state=state,
      segment_ids=ids,
      return_state=True,
      impl=impl,
    )
    outs, end = [], state
    for a, b in ((0, 20), (20, 70), (70, 85)):
      alone = state if a == 0 else jnp.zeros_like(state)
      part = slice(a, b)
      y, end = linear.recurrent(
        q[:, part],
        k[:, part],
        v[:, part],
        jnp.broadcast_to(-slopes, (1, b - a, 2)),
        initial_state=alone,
      )
      outs.append(y)
    outs.append(jnp.zeros((1, 5, 2, 5)))
    _close((out, last), (jnp.concatenate(outs, axis=1), end), 1e-4)

  @parameterized.product(
    impl=("reference", "xla"), where=("left", "right", "inside", "all")
  )
  def test_padding_is_as_if_not_there(self, impl, where):
    q, k, v, state = _arrays(1, 80, 2, 1, 3, 5)
    slopes = lightning2.slopes(2)
    t = jnp.arange(80)
    inside = (t < 20) | (t > 66)
    real = {"left": t >= 11, "right": t < 69, "inside": inside, "all": t < 0}[where]
    q, k, v = (jnp.where(real[:, None, None], x, jnp.nan) for x in (q, k, v))

    @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def run(q, k, v):
      options = {"initial_state": state, "return_state": True, "impl": impl}
      out, last = lightning2.attend(q, k, v, slopes, valid=real[None], **options)
      return out.sum() + last.sum(), (out, last)

    gradients, (out, last) = jax.jit(run)(q, k, v)
    _close(out[:, ~real], jnp.zeros_like(out[:, ~real]), 0)
    decay = jnp.broadcast_to(-slopes, (1, int(real.sum()), 2))
    q, k, v = (x[:, real] for x in (q, k, v))
    wanted = state
    if where != "all":
      y, wanted = linear.recurrent(q, k, v, decay, initial_state=state)
      _close(out[:, real], y, 1e-4)
    _close(last, wanted, 1e-4)
    for gradient in gradients:
      self.assertTrue(jnp.isfinite(gradient).all())

  def test_bfloat16_is_computed_in_float32(self):
    q, k, v, _ = (x.astype("bfloat16") for x in _arrays(1, 300, 2, 2, 8, 8))
    wide = [x.astype("float32") for x in (q, k, v)]
    out, state = lightning2.attend(q, k, v, return_state=True)
    self.assertEqual((out.dtype, state.dtype), ("bfloat16", "float32"))
    want, plain = (lightning2.reference(*x) for x in (wide, (q, k, v)))
    self.assertLessEqual(precision.worst(out, want, plain), 1.0)


class SlopesTest(parameterized.TestCase):
  def test_heads_that_are_no_power_of_two(self):
    half = 2.0 ** -jnp.arange(1, 9)
    wanted = jnp.concatenate([half, 2.0 ** -jnp.array([0.5, 1.5, 2.5, 3.5])])
    _close(lightning2.slopes(12), wanted)
    _close(lightning2.slopes(8), half)
    _close(lightning2.slopes(1), [2.0**-8])
    wanted = 2 ** (-8 / 12 * jnp.arange(1, 13))
    _close(lightning2.slopes(12, "minimax"), wanted)
    _close(lightning2.slopes(12, "fla"), 8 / 12 * jnp.arange(12))
    _close(lightning2.slopes(12, "none", 1, 3), jnp.zeros(12))

  @parameterized.parameters(
    ("alibi", 1 - 3 / 4 + 1e-5),
    ("minimax", 1 - 3 / (4 + 1e-5) + 1e-5),
    ("fla", 1 - 3 / 5),
  )
  def test_layer_factor(self, kind, factor):
    base = lightning2.slopes(6, kind)
    _close(lightning2.slopes(6, kind, 3, 5), base * factor, 1e-6)
    traced = jax.jit(lambda index: lightning2.slopes(6, kind, index, 5))(3)
    _close(traced, base * factor, 1e-6)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "unknown slope_kind 'linear'"):
      lightning2.slopes(4, "linear")
    with self.assertRaisesRegex(ValueError, "index = 3 is not a layer of layers = 3"):
      lightning2.slopes(4, "alibi", 3, 3)


class LayerTest(parameterized.TestCase):
  @parameterized.product(
    options=({}, _MINIMAX, {"slope_kind": "fla"}), chunk=(1, 5, 17)
  )
  def test_decodes_as_the_whole(self, options, chunk):
    layer, T = _layer(**options), 17
    x = jax.random.normal(jax.random.key(1), (3, T, 16))
    ids = jnp.array([[0] * T, [4] * 5 + [1] * 7 + [4] * 5, [2] * 9 + [3] * 8])
    valid = jnp.arange(T) >= jnp.array([[6], [0], [2]])
    valid = valid.at[1, 13:15].set(False)
    whole = layer(x, segment_ids=ids, valid=valid, index=1)
    cache, outs = layer.init_cache(3, T, x.dtype), []
    step = jax.jit(lambda x, cache, **more: layer.step(x, cache, **more, index=1))
    for t in range(0, T, chunk):
      part = slice(t, t + chunk)
      out, cache = step(
        x[:, part], cache, segment_ids=ids[:, part], valid=valid[:, part]
      )
      outs.append(out)
    _close(jnp.concatenate(outs, axis=1), whole, 1e-4)
    np.testing.assert_array_equal(cache.segment_ids, [0, 4, 3])

  def test_depth_is_a_number_that_may_be_traced(self):
    layer = _layer()
    x = jax.random.normal(jax.random.key(1), (1, 9, 16))
    outs = jax.lax.map(lambda index: layer(x, index=index), jnp.arange(3))
    for index in range(3):
      _close(outs[index], layer(x, index=index))
    self.assertGreater(float(abs(outs[0] - outs[2]).max()), 1e-2)

  @parameterized.parameters({}, _MINIMAX, {"slope_kind": "fla"})
  def test_weights_are_the_decayed_scores(self, **options):
    layer = _layer(**options)
    x = jax.random.normal(jax.random.key(1), (2, 9, 16))
    valid = jnp.arange(9) >= jnp.array([[3], [0]])
    q, k, v = map(nnx.silu, layer.qkv(x, jnp.arange(9)))
    slopes = lightning2.slopes(4, options.get("slope_kind", "alibi"), 1, 3)
    t = jnp.arange(9)
    power = jnp.exp(-slopes[:, None, None] * (t[:, None] - t))
    seen = jnp.tril(valid[:, None, :] & valid[:, :, None])[:, None]
    scale = 0.5 if options.get("slope_kind") == "fla" else 1
    scores = scale * jnp.einsum("btnh,bsnh->bnts", q, k)
    weights = contract.weights(layer, x, valid=valid, index=1)
    self.assertEqual(weights.dtype, "float32")
    _close(weights, jnp.where(seen, scores * power, 0), 1e-4)

  @parameterized.parameters({}, _MINIMAX)
  def test_is_zero_at_the_padding(self, **options):
    x = jax.random.normal(jax.random.key(1), (1, 9, 16))
    valid = jnp.arange(9)[None] < 6
    layer = _layer(**options)
    y = layer(x, valid=valid)
    _close(y[:, 6:], jnp.zeros((1, 3, 16)), 0)
    _close(y[:, :6], layer(x[:, :6]), 1e-4)

  @parameterized.parameters(
    ({"slope_kind": "linear"}, "unknown slope_kind 'linear'"),
    ({"gate": "none"}, "unknown gate 'none'"),
    ({"norm": "batch"}, "unknown norm 'batch'"),
    ({"act": "tanh"}, "unknown act 'tanh'"),
    ({"impl": "cuda"}, "unknown impl 'cuda'"),
    ({"form": "image"}, "unknown form 'image'"),
    ({"heads": 3}, "dim = 16 does not divide by heads = 3"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      lightning2.Layer(16, **options, rngs=nnx.Rngs(0))

  def test_bfloat16(self):
    """Its parameters are float32, and so is all that it computes."""
    x = jax.random.normal(jax.random.key(1), (1, 9, 16)).astype("bfloat16")
    layer = _layer()
    y, want = layer(x, index=1), layer(x.astype("float32"), index=1)
    self.assertLessEqual(precision.worst(y, want, want), 1.0)


if __name__ == "__main__":
  absltest.main()
