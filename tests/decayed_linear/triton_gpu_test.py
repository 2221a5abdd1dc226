"""The GPU kernels, in Triton's interpreter, against the definition."""

from tests import simulate  # first: sets TRITON_INTERPRET

# ruff: isort: split
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from pallas_kernels import decayed_linear
from pallas_kernels.decayed_linear import triton_gpu
from pallas_kernels.decayed_linear.triton_gpu import Tile, Tiles
from tests.decayed_linear import recurrence
from tests.decayed_linear.problems import Problem, errors

# Several tiles each way in few columns.
SMALL = Tiles(32, *[Tile(16, 16, 4, 2)] * 4)


class TritonGpuTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("packed", Problem(2, 100, 4, 2, 24, 40, (2, 100, 4), (20, 57, 7, 16)), SMALL),
    ("one_token", Problem(1, 1, 3, 1, 8, 5, (1, 1, 3))),
    ("no_decay", Problem(1, 63, 1, 1, 8, 8, state=False, scale=1.0)),
    ("no_decay_packed", Problem(1, 65, 2, 1, 24, 16, runs=(50, 15))),
    ("whole_tiles", Problem(1, 64, 2, 1, 64, 32, (1, 1, 2))),
  )
  def test_is_the_definition(self, problem, tiles=None):
    for error in errors(problem, "triton", tiles):
      self.assertLess(error, 2e-5)

  def test_a_reset_hides_no_decay(self):
    run = functools.partial(decayed_linear.attend, impl="triton", tiles=SMALL)
    with simulate.accelerators(detect_races=False):
      recurrence.check(run, *recurrence.hard(40))

  def test_bfloat16(self):
    problem = Problem(1, 100, 2, 2, 64, 64, (1, 100, 1), dtype="bfloat16")
    for error in errors(problem, "triton"):
      self.assertLess(error, 4e-2)

  def test_two_runs_are_bit_equal(self):
    problem = Problem(1, 40, 2, 2, 8, 8, (1, 40, 2))
    with simulate.accelerators(detect_races=False):
      runs = [
        problem.run(decayed_linear.attend, problem.arrays(), impl="triton")
        for _ in range(2)
      ]
    jax.tree.map(np.testing.assert_array_equal, *runs)

  @parameterized.parameters(
    ({"chunk": 48}, r"tiles.chunk is 48; it must be a power of two"),
    ({"states": Tile(24, 16, 4, 2)}, r"tiles.states.h is 24; it must be a power"),
    ({"keys": Tile(16, 16, 3, 2)}, r"tiles.keys.warps is 3"),
    ({"values": Tile(16, 16, 4, 0)}, r"tiles.values.stages is 0"),
    ({"output": Tile(512, 512, 4, 4)}, r"tiles.output .* bytes of shared memory"),
  )
  def test_tiles_that_do_not_fit(self, wrong, message):
    with self.assertRaisesRegex(ValueError, message):
      triton_gpu.check(dataclasses.replace(SMALL, **wrong), jnp.float32, 90)

  @parameterized.parameters((8, 16), (64, 64), (80, 16), (96, 32), (128, 64), (1, 16))
  def test_default_tiles_waste_little(self, H, width):
    q = jax.ShapeDtypeStruct((1, 512, 4, H), jnp.bfloat16)
    for capability in (80, 86, 90, 100):
      tiles = triton_gpu.defaults(q, q, q, capability)
      triton_gpu.check(tiles, q.dtype, capability)
    self.assertEqual(tiles.output.h, width)


if __name__ == "__main__":
  absltest.main()
