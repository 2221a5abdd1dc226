"""The kernels in the TPU simulator and in Triton's interpreter, against NumPy."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from attnjax.core.softmax import paged
from pallas_kernels import calling, paged_decode
from tests.paged_decode.problems import SIZES, arrays, expected

_KERNELS = tuple(calling.BACKENDS)
_ON_TPUS = ("one_list", "one_token", "many_pages")


def _tiles(impl):
  """Returns tiles with which a list of 20 pages has several."""
  kernel = calling.load("pallas_kernels.paged_decode", impl)
  if impl == "pallas":
    return type(kernel.tiles(*_runs("float32")[:4], 8))(pages=16)
  return type(kernel.tiles(*_runs("float32")[:4], 8))(tokens=16, rows=16, parts=3)


def _runs(dtype):
  """Returns 20 runs of at most 8 tokens in three rows, NaN where nothing is read."""
  draw = np.random.default_rng(5)
  q, k, v = (draw.standard_normal(s) for s in [(3, 4, 8), (168, 2, 8), (168, 2, 8)])
  starts = 8 * np.array([draw.permutation(21)[:20] for _ in range(3)])[:, None]
  counts = draw.integers(0, 9, (3, 1, 20))
  counts[0::2, 0, :17] = 8  # a whole tile of either kernel, also after one that is not
  counts[1, 0, 9:] = 0
  read = np.zeros(168, bool)
  for start, count in zip(starts.ravel(), counts.ravel()):
    read[start : start + count] = True
  k, v = (np.where(read[:, None, None], x, np.nan) for x in (k, v))
  floats = (jnp.asarray(x, dtype) for x in (q, k, v))
  return *floats, *(jnp.asarray(x, jnp.int32) for x in (starts, counts))


class KernelsTest(parameterized.TestCase):
  @parameterized.product(name=tuple(SIZES), impl=_KERNELS)
  def test_definitions(self, name, impl):
    given = arrays(name)
    if impl == "pallas" and name not in _ON_TPUS:
      with self.assertRaisesRegex(NotImplementedError, "pallas.*(lists a row|rows of)"):
        attnjax.paged_decode(*given, impl=impl)
      return
    with simulate.accelerators():
      got = attnjax.paged_decode(*given, scale=0.4, page_scores=True, impl=impl)
      got = jax.block_until_ready(got)
    for one, other in zip(got, expected(*given, scale=0.4)):
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)

  @parameterized.product(dtype=("float32", "bfloat16"), impl=_KERNELS)
  def test_runs_of_any_count_in_several_tiles(self, dtype, impl):
    given, options = _runs(dtype), {"page": 8, "impl": impl, "tiles": _tiles(impl)}
    with simulate.accelerators(detect_races=False):
      run = paged_decode.prepared(*given[:4], **options)
      got = jax.block_until_ready(run(*given, scale=0.3, scores=True))
    wide = [x.astype(jnp.float32) for x in given[:3]]
    want = paged.reference(*wide, *given[3:], page=8, scale=0.3, scores=True)
    self.assertEqual((got.out.dtype, got.lse.dtype), (jnp.dtype(dtype), jnp.float32))
    close = {"float32": (1e-4, 1e-5), "bfloat16": (2e-2, 4e-3)}[dtype]
    for one, other in zip(got, want):
      one = np.asarray(one, np.float32)
      np.testing.assert_allclose(one, other, rtol=close[0], atol=close[1])

  @parameterized.parameters(*_KERNELS)
  def test_derivatives_are_those_of_the_plain_form(self, impl):
    *floats, table, lengths = arrays("one_list")

    def loss(impl, *x):
      pages: Any = *x, table, lengths
      found = attnjax.paged_decode(*pages, page_scores=True, impl=impl)
      lse = jnp.where(jnp.isfinite(found.lse), found.lse, 0)
      return jnp.sin(found.out).sum() + lse.sum() + (found.scores**2).sum()

    with simulate.accelerators(detect_races=False):
      got, want = (
        jax.jit(jax.grad(functools.partial(loss, i), (0, 1, 2)))(*floats)
        for i in (impl, "xla")
      )
    for one, other in zip(got, want):
      self.assertGreater(np.abs(other).max(), 1e-3)
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

  @parameterized.parameters(*_KERNELS)
  def test_rows_under_vmap(self, impl):
    q, k, v, table, lengths = arrays("one_list")
    with simulate.accelerators(detect_races=False):
      got = jax.vmap(
        lambda q, n: attnjax.paged_decode(q, k, v, table, n, impl=impl).out
      )(np.stack([q, 2 * q]), np.stack([lengths, lengths // 2]))
    for one, other in zip(got, ((q, lengths), (2 * q, lengths // 2))):
      want = expected(other[0], k, v, table, other[1])[0]
      np.testing.assert_allclose(one, want, rtol=1e-4, atol=2e-5)

  def test_refusals_have_reasons(self):
    def refused(impl, message, q=(2, 4, 8), k=(32, 2, 8), G=1, M=2, page=16, **other):
      arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (q, k, k)]
      arrays[2] = arrays[2].update(**other)
      arrays.append(jax.ShapeDtypeStruct((q[0], G, M), jnp.int32))
      with self.assertRaisesRegex(NotImplementedError, message):
        paged_decode.prepared(*arrays, page=page, impl=impl)

    refused("pallas", "2 lists a row", G=2)
    refused("pallas", "3 x 2 rows of float32.*divide by 8", page=3)
    refused("pallas", "lists of 131072 pages; .* 65536", M=65536)
    refused("pallas", "float32, float32 and bfloat16 differ", dtype=jnp.bfloat16)
    refused("pallas", "v has the type float16", dtype=jnp.float16)
    refused("pallas", "1073741824 tokens of 2 heads", k=(2**30, 2, 8))
    refused("triton", "H is 272; .* 256 at most", q=(2, 4, 272), k=(32, 2, 272))
    refused("triton", "v has the type float8", dtype=jnp.float8_e5m2)
    for impl in _KERNELS:
      kernel = calling.load("pallas_kernels.paged_decode", impl)
      with self.assertRaisesRegex(NotImplementedError, "in plain JAX"):
        kernel.backward()


if __name__ == "__main__":
  absltest.main()
