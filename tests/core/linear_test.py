"""Chunked linear attention: its definition, chunk lengths, decays that vary."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core.recurrence import linear
from tests.decayed_linear import recurrence


def _arrays(B, T, N, K, H, E, dtype="float32"):
  shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, E), (B, T, N), (B, N, H, E))
  keys = jax.random.split(jax.random.key(0), len(shapes))
  q, k, v, g, state = (jax.random.normal(a, s, dtype) for a, s in zip(keys, shapes))
  return q, k, v, -jax.nn.softplus(g), state


def _close(found, wanted, tolerance=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance),
    found,
    wanted,
  )


class LinearTest(parameterized.TestCase):
  @parameterized.product(chunk=(1, 7, 64, 100), packed=(False, True))
  def test_no_result_depends_on_the_chunk(self, chunk, packed):
    *arrays, state = _arrays(2, 100, 4, 2, 3, 5)
    ids = None
    if packed:
      ids = jnp.array([[3] * 20 + [1] * 70 + [3] * 10, [0, 1] * 5 + [2] * 90])

    def loss(function, **more):
      def run(arrays, state):
        out, last = function(
          *arrays, initial_state=state, segment_ids=ids, scale=0.5, **more
        )
        return (jnp.sin(out)).sum() + (jnp.cos(last)).sum(), (out, last)

      return jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(arrays, state)

    (_, results), gradients = loss(linear.chunked, chunk=chunk)
    (_, wanted), wanted_gradients = loss(linear.recurrent)
    _close(results, wanted)
    _close(gradients, wanted_gradients, 1e-4)

  @parameterized.parameters(1, 2, 63, 65)
  def test_any_length_without_decay(self, T):
    q, k, v, _, _ = _arrays(1, T, 2, 1, 3, 5)
    seen = jnp.tril(jnp.ones((T, T)))
    k_all, v_all = (jnp.repeat(x, 2, axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k_all) * seen
    out, state = linear.chunked(q, k, v)
    _close(out, jnp.einsum("bnts,bsne->btne", scores, v_all), 1e-4)
    _close(state, jnp.einsum("btnh,btne->bnhe", k_all, v_all), 1e-4)

  def test_steep_decays_neither_overflow_nor_lose_their_gradient(self):
    q, k, v, _, state = _arrays(1, 300, 1, 1, 4, 4)

    def run(rate):
      g = jnp.full((1, 300, 1), -rate)
      return linear.chunked(q, k, v, g, initial_state=state, chunk=300)

    for rate in (1.0, 50.0, 1e4):
      _close(
        run(rate),
        linear.recurrent(q, k, v, jnp.full((1, 300, 1), -rate), initial_state=state),
        1e-4,
      )
      slope = jax.grad(lambda r: jnp.abs(run(r)[0]).sum())(rate)
      self.assertTrue(jnp.isfinite(slope), slope)

  @parameterized.parameters(linear.chunked, linear.recurrent)
  def test_a_reset_hides_no_decay(self, function):
    recurrence.check(function, *recurrence.hard(70, N=2))

  def test_resets_in_float64(self):
    arrays, cotangents = recurrence.hard(70)
    with jax.enable_x64(True):
      arrays, cotangents = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x, np.float64)), (arrays, cotangents)
      )
      recurrence.check(linear.chunked, arrays, cotangents, 1e-12)

  @parameterized.parameters((0, 5), (2, 0))
  def test_of_nothing(self, B, T):
    q, k, v, g, state = _arrays(B, T, 2, 1, 3, 5)
    for function in (linear.chunked, linear.recurrent):
      out, last = function(q, k, v, g, initial_state=state)
      self.assertEqual(out.shape, (B, T, 2, 5))
      _close(last, state, 0)

  def test_second_and_forward_derivatives(self):
    *arrays, state = _arrays(1, 9, 2, 2, 2, 2)

    def loss(function, **more):
      def run(g):
        out = function(*arrays[:3], g, initial_state=state, **more)[0]
        return (out**2).sum()

      return run

    chunked, wanted = loss(linear.chunked, chunk=4), loss(linear.recurrent)
    g = arrays[3]
    _close(jax.hessian(chunked)(g), jax.hessian(wanted)(g), 1e-3)
    _close(jax.jvp(chunked, (g,), (g,)), jax.jvp(wanted, (g,), (g,)), 1e-3)

  def test_memory_grows_with_the_length_not_its_square(self):
    def temporary(T):
      q, k, v, g, _ = _arrays(1, T, 1, 1, 8, 8)
      total = lambda *x: linear.chunked(*x)[0].sum()  # noqa: E731
      compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(q, k, v, g).compile()
      memory = compiled.memory_analysis()
      assert memory is not None
      return memory.temp_size_in_bytes

    self.assertLess(temporary(8192), 5 * temporary(2048))

  @parameterized.parameters(("bfloat16", "float32"), ("float32", "float32"))
  def test_the_state_is_wide(self, given, wanted):
    arrays = _arrays(1, 70, 2, 2, 4, 4, given)
    out, state = linear.chunked(*arrays[:4], initial_state=arrays[4])
    self.assertEqual((out.dtype, state.dtype), (given, wanted))
    whole = (x.astype("float32") for x in arrays)
    exact = linear.recurrent(*list(whole)[:4], initial_state=arrays[4])
    _close(state, exact[1], 1e-4)

  def test_step_is_a_chunk_of_one(self):
    q, k, v, g, state = _arrays(2, 1, 4, 2, 3, 5)
    out, new = linear.step(q[:, 0], k[:, 0], v[:, 0], state, g[:, 0], scale=0.3)
    wanted = linear.chunked(q, k, v, g, initial_state=state, scale=0.3)
    _close((out[:, None], new), wanted)

  def test_spans_fill_padding_in(self):
    ids = jnp.array([[-1, 4, -1, 4, 2, -1], [-1] * 6, [0, 0, 1, -1, -1, 0]])
    filled, real = linear.spans(ids)
    np.testing.assert_array_equal(
      filled, [[4, 4, 4, 4, 2, 2], [-1] * 6, [0, 0, 1, 1, 1, 0]]
    )
    np.testing.assert_array_equal(real, ids >= 0)

  @parameterized.parameters(False, True)
  def test_pieces_that_know_of_each_other_by_a_state(self, packed):
    *arrays, state = _arrays(2, 30, 4, 2, 3, 5)
    ids = None
    if packed:
      # In the first row a document begins within a piece, in the second at its start.
      ids = jnp.array([[3] * 14 + [1] * 16, [0] * 10 + [2] * 20])

    def whole(arrays, state):
      return linear.chunked(*arrays, initial_state=state, segment_ids=ids, scale=0.5)

    def in_pieces(arrays, state):
      pieces = []
      for first in range(0, 30, 10):
        part = slice(first, first + 10)
        q, k, v, g = (x[:, part] for x in arrays)
        own = None if ids is None else ids[:, part]
        before = None if ids is None else ids[:, max(first - 1, 0)]
        out, last = linear.chunked(q, k, v, g, segment_ids=own, scale=0.5)
        power = linear.inherited(q, g, segment_ids=own, before=before)
        pieces.append((q, out, power, linear.Transfer(power[:, -1], last)))
      transfers = jax.tree.map(lambda *x: jnp.stack(x), *(p[3] for p in pieces))
      upto = jax.lax.associative_scan(linear.combine, transfers)
      given = [state, *jax.vmap(lambda t: t(state))(upto)]
      outs = [
        out + linear.past(q, s, power, scale=0.5)
        for (q, out, power, _), s in zip(pieces, given)
      ]
      return jnp.concatenate(outs, axis=1), given[-1]

    def loss(function):
      def run(arrays, state):
        out, last = function(arrays, state)
        return jnp.sin(out).sum() + jnp.cos(last).sum(), (out, last)

      return jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(arrays, state)

    (_, results), gradients = loss(in_pieces)
    (_, wanted), wanted_gradients = loss(whole)
    _close(results, wanted)
    _close(gradients, wanted_gradients, 1e-4)

  def test_a_decay_for_all_tokens_or_heads(self):
    q, k, v, g, _ = _arrays(2, 9, 4, 2, 3, 5)
    for part in (g[:1, :1], g[:, :1, :1], g[:1, :, :1]):
      wanted = linear.recurrent(q, k, v, jnp.broadcast_to(part, g.shape))
      _close(linear.chunked(q, k, v, part, chunk=4), wanted)

  @parameterized.parameters(
    ({"q": (1, 4, 2)}, r"q has the shape \(1, 4, 2\)"),
    ({"k": (1, 5, 2, 3)}, r"k \(1, 5, 2, 3\) differs from q"),
    ({"v": (1, 4, 1, 3)}, r"v \(1, 4, 1, 3\) differs from k"),
    ({"q": (1, 4, 3, 3)}, "3 query heads do not divide by 2"),
    ({"slopes": (3,)}, r"slopes \(3,\)"),
    ({"initial_state": (1, 2, 3, 4)}, r"initial_state \(1, 2, 3, 4\) must be"),
  )
  def test_errors_name_the_argument(self, wrong, message):
    shapes = {"q": (1, 4, 2, 3), "k": (1, 4, 2, 3), "v": (1, 4, 2, 5)} | wrong
    arrays = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    with self.assertRaisesRegex(ValueError, message):
      linear.check(**arrays)


if __name__ == "__main__":
  absltest.main()
