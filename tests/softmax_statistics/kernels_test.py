"""The kernels in the TPU simulator and in Triton's interpreter, against NumPy."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from attnjax import masks
from attnjax.core.scores import Scores
from pallas_kernels import calling, softmax_statistics
from tests.core.statistics_test import PROBLEMS, arrays, dense, expected

_KERNELS = tuple(calling.BACKENDS)


class KernelsTest(parameterized.TestCase):
  @parameterized.product(name=tuple(PROBLEMS), impl=_KERNELS)
  def test_definitions(self, name, impl):
    q, k = arrays(name)
    options = PROBLEMS[name][1]
    columns, argmax, entropy, lse = expected(q, k, **options)
    with simulate.accelerators():
      got = attnjax.attention_column_sums(q, k, lse, impl=impl, **options)
      rows = attnjax.attention_rows(q, k, lse, impl=impl, **options)
    _close(got, columns)
    np.testing.assert_array_equal(rows.argmax, argmax)
    _close(rows.entropy, entropy)

  @parameterized.parameters(*_KERNELS)
  def test_lists_of_blocks_in_16_bits(self, impl):
    """Blocks in any order: of equal scores the first key is taken."""
    q, k = (x.astype(jnp.bfloat16) for x in arrays("causal"))
    q, k = jnp.tile(q[:1], (1, 7, 1, 1)), jnp.tile(k[:1], (1, 7, 1, 1))  # equal keys
    mask = masks.Causal() & (masks.Window(40, 0) | masks.Where(lambda t, s: s < 70))
    wide = [x.astype(jnp.float32) for x in (q, k)]
    columns, argmax, entropy, lse = expected(*wide, mask=mask)
    kernel = calling.load("pallas_kernels.softmax_statistics", impl)
    tiles = kernel.tiles(q, k, softmax_program(q, k, mask))
    with simulate.accelerators(detect_races=False):
      got, rows = [], []
      for which in ("columns", "rows"):
        run = softmax_statistics.prepared(
          which, q, k, Scores(mask), impl=impl, tiles=tiles
        )
        (got if which == "columns" else rows).extend(
          run(q, k, jnp.asarray(lse), scale=q.shape[3] ** -0.5)
        )
    np.testing.assert_allclose(got[0], columns, rtol=2e-2, atol=1e-3)
    np.testing.assert_allclose(rows[1], entropy, rtol=2e-2, atol=1e-3)
    # Scores of 16 bits tie more often: what is found must be one of the greatest.
    _, scores, _ = dense(*wide, mask=mask)
    found = np.take_along_axis(scores, np.asarray(rows[0]).swapaxes(1, 2)[..., None], 3)
    most = np.take_along_axis(scores, argmax.swapaxes(1, 2)[..., None], 3)
    np.testing.assert_allclose(found, most, rtol=2e-2, atol=2e-2)

  @parameterized.parameters(*_KERNELS)
  def test_ties_take_the_first_key(self, impl):
    q = jnp.zeros((1, 200, 1, 4))
    mask = masks.Where(lambda t, s: s >= t // 2)
    with simulate.accelerators(detect_races=False):
      rows = attnjax.attention_rows(q, q, jnp.zeros((1, 200, 1)), mask=mask, impl=impl)
    np.testing.assert_array_equal(rows.argmax[0, :, 0], np.arange(200) // 2)

  @parameterized.product(which=("columns", "rows"), impl=_KERNELS)
  def test_derivatives_are_those_of_the_plain_form(self, which, impl):
    q, k = arrays("documents")
    options = PROBLEMS["documents"][1]
    lse = jnp.asarray(dense(q, k, **options)[2])

    def loss(q, k, lse, impl):
      if which == "columns":
        found = attnjax.attention_column_sums(q, k, lse, impl=impl, **options)
      else:
        found = attnjax.attention_rows(q, k, lse, impl=impl, **options).entropy
      return jnp.sum(jnp.sin(found))

    with simulate.accelerators(detect_races=False):
      want, got = (
        jax.jit(jax.grad(lambda *x, i=i: loss(*x, i), (0, 1, 2)))(q, k, lse)
        for i in ("xla", impl)
      )
    for a, b in zip(got, want):
      self.assertGreater(jnp.abs(b).max(), 1e-4)
      _close(a, b)

  @parameterized.parameters(*_KERNELS)
  def test_under_vmap(self, impl):
    q, k = arrays("one_token")
    lse = jnp.asarray(dense(q, k)[2])
    two = [jnp.stack([x, 2 * x]) for x in (q, k, lse)]
    with simulate.accelerators(detect_races=False):
      got = jax.vmap(lambda *x: attnjax.attention_column_sums(*x, impl=impl))(*two)
    want = [attnjax.attention_column_sums(*x, impl="reference") for x in zip(*two)]
    _close(got, jnp.stack(want))

  def test_refusals_have_reasons(self):
    q = jnp.zeros((1, 7, 1, 4), jnp.float64 if jax.config.jax_enable_x64 else "float16")
    with self.assertRaisesRegex(NotImplementedError, "triton.*H is 400"):
      wide = jnp.zeros((1, 7, 1, 400))
      attnjax.attention_rows(wide, wide, jnp.zeros((1, 7, 1)), impl="triton")
    for impl in _KERNELS:
      kernel = calling.load("pallas_kernels.softmax_statistics", impl)
      with self.assertRaisesRegex(NotImplementedError, "in plain JAX"):
        kernel.backward(q)


def softmax_program(q, k, mask):
  from attnjax.core import programs

  shape = q.shape[0], q.shape[2], q.shape[1], k.shape[1]
  return programs.program(Scores(mask), shape)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
