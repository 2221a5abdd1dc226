"""The TPU kernels in the simulator (NaN in its memory) against the definition."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from pallas_kernels import decayed_linear
from pallas_kernels.decayed_linear import mosaic_tpu
from pallas_kernels.decayed_linear.mosaic_tpu import Tile, Tiles
from tests.decayed_linear import recurrence
from tests.decayed_linear.problems import Problem, errors, excess

# Several chunks, parts of a chunk, and heads of a step in few tokens.
PARTS = Tiles(Tile(256, 2, 128), Tile(256, 4, 128))
CHUNKS = Tiles(Tile(128, 2, 128), Tile(128, 1, 128))


class MosaicTpuTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("packed", Problem(2, 300, 4, 2, 16, 24, (2, 300, 4), (20, 237, 7, 36)), PARTS),
    ("one_token", Problem(1, 1, 3, 1, 8, 5, (1, 1, 3))),
    ("no_decay", Problem(1, 63, 1, 1, 8, 8, state=False, scale=1.0)),
    ("no_decay_packed", Problem(1, 65, 2, 1, 24, 16, runs=(50, 15))),
    ("lanes", Problem(1, 260, 2, 1, 128, 256, (1, 1, 2)), CHUNKS),
  )
  def test_is_the_definition(self, problem, tiles=None):
    for error in errors(problem, "pallas", tiles, races=problem.T == 300):
      self.assertLess(error, 2e-5)

  def test_a_reset_hides_no_decay(self):
    tiles = Tiles(Tile(128, 1, 128), Tile(256, 1, 128))
    run = functools.partial(decayed_linear.attend, impl="pallas", tiles=tiles)
    with simulate.accelerators(detect_races=False):
      recurrence.check(run, *recurrence.hard(140))

  def test_bfloat16(self):
    problem = Problem(1, 200, 2, 2, 128, 128, (1, 200, 1), dtype="bfloat16")
    for name, part in excess(problem, "pallas", CHUNKS).items():
      self.assertLessEqual(part, 1.0, name)

  def test_two_runs_are_bit_equal(self):
    problem = Problem(1, 40, 2, 2, 8, 8, (1, 40, 2))
    with simulate.accelerators(detect_races=False):
      runs = [
        problem.run(decayed_linear.attend, problem.arrays(), impl="pallas")
        for _ in range(2)
      ]
    jax.tree.map(np.testing.assert_array_equal, *runs)

  @parameterized.parameters(
    ({"chunk": 200}, r"tiles.forward.chunk 200 is not a multiple of 128"),
    ({"inner": 192}, r"tiles.forward.inner 192 does not divide chunk 256"),
    ({"heads": 3}, r"tiles.forward.heads 3 does not divide 8 heads"),
    ({"chunk": 1 << 14, "heads": 8}, r"tiles.forward needs .* MiB of fast memory"),
  )
  def test_tiles_that_do_not_fit(self, wrong, message):
    tile = Tile(**({"chunk": 256, "heads": 2, "inner": 128} | wrong))
    q = jax.ShapeDtypeStruct((1, 1 << 15, 8, 128), jnp.bfloat16)
    with self.assertRaisesRegex(ValueError, message):
      mosaic_tpu.check(Tiles(tile, CHUNKS.backward), q, q, q)

  @parameterized.parameters((8, 2, 8), (12, 4, 6), (7, 7, 7), (10, 1, 5))
  def test_default_heads_divide(self, N, K, heads):
    q, k = (jax.ShapeDtypeStruct((1, 512, n, 128), jnp.bfloat16) for n in (N, K))
    tiles = mosaic_tpu.defaults(q, k, k)
    mosaic_tpu.check(tiles, q, k, k)
    self.assertEqual(tiles.forward.heads, heads)


if __name__ == "__main__":
  absltest.main()
