"""A further kernel: what an algorithm writes, and what is around it for all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

from attnjax import backends
from attnjax.core import derivatives
from pallas_kernels import batching, calling
from pallas_kernels.batching import Layout
from pallas_kernels.calling import Kernel

B, T, N, H = 2, 3, 2, 4
_ROWS, _HEADS = P("batch", None, "heads"), P("batch", "heads")
FORWARD = Layout((*[_ROWS] * 3, _HEADS), (_ROWS,), shared=(3,))
BACKWARD = Layout(
  (*FORWARD.inputs, _ROWS), (*[_ROWS] * 3, _HEADS), shared=(3,), gradients={3: 3}
)
SEEN: list[tuple] = []


def plain(x, data=None):
  """Attention of third order without a softmax: sums of q.k k2, times a gain."""
  del data
  q, k, k2, gain = x
  scores = jnp.einsum("btnh,bsnh->btsn", q, k)
  return (jnp.einsum("btsn,bsnh->btnh", scores, k2) * gain[:, None, :, None],)


def _forward(*x, tiles):
  SEEN.append(("forward", tiles, *(y.shape[0] for y in x)))
  return plain(x)


def _backward(*arrays, tiles):
  SEEN.append(("backward", tiles, *(y.shape[0] for y in arrays)))
  *x, g = arrays
  return jax.vjp(plain, tuple(x))[1]((g,))[0]


def _supports(q, *_):
  if q.shape[3] > H:
    raise NotImplementedError(f"impl 'triton': heads of {q.shape[3]} numbers")


KERNEL = Kernel("triton", _forward, _backward, _supports, lambda *x: x[0].shape[3])


def attend(*x, tangent=None):
  KERNEL.supports(*x)
  how = {"tiles": KERNEL.tiles(*x)}
  forward = calling.spread(KERNEL.forward, FORWARD, **how)
  backward = calling.spread(KERNEL.backward, BACKWARD, **how)
  tangent = tangent or derivatives.tangent_of(plain)

  def transpose(x, data, y, cotangents, wanted):
    SEEN.append(("wanted", *wanted))
    return backward(*x, *cotangents)

  run = derivatives.differentiable(lambda x, data: forward(*x), tangent, transpose)
  return run(x, None)[0]


def _arrays(rows=B):
  shapes = *[(B, T, N, H)] * 3, (rows, N)
  keys = jax.random.split(jax.random.key(0), 4)
  return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


def _loss(function, *x):
  return jnp.sin(function(*x)).sum()


_OURS = functools.partial(_loss, attend)
_THEIRS = functools.partial(_loss, lambda *x: plain(x)[0])


class FurtherKernelTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    SEEN.clear()

  @parameterized.parameters(1, B)
  def test_gradients_and_derivatives_of_gradients(self, rows):
    x, which = _arrays(rows), (0, 1, 2, 3)
    _close(jax.grad(_OURS, which)(*x), jax.grad(_THEIRS, which)(*x))
    _close(jax.jvp(_OURS, x, x), jax.jvp(_THEIRS, x, x))

    def twice(loss):
      return jax.grad(lambda q: jax.grad(loss, 3)(q, *x[1:]).sum())(x[0])

    _close(twice(_OURS), twice(_THEIRS))

  @parameterized.parameters((1, (2,)), (1, (2, 3)), (B, (0, 3)), (B, (1,)))
  def test_a_mapped_axis_joins_the_batch(self, rows, mapped):
    x = _arrays(rows)
    axes = [0 if i in mapped else None for i in range(4)]
    given = [jnp.stack([y, 2 * y, -y]) if i in mapped else y for i, y in enumerate(x)]

    def run(loss):
      return jax.vmap(jax.grad(loss, (0, 1, 2, 3)), axes)(*given)

    _close(run(_OURS), run(_THEIRS))
    kept = rows == 1 and 3 not in mapped
    folded = [3 * B] * 3
    self.assertIn(("forward", H, *folded, 1 if kept else 3 * B), SEEN)
    self.assertIn(("backward", H, *folded, 3 * B, 3 * B), SEEN)

  def test_an_array_without_a_batch_is_mapped_entry_by_entry(self):
    run = batching.batched(
      lambda x, scale: x * scale, Layout((_ROWS, P("heads")), _ROWS)
    )
    x, scale = jnp.ones((B, T, N)), jnp.arange(3.0 * N).reshape(3, N)
    found = jax.vmap(run, (None, 0))(x, scale)
    np.testing.assert_array_equal(found, x * scale[:, None, None])

  def test_what_is_wanted(self):
    x = _arrays()
    jax.grad(_OURS, (0, 3))(*x)
    self.assertIn(("wanted", True, False, False, True), SEEN)

  def test_a_kernel_without_a_tangent_says_so(self):
    run = functools.partial(_loss, functools.partial(attend, tangent=KERNEL.no_tangent))
    x = _arrays()
    _close(jax.grad(run)(*x), jax.grad(_THEIRS)(*x))
    with self.assertRaisesRegex(NotImplementedError, "'triton'.*'xla'"):
      jax.jvp(run, x, x)

  def test_the_choice(self):
    functions = {"reference": "definition", "xla": "plain"}

    def prepare(impl, H=H):
      KERNEL.supports(jnp.zeros((1, 1, 1, H)))
      return impl

    def choose(impl, **changes):
      prepared = functools.partial(prepare, **changes)
      return backends.choose(impl, functions, prepared)

    self.assertEqual([choose("auto"), choose("reference")], ["plain", "definition"])
    with absltest.mock.patch.object(jax, "default_backend", lambda: "gpu"):
      self.assertEqual(choose("auto"), "triton")
      with self.assertLogs("attnjax.backends") as logs:
        self.assertEqual(choose("auto", H=2 * H), "plain")
    self.assertRegex(logs.output[0], "'xla' on gpu, not 'triton': .*heads of 8")
    with self.assertRaisesRegex(NotImplementedError, "heads of 8"):
      choose("triton", H=2 * H)
    with self.assertRaisesRegex(ValueError, "impl 'cuda'.*auto"):
      choose("cuda")

  def test_what_is_missing_is_named(self):
    with self.assertRaisesRegex(ValueError, "impl 'cuda' is none of pallas, triton"):
      calling.load("pallas_kernels.flash", "cuda")
    missing = ImportError("no triton", name="triton")
    own = absltest.mock.patch("importlib.import_module", side_effect=missing)
    with own, self.assertRaisesRegex(ImportError, r"needs triton.*attnjax\[cuda\]"):
      calling.load("pallas_kernels.flash", "triton")

  def test_a_kernel_is_a_record(self):
    with self.assertRaises(dataclasses.FrozenInstanceError):
      KERNEL.impl = "pallas"


def _close(found, wanted):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), found, wanted
  )


if __name__ == "__main__":
  absltest.main()
