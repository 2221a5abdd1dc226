"""Kernels under `jax.vmap`: what is copied, and sinks that differ."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import softmax
from attnjax.core.scalar_functions import elementwise
from attnjax.core.scores import Program
from pallas_kernels import batching, flash
from pallas_kernels.batching import batched

_SIZE, _B, _T, _S, _N, _H = 3, 2, 5, 6, 2, 4
_WIDE = (2 * _B, _N, _T, _S)
_ADD = elementwise(lambda x, t, s, b: x + b, ["float32", "int32", "int32"], ["float32"])


def _forward(calls, q, k, v, sinks, program, schedule, *, scale):
  """A pass in plain JAX that notes the shapes of its operands."""
  del schedule
  calls.append([x.shape for x in program.operands])
  score = scale * jnp.einsum("btnh,bsnh->bnts", q, k) + program.operands[0]
  top = score.max(-1)
  weight = jnp.exp(score - top[..., None])
  total = weight.sum(-1)
  out = jnp.einsum("bnts,bsnv->btnv", weight / total[..., None], v)
  rows = (x.swapaxes(1, 2) for x in (top, total))
  return softmax.with_sinks(out, *rows, sinks)


def _backward(calls, q, k, v, g, top, total, delta, program, schedule, *, scale):
  del schedule
  calls.append([x.shape for x in program.operands])
  bias = program.operands[0]
  weight = jnp.exp(
    scale * jnp.einsum("btnh,bsnh->bnts", q, k) + bias - top.swapaxes(1, 2)[..., None]
  )
  weight = weight / total.swapaxes(1, 2)[..., None]
  slope = jnp.einsum("btnv,bsnv->bnts", g, v) - delta.swapaxes(1, 2)[..., None]
  slope = weight * slope
  axes = [i for i in range(4) if bias.shape[i] == 1]
  dq, dk = (
    scale * jnp.einsum(f"bnts,b{i}nh->b{j}nh", slope, x)
    for i, j, x in (("s", "t", k), ("t", "s", q))
  )
  dv = jnp.einsum("bnts,btnv->bsnv", weight, g)
  return dq, dk, dv, (slope.sum(axes, keepdims=True),)


def _arrays(*shapes):
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [jax.random.normal(k, s) for k, s in zip(keys, shapes)]


def _qkv():
  return _arrays(*[(_SIZE, _B, n, _N, _H) for n in (_T, _S, _S)])


class BatchingTest(parameterized.TestCase):
  @parameterized.parameters(None, 0, 0.5)
  def test_sinks_of_each_index(self, axis):
    calls: list = []
    form = batched(functools.partial(_forward, calls), flash.FORWARD, scale=0.3)
    (bias,) = _arrays((1, _N, _T, _S))
    sinks = None if axis is None else _arrays((_SIZE, _N))[0]
    if axis == 0.5:
      sinks = sinks.at[1].set(-jnp.inf)

    def one(q, k, v, sinks):
      return form(q, k, v, sinks, Program((bias,), _ADD), None)

    q, k, v = _qkv()
    got = jax.vmap(one, (0, 0, 0, None if sinks is None else 0))(q, k, v, sinks)
    self.assertEqual(calls[-1], [bias.shape])
    for i in range(_SIZE):
      want = one(q[i], k[i], v[i], None if sinks is None else sinks[i])
      for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x[i], y, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(
    (1, False, 64 << 20),
    (1, False, 0),
    (1, True, 0),
    (_B, False, 0),
    (_B, True, 0),
    (1, False, 1900),
  )
  def test_gradients(self, batches, mapped, room):
    calls: list = []
    form = batched(functools.partial(_backward, calls), flash.BACKWARD, scale=0.3)
    shape = (batches, _N, _T, _S)
    (bias,) = _arrays((_SIZE, *shape) if mapped else shape)
    q, k, v = _qkv()
    g, top, total, delta = _arrays(q.shape, *[q.shape[:-1]] * 3)
    given = q, k, v, g, top + 3, jnp.exp(total), delta

    def one(*x):
      *x, bias = x
      return form(*x, Program((bias,), _ADD), None)

    with mock.patch.object(batching, "_ROOM", room):
      got = jax.vmap(one, (*[0] * 7, 0 if mapped else None))(*given, bias)
    if not room:
      self.assertEqual(
        calls[-1], [shape if not mapped or batches == 1 else (_SIZE * _B, *shape[1:])]
      )
    if room == 1900:
      self.assertIn([_WIDE], calls)
    for i in range(_SIZE):
      own = bias[i] if mapped else bias
      want = one(*(x[i] for x in given), own)
      for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        self.assertEqual(x[i].shape, y.shape)
        np.testing.assert_allclose(x[i], y, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
  absltest.main()
