"""The kernels in the TPU simulator and in Triton's interpreter, against NumPy."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from pallas_kernels import calling, low_bit_selection

_KERNELS = tuple(calling.BACKENDS)
# (B, T, N, K, H), block_q, block_k, whether biases are rounded, further tiles.
PROBLEMS = {
  "grouped": ((2, 150, 4, 2, 40), 16, 8, False),
  "rounded": ((1, 97, 2, 1, 16), 8, 16, True),
  "one_token": ((1, 1, 1, 1, 4), 8, 4, False),
  "wide": ((1, 300, 1, 1, 130), 64, 32, False),
  "many_tiles": ((1, 290, 1, 1, 8), 8, 1, True),
}


def arrays(name):
  """Returns codes, scales, biases, thresholds and the last candidates."""
  (B, T, N, K, H), block_q, block_k, _ = PROBLEMS[name]
  rng = np.random.default_rng(0)
  q, k = (rng.integers(-7, 8, (B, T, heads, H)).astype(np.int8) for heads in (N, K))
  q_scale = rng.uniform(0.5, 1.5, (B, T, N)).astype(np.float32)
  k_scale = rng.uniform(0.5, 1.5, (B, T, K)).astype(np.float32)
  q_scale[:, T // 3], k_scale[:, T // 4] = 0, 0
  bias = (20 * rng.standard_normal((B, T, N))).astype(np.float32)
  # Few blocks pass, and some rows never do.
  least = (rng.uniform(2.5, 3.5, (B, T, N)) * 18 * H**0.5).astype(np.float32)
  least[:, T // 2] = np.inf
  last = rng.integers(0, -(-T // block_k), (B, -(-T // block_q))).astype(np.int32)
  last[:, -1] = -(-T // block_k) - 1
  if name == "many_tiles":  # the last candidate is the first one of a grid step
    last[:] = np.minimum(last, 128)
    last[:, ::3], bias[:, 128] = 128, 1e4
  return q, k, q_scale, k_scale, bias, least, last


def expected(q, k, q_scale, k_scale, bias, least, last, block_q, block_k, rounded):
  """Returns what is chosen, block by block in float64."""
  (B, _, N, _), S = q.shape, -(-q.shape[1] // block_k)
  found = np.zeros((B, N, last.shape[1], S), bool)
  for b, n in np.ndindex(B, N):
    owner = n // (N // k.shape[2])
    unit = np.outer(q_scale[b, :, n], k_scale[b, :, owner]).astype(np.float64)
    whole = q[b, :, n].astype(int) @ k[b, :, owner].astype(int).T
    lost = np.broadcast_to(bias[b, :, n].astype(np.float64), unit.shape)
    score = whole * unit + lost
    if rounded:
      add = np.rint(lost / np.where(unit > 0, unit, 1))
      score = np.where(unit > 0, (whole + add) * unit, lost)
    passes = score > least[b, :, n, None]
    for i, j in np.ndindex(found.shape[2:]):
      part = passes[i * block_q :][:block_q, j * block_k :][:, :block_k]
      rest = last[b % len(last), i]
      found[b, n, i, j] = 1 <= j <= rest and part.any()
  return found


def _run(given, block_q, block_k, rounded, impl, **options):
  sizes = {"block_q": block_q, "block_k": block_k, "rounded": rounded}
  given = [jnp.asarray(x) for x in given]
  run = low_bit_selection.prepared(given[0], given[1], impl=impl, **sizes, **options)
  return run(*given)


class KernelsTest(parameterized.TestCase):
  @parameterized.product(name=tuple(PROBLEMS), impl=_KERNELS)
  def test_definitions(self, name, impl):
    given, sizes = arrays(name), PROBLEMS[name][1:]
    with simulate.accelerators():
      got = _run(given, *sizes, impl)
    want = expected(*given, *sizes)
    np.testing.assert_array_equal(got, want)
    if name != "one_token":
      self.assertTrue(0.02 < want.mean() < 0.6, want.mean())

  @parameterized.parameters(*_KERNELS)
  def test_candidates_that_all_rows_share(self, impl):
    given, sizes = list(arrays("grouped")), PROBLEMS["grouped"][1:]
    given[-1] = given[-1][:1]
    with simulate.accelerators(detect_races=False):
      got = _run(given, *sizes, impl)
    np.testing.assert_array_equal(got, expected(*given, *sizes))

  @parameterized.parameters(*_KERNELS)
  def test_several_steps_in_a_program(self, impl):
    given, sizes = arrays("wide"), PROBLEMS["wide"][1:]
    kernel = calling.load("pallas_kernels.low_bit_selection", impl)
    tiles = kernel.tiles(*given[:2], *sizes[:2])
    tiles = dataclasses.replace(tiles, columns=128)
    with simulate.accelerators(detect_races=False):
      got = _run(given, *sizes, impl, tiles=tiles)
    np.testing.assert_array_equal(got, expected(*given, *sizes))

  @parameterized.parameters(*_KERNELS)
  def test_under_vmap(self, impl):
    given, sizes = arrays("rounded"), PROBLEMS["rounded"][1:]
    two = [jnp.stack([jnp.asarray(x)] * 2) for x in given]
    two[5] = two[5].at[1].multiply(0.8)
    with simulate.accelerators(detect_races=False):
      got = jax.vmap(lambda *x: _run(x, *sizes, impl))(*two)
    for number in (0, 1):
      want = expected(*(np.asarray(x[number]) for x in two), *sizes)
      np.testing.assert_array_equal(got[number], want)

  def test_refusals_have_reasons(self):
    q = jnp.zeros((1, 8, 1, 4), jnp.int8)
    for impl, block_q, block_k, message in (
      ("triton", 512, 32, "block_q is 512"),
      ("triton", 64, 24, "block_k is 24.*powers of two"),
      ("pallas", 12, 4, "block_q is 12.*multiples of 8"),
      ("pallas", 64, 24, "block_k is 24.*divisors of 128"),
    ):
      with self.assertRaisesRegex(NotImplementedError, f"{impl}.*{message}"):
        low_bit_selection.prepared(
          q, q, block_q=block_q, block_k=block_k, rounded=False, impl=impl
        )
    for impl in _KERNELS:
      sizes = {"block_q": 64, "block_k": 32, "rounded": False, "impl": impl}
      with self.assertRaisesRegex(NotImplementedError, f"{impl}.*float32"):
        low_bit_selection.prepared(q.astype(jnp.float32), q, **sizes)
      kernel = calling.load("pallas_kernels.low_bit_selection", impl)
      with self.assertRaisesRegex(NotImplementedError, "no derivative"):
        kernel.backward(q)
    wide = jnp.zeros((1, 8, 1, 600), jnp.int8)
    with self.assertRaisesRegex(NotImplementedError, "triton.*H is 600"):
      low_bit_selection.prepared(
        wide, wide, block_q=64, block_k=32, rounded=False, impl="triton"
      )

  def test_tiles_that_cannot_run(self):
    given, sizes = arrays("grouped"), PROBLEMS["grouped"][1:]
    for impl in _KERNELS:
      kernel = calling.load("pallas_kernels.low_bit_selection", impl)
      tiles = kernel.tiles(given[0], given[1], 16, 8)
      bad = type(tiles)(columns=48)
      with self.assertRaisesRegex(ValueError, "tiles.columns 48"):
        _run(given, *sizes, impl, tiles=bad)


if __name__ == "__main__":
  absltest.main()
