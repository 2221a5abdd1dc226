"""Diagonal linear recurrences: the scan, the chunks and the tokens agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core.recurrence import diagonal, linear


def _close(found, wanted, tolerance=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance),
    found,
    wanted,
  )


_chunked = jax.jit(diagonal.chunked)
_recurrent = jax.jit(diagonal.recurrent)


def _arrays(B=2, T=37, N=2, H=3, E=4, dtype="float32"):
  shapes = {
    "v": (B, T, N, E),
    "log_decay": (B, T, N, 1, E),
    "write": (B, T, N, H, 1),
    "read": (1, T, 1, H, 1),
  }
  keys = jax.random.split(jax.random.key(0), len(shapes))
  drawn = {n: jax.random.normal(k, s, dtype) for k, (n, s) in zip(keys, shapes.items())}
  return drawn | {"log_decay": -abs(drawn["log_decay"])}


class ScanTest(parameterized.TestCase):
  @parameterized.parameters(((2, 19, 3), 1), ((19, 3), 0), ((2, 3, 19), -1))
  def test_is_the_loop(self, shape, axis):
    decay, added = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    products, states = jax.jit(diagonal.scan, static_argnames="axis")(
      decay, added, axis=axis
    )
    decay, added, products, states = (
      np.moveaxis(x, axis, 0) for x in (decay, added, products, states)
    )
    start = np.full(decay.shape[1:], 0.7)
    state, whole = start, np.ones_like(start)
    for t in range(19):
      state, whole = decay[t] * state + added[t], whole * decay[t]
      _close(products[t] * start + states[t], state, 1e-4)
      _close(products[t], whole, 1e-4)

  def test_the_decay_may_be_narrower(self):
    decay = jax.random.uniform(jax.random.key(0), (1, 9, 1))
    added = jax.random.normal(jax.random.key(1), (2, 9, 3))
    scan = jax.jit(diagonal.scan)
    products, states = scan(decay, added)
    self.assertEqual(products.shape, (1, 9, 1))
    wide = jnp.broadcast_to(decay, added.shape)
    _close(states, scan(wide, added)[1])


class ChunkedTest(parameterized.TestCase):
  @parameterized.product(chunk=(1, 8), packed=(False, True))
  def test_no_result_depends_on_the_chunk(self, chunk, packed):
    arrays, options = _arrays(), {"initial_state": jnp.ones((2, 2, 3, 4))}
    if packed:
      ids = jnp.array([[1] * 9 + [2] * 15 + [1] * 13, [0] * 36 + [4]])
      options["segment_ids"] = ids
    run = jax.jit(functools.partial(diagonal.chunked, chunk=chunk))
    found = run(**arrays, **options)
    _close(found, _recurrent(**arrays, **options), 1e-4)

  def test_documents_are_as_if_alone(self):
    arrays = _arrays(B=1)
    ids = jnp.array([[3] * 20 + [5] * 17])
    out, state = _chunked(**arrays, segment_ids=ids)
    parts = [
      _recurrent(**{n: x[:, a:b] for n, x in arrays.items()})
      for a, b in ((0, 20), (20, 37))
    ]
    _close(out, jnp.concatenate([y for y, _ in parts], axis=1))
    _close(state, parts[1][1])

  def test_a_decay_of_zero_has_finite_gradients(self):
    arrays = _arrays(B=1)
    arrays["log_decay"] = arrays["log_decay"].at[:, 5::7].set(-jnp.inf)

    def total(arrays):
      return sum(jnp.sum(jnp.sin(y)) for y in diagonal.chunked(**arrays))

    for gradient in jax.jit(jax.grad(total))(arrays).values():
      self.assertTrue(jnp.isfinite(gradient).all())

  def test_is_linear_attention_where_the_decay_is_of_heads(self):
    arrays = _arrays()
    decay = arrays["log_decay"][..., :1]
    q = jnp.broadcast_to(arrays["read"][..., 0], (2, 37, 2, 3))
    k = arrays["write"][..., 0]
    wanted = jax.jit(linear.recurrent)(q, k, arrays["v"], decay[..., 0, 0])
    _close(_chunked(**arrays | {"log_decay": decay}), wanted, 1e-4)

  def test_states_are_float32(self):
    arrays = _arrays(dtype="bfloat16")
    out, state = _chunked(**arrays)
    self.assertEqual((out.dtype, state.dtype), ("bfloat16", "float32"))
    exact = {n: x.astype("float32") for n, x in arrays.items()}
    _close(state, _recurrent(**exact)[1])

  def test_a_wrong_state_is_named(self):
    state = jnp.zeros((2, 2, 4, 4))
    with self.assertRaisesRegex(ValueError, r"initial_state \(2, 2, 4, 4\).*3, 4\)"):
      diagonal.initial(**_arrays(), state=state)


if __name__ == "__main__":
  absltest.main()
