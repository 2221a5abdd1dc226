"""The GPU kernels, in Triton's interpreter, against the definition."""

from tests import simulate  # first: sets TRITON_INTERPRET

# ruff: isort: split
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core.recurrence import linear
from pallas_kernels import decayed_linear
from pallas_kernels.decayed_linear import triton_gpu
from pallas_kernels.decayed_linear.triton_gpu import Tile, Tiles
from tests.decayed_linear import recurrence
from tests.decayed_linear.problems import Problem, errors, excess

# Several tiles each way in few columns.
SMALL = Tiles(32, *[Tile(16, 16, 4, 2)] * 4)
# Parts of two chunks, of which 70 tokens fill two and begin a third.
PARTS = Tiles(16, *[Tile(16, 16, 4, 2)] * 4, parts=3)
# One ends with a part, others go on through two.
RUNS = 20, 12, 28, 10


def weighted(q, k, v, log_decay, *, initial_state, segment_ids, scale):
  """The plain formula: weights, rounded to the inputs' type, times the values."""
  del initial_state, segment_ids
  sums = jnp.cumsum(log_decay, 1).swapaxes(1, 2)
  line = jnp.arange(q.shape[1])
  seen = line[:, None] >= line
  fade = jnp.exp(jnp.where(seen, sums[..., :, None] - sums[..., None, :], -jnp.inf))
  scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type="float32")
  weights = (scale * scores * fade).astype(v.dtype)
  out = jnp.einsum("bnts,bsnv->btnv", weights, v, preferred_element_type="float32")
  faded = (k * fade[:, :, -1].swapaxes(1, 2)[..., None]).astype(v.dtype)
  state = jnp.einsum("bsnh,bsnv->bnhv", faded, v, preferred_element_type="float32")
  return out.astype(v.dtype), state


class TritonGpuTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("packed", Problem(2, 100, 4, 2, 24, 40, (2, 100, 4), (20, 57, 7, 16)), SMALL),
    ("one_token", Problem(1, 1, 3, 1, 8, 5, (1, 1, 3))),
    ("no_decay", Problem(1, 63, 1, 1, 8, 8, state=False, scale=1.0)),
    ("no_decay_packed", Problem(1, 65, 2, 1, 24, 16, runs=(50, 15))),
    ("whole_tiles", Problem(1, 64, 2, 1, 64, 32, (1, 1, 2))),
    ("parts_packed", Problem(1, 70, 2, 1, 16, 8, (1, 70, 2), RUNS), PARTS),
  )
  def test_is_the_definition(self, problem, tiles=None):
    for error in errors(problem, "triton", tiles):
      self.assertLess(error, 2e-5)

  def test_a_reset_hides_no_decay(self):
    tiles = dataclasses.replace(SMALL, parts=2)  # of two chunks, and of one
    run = functools.partial(decayed_linear.attend, impl="triton", tiles=tiles)
    with simulate.accelerators(detect_races=False):
      recurrence.check(run, *recurrence.hard(70))

  def test_bfloat16(self):
    problem = Problem(1, 100, 2, 2, 64, 64, (1, 100, 1), dtype="bfloat16")
    for name, part in excess(problem, "triton").items():
      self.assertLessEqual(part, 1.0, name)

  @parameterized.parameters(
    Problem(1, 70, 1, 1, 24, 16, (1, 70, 1), RUNS, dtype="bfloat16"),
    Problem(1, 70, 1, 1, 16, 24, dtype="float16"),
  )
  def test_parts_of_16_bits(self, problem):
    for name, part in excess(problem, "triton", PARTS).items():
      self.assertLessEqual(part, 1.0, name)

  def test_float16_is_as_exact_as_the_plain_formula(self):
    problem = Problem(1, 100, 2, 2, 64, 64, (1, 100, 1), state=False, dtype="float16")
    found = errors(problem, "triton")
    plain = errors(problem, "triton", function=weighted)
    for place, (error, other) in enumerate(zip(found, plain, strict=True)):
      # Results, then gradients; the decays' is float32 in the kernels alone.
      self.assertLess(error, (2 if place < 2 else 3) * other + 2.0**-12, place)

  def test_states_beyond_float16(self):
    keys = jax.random.split(jax.random.key(1), 3)
    q, k, v = (jax.random.normal(key, (1, 100, 2, 16), "float16") for key in keys)
    q, k, v = q / 256, 128 * k, 128 * v
    with simulate.accelerators(detect_races=False):
      out, state = decayed_linear.attend(q, k, v, impl="triton", tiles=SMALL)
    want, last = linear.recurrent(*(x.astype("float32") for x in (q, k, v)), None)
    self.assertGreater(np.abs(last).max(), 2 * 65504)
    for x, y in ((out, want), (state, last)):
      self.assertLess(np.abs(x - y).max(), 1e-3 * np.abs(y).max())

  def test_two_runs_are_bit_equal(self):
    problem = Problem(1, 40, 2, 2, 8, 8, (1, 40, 2))
    how = {"impl": "triton", "tiles": PARTS}
    with simulate.accelerators(detect_races=False):
      runs = [
        problem.run(decayed_linear.attend, problem.arrays(), **how) for _ in range(2)
      ]
    jax.tree.map(np.testing.assert_array_equal, *runs)

  @parameterized.parameters(
    ({"chunk": 48}, r"tiles.chunk is 48; it must be a power of two"),
    ({"parts": 0}, r"tiles.parts is 0; it must be at least 1"),
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
