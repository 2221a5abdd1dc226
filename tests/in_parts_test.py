"""How tokens are cut into parts that are passed at the same time, and joined again."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import AxisType

from pallas_kernels import calling, decayed_linear, in_parts, prefix_softmax


def launches(function, *arguments):
  """(name, programs) of every kernel that is called."""
  found = []

  def record(*_, grid, out_type, name, **options):
    del options
    found.append((name.split("_", 2)[2], *grid))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out_type)

  with mock.patch.object(calling, "triton", record):
    jax.eval_shape(function, *arguments)
  return found


def decayed(x, decay):
  out, _ = decayed_linear.attend(x, x, x, decay, impl="triton")
  return out.astype(jnp.float32).sum()


def prefix(scores, values):
  out, _, _ = prefix_softmax.prefix(scores, values, impl="triton")
  return out.astype(jnp.float32).sum()


class InPartsTest(parameterized.TestCase):
  @parameterized.parameters(
    (64, 64, 8),  # no fewer than 8 chunks in a part
    (32, 2048, 16),  # 512 programs
    (100, 2048, 5),
    (127, 2048, 4),
    (128, 2048, 1),  # enough
    (1, 32, 4),
    (1, 31, 1),  # three parts would take as long
    (0, 64, 1),
    (8, 0, 1),
  )
  def test_number(self, programs, chunks, parts):
    self.assertEqual(in_parts.number(programs, chunks), parts)

  @parameterized.parameters((1, 7), (3, 3), (4, 2), (7, 1), (9, 1))
  def test_spans(self, parts, span):
    self.assertEqual(in_parts.span(parts, 7), span)

  def test_starts_follow_each_other(self, parts=40):
    r = np.random.default_rng(0)
    kept, first = r.random((parts - 1, 2, 3)), r.normal(size=(2, 3, 4, 5))
    ends = r.normal(size=(parts - 1, 2, 3, 4, 5))
    kept[-1, 0, 0] = 0
    want = [first]
    for keep, end in zip(kept, ends):
      want.append(keep[..., None, None] * want[-1] + end)
    kept, ends = (jnp.asarray(x, jnp.float32) for x in (kept, ends))
    found = in_parts.starts(kept, ends, jnp.asarray(first, jnp.float32))
    np.testing.assert_allclose(found, np.stack(want), rtol=1e-5, atol=1e-5)
    nothing = in_parts.starts(kept, ends, None)
    np.testing.assert_array_equal(nothing[0], 0)
    np.testing.assert_array_equal(nothing[1], ends[0])

  def test_starts_from_what_all_devices_share(self):
    first = jnp.ones((2, 3))
    mesh, cut = jax.make_mesh((1,), ("x",), (AxisType.Auto,)), jax.P(None, "x")
    run = functools.partial(in_parts.starts, first=first)
    run = jax.shard_map(run, mesh=mesh, in_specs=(cut, cut), out_specs=cut)
    found = run(jnp.ones((4, 2)), jnp.ones((4, 2, 3)))
    np.testing.assert_array_equal(found[4], 5)

  def test_few_programs_go_twice(self):
    x = jax.ShapeDtypeStruct((2, 4096, 8, 128), jnp.bfloat16)
    line = jax.ShapeDtypeStruct((2, 4096, 8), jnp.float32)
    # Of 16 heads, four tiles of a state each; 64 chunks.
    states = [("ends", 7 * 64), ("states", 8 * 64)]
    output, keys, values = 16 * 64, 2 * 16 * 64, 16 * 64
    rest = ("keys", keys), ("values", values)
    self.assertEqual(
      launches(jax.grad(decayed), x, line),
      [*states, ("output", output), *states, *states, *rest],
    )
    # Two pieces of each head's values: their ends are sums, by no kernel of ours.
    number = 8 * 32
    found = launches(jax.grad(prefix, (0, 1)), line, x)
    self.assertEqual(found, [("forward", number), ("backward", number)])


if __name__ == "__main__":
  absltest.main()
