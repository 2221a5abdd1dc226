"""The kernels in the TPU simulator and in Triton's interpreter, against NumPy."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from pallas_kernels.contrastive import mosaic_tpu, triton_gpu
from tests import precision
from tests.contrastive import problems
from tests.contrastive.plain_test import close

_MODULES = {"pallas": mosaic_tpu, "triton": triton_gpu}
_TILE = triton_gpu.Tile(32, 16, 16)
# Several tiles of rows and of columns, both ways.
TILES = {
  "pallas": (mosaic_tpu.Tiles(128, 256, 128), 140, 270),
  "triton": (triton_gpu.Tiles(_TILE, _TILE), 40, 21),
}


def found(impl, x, runs=1, **options):
  """Returns (loss, its gradients) by kernels; all runs must have equal bits."""
  run = problems.value_and_gradients(impl, options)
  with simulate.accelerators(detect_races=runs > 1):
    got, *others = (jax.tree.map(np.asarray, run(*x)) for _ in range(runs))
  for again in others:
    jax.tree.map(np.testing.assert_array_equal, got, again)
  return got


class KernelsTest(parameterized.TestCase):
  def test_one_item(self):
    x, options = problems.arrays("one_item"), problems.PROBLEMS["one_item"][3]
    close(found("triton", x, **options), problems.expected(*x, **options))

  @parameterized.parameters(*_MODULES)
  def test_several_tiles(self, impl):
    tiles, Nq, Ni = TILES[impl]
    draw = np.random.default_rng(1)
    q, items = (jnp.asarray(draw.standard_normal((n, 20)), "float32") for n in (Nq, Ni))
    labels = draw.integers(-1, Ni, Nq)
    labels[Nq // 32 * 32 :] = Ni - 1  # of a tile, at the end of one of columns
    options = {
      "labels": labels,
      "mask": draw.random((Nq, Ni)) < 0.7,
      "groups": (draw.integers(-1, 9, Nq), draw.integers(-1, 9, Ni)),
    }
    with mock.patch.object(_MODULES[impl], "fitting", lambda *_: tiles):
      got = found(impl, (q, items, jnp.float32(0.1)), 2, **options)
    close(got, problems.expected(q, items, 0.1, **options))

  @parameterized.parameters(
    ("pallas", "bfloat16"), ("triton", "bfloat16"), ("triton", "float16")
  )
  def test_16_bits(self, impl, dtype):
    name = "one_direction"
    x, options = problems.arrays(name, dtype), problems.PROBLEMS[name][3]
    plain = jax.jit(jax.value_and_grad(_rounded, (0, 1, 2)))(*x)
    every = found(impl, x, **options), problems.expected(*x, **options), plain
    for own, kind in zip(zip(*every), ("out", "dx")):
      self.assertLessEqual(precision.worst(*own, kind), 1.0)

  def test_small_cotangents_in_float16(self):
    """The slopes alone would be below the least float16."""
    q, items, _ = problems.arrays("odd", "float16")
    x = q * jnp.float16(5e-5), items, jnp.float32(10.0)

    def loss(*arrays, **options):
      return 2.0**-20 * attnjax.contrastive_loss(*arrays, **options)

    run = problems.value_and_gradients("triton", {}, loss)
    with simulate.accelerators():
      got = jax.tree.map(lambda x: np.asarray(x, "float32") * 2.0**20, run(*x))
    _, want = problems.expected(*x)
    for n in (0, 2):
      a, b = got[1][n], want[n]
      np.testing.assert_allclose(a, b, rtol=0, atol=5e-3 * np.abs(b).max())

  def test_refusals(self):
    double = jax.ShapeDtypeStruct((4, 8), "float64")
    many = jax.ShapeDtypeStruct((2**30 + 1, 8), "float32")
    wide = jax.ShapeDtypeStruct((4, 1 << 16), "float32")
    for module, given, message in (
      (mosaic_tpu, double, "q has the type float64"),
      (triton_gpu, double, "q has the type float64"),
      (mosaic_tpu, wide, "D is 65536; fast memory holds no tile"),
      (triton_gpu, many, "Nq is 1073741825; rows are numbered in 32 bits"),
    ):
      with self.assertRaisesRegex(NotImplementedError, message):
        module.supports(given, given)
    q = jnp.ones((4, 8))
    for impl, tiles, message in (
      ("pallas", mosaic_tpu.Tiles(100, 128, 128), "tiles.rows 100 is not a multiple"),
      ("pallas", mosaic_tpu.Tiles(128, 128, 128, 1 << 19), "need .* MiB"),
      ("triton", triton_gpu.Tiles(*[triton_gpu.Tile(24, 16, 16)] * 2), "rows 24 must"),
    ):
      with mock.patch.object(_MODULES[impl], "fitting", lambda *_, t=tiles: t):
        with self.assertRaisesRegex(ValueError, message):
          attnjax.contrastive_loss(q, q, log_scale=0.0, impl=impl)

  def test_has_no_jvp(self):
    def run(q):
      return attnjax.contrastive_loss(q, q, log_scale=0.0, impl="pallas")

    q = jnp.ones((4, 8))
    with simulate.accelerators():
      with self.assertRaisesRegex(NotImplementedError, "'xla' has jvp"):
        jax.jit(lambda q: jax.jvp(run, (q,), (q,))).lower(q)


def _rounded(q, items, log_scale):
  """Computes the plain formula of one direction, each result rounded to q's type."""
  score = (q @ items.T) * jnp.exp(log_scale).astype(q.dtype)
  return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(score, axis=1)))


if __name__ == "__main__":
  absltest.main()
