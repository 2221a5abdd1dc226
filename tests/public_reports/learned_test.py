"""Reports of scales, caps and score functions: numbers that are learned or traced."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core.softmax import xla_dense
from tests.public_reports import arrays, attend, close, expected

T = 12
_SIZES = {"few": (4, None), "matrix": (T, None), "tiles": (T, 0)}


def _gradients(impl, T, loss, *given):
  """Gradients of loss(attend by impl, ...) by all that is given, compiled."""
  run = functools.partial(loss, functools.partial(attend, impl=impl), arrays(T))
  return jax.jit(jax.value_and_grad(run, tuple(range(len(given)))))(*given)


def _cosine(attend, qkv, scale, cap):
  """Swin v2's scale of each head, a cap that is learned, a window."""
  out = attend(*qkv, scale=scale, softcap=cap, local_window_size=(7, 2))
  return jnp.sin(out).sum()


class ScaleTest(parameterized.TestCase):
  """lucidrains/flash-attention-jax#6: a learned scale."""

  @parameterized.parameters(*_SIZES)
  def test_scale_and_cap_have_gradients(self, size):
    length, matrix = _SIZES[size]
    given = jnp.array([0.3, 0.6]).reshape(2, 1, 1), jnp.float32(1.5)
    want = _gradients("reference", length, _cosine, *given)
    with mock.patch.object(
      xla_dense, "MATRIX", xla_dense.MATRIX if matrix is None else 0
    ):
      got = _gradients("xla", length, _cosine, *given)
    close(got, want)
    self.assertEqual(got[1][0].shape, (2, 1, 1))
    self.assertGreater(min(float(jnp.abs(g).min()) for g in got[1]), 1e-3)

  @parameterized.parameters("pallas", "triton")
  def test_scale_in_kernels(self, impl):
    given = (jnp.array([0.3, 0.6]).reshape(2, 1, 1), jnp.float32(1.5))
    with simulate.accelerators(detect_races=False):
      got = _gradients(impl, T, _cosine, *given)
    close(got, _gradients("reference", T, _cosine, *given), 1e-4)

  def test_numbers_and_arrays_are_the_same(self):
    qkv = arrays(T)
    scale = np.array([0.3, 0.6]).reshape(1, 2, 1, 1)
    for one in (
      0.3,
      np.float64(0.3),
      np.float32(0.3),
      jnp.float32(0.3),
      np.float32([[[0.3]]]),
    ):
      close(attend(*qkv, scale=one, impl="reference"), expected(*qkv, scale=0.3))
    got = attend(*qkv, scale=scale[0], impl="reference")
    close(got, expected(*qkv, scale=scale))
    slow = jax.jit(lambda c: attend(*qkv, softcap=c, impl="reference"))
    close(slow(0.0), expected(*qkv))
    close(slow(2.0), attend(*qkv, softcap=2.0, impl="reference"))
    close(jax.grad(lambda c: slow(c).sum())(0.0), 0.0)

  def test_what_is_refused(self):
    for bad in (jnp.ones(2), jnp.ones((3, 1, 1)), "1"):
      with self.assertRaises((ValueError, TypeError)):
        attend(*arrays(T), scale=bad)


def _table(T):
  return jax.random.normal(jax.random.key(3), (2, 2 * T))


_KINDS = {
  "jitted": lambda t: jax.jit(lambda s, b, n, q, k: s + t[n, q - k + t.shape[1] // 2]),
  "constant": lambda t: lambda s, b, n, q, k: 0.5,
  "integer": lambda t: lambda s, b, n, q, k: q - k,
  "of_heads": lambda t: lambda s, b, n, q, k: t[n, 0],
  "of_queries": lambda t: lambda s, b, n, q, k: t[0, q] * 1.0,
  "of_places": lambda t: lambda s, b, n, q, k: t[n, q] * t[n, k],
  "jitted_twice": lambda t: jax.jit(jax.jit(lambda s, b, n, q, k: s * t[n, k])),
  "partial": lambda t: functools.partial(lambda t, s, b, n, q, k: s + t[n, k], t),
  "rematerialized": lambda t: jax.checkpoint(lambda s, b, n, q, k: s + t[n, q] * s),
}


class ScoreTest(parameterized.TestCase):
  """pytorch#139548, #157612, #165854, PR#188178: functions of all kinds."""

  @parameterized.product(kind=sorted(_KINDS), size=("matrix", "tiles"))
  def test_every_kind_traces_with_its_gradient(self, kind, size):
    q, k, v = arrays(T)

    def loss(q, table, impl):
      out = attend(q, k, v, score=_KINDS[kind](table), impl=impl)
      self.assertEqual(out.dtype, q.dtype)
      return jnp.sin(out).sum()

    matrix = xla_dense.MATRIX if size == "matrix" else 0
    with mock.patch.object(xla_dense, "MATRIX", matrix):
      gradient = jax.grad(functools.partial(loss, impl="xla"), (0, 1))
      found = jax.eval_shape(gradient, q, _table(T))
    self.assertEqual([x.shape for x in found], [q.shape, (2, 2 * T)])

  @parameterized.parameters("jitted", "constant", "of_places")
  def test_values(self, kind):
    q, k, v = arrays(T)

    def loss(q, table, impl):
      return jnp.sin(attend(q, k, v, score=_KINDS[kind](table), impl=impl)).sum()

    got, want = (
      jax.jit(jax.value_and_grad(functools.partial(loss, impl=impl), (0, 1)))(
        q, _table(T)
      )
      for impl in ("xla", "reference")
    )
    close(got, want)
    if kind == "constant":  # the mean of all values, whatever the score is
      close(attend(q, k, v, score=_KINDS[kind](None)), expected(q, k, v, scale=0.0))


if __name__ == "__main__":
  absltest.main()
