"""Reports of masks at the ends of int32, at negative positions, and in containers."""

import copy
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import masks
from attnjax.core.masks.integers import MOST
from tests.public_reports import arrays, attend, close, expected

_ENDS = 2**31 - 2
# Int64: at both ends, and around zero.
_PLACES = np.concatenate(
  [np.arange(-_ENDS - 2, -_ENDS + 2), np.arange(-6, 6), np.arange(_ENDS - 3, _ENDS + 1)]
)
_Q, _K = _PLACES[:, None], _PLACES[None]
_NONE = 2**40  # no limit


def _window(left, right):
  return (_Q - left <= _K) & (_K <= _Q + right)


_FAR = {
  "causal": (masks.Causal(), _K <= _Q),
  "ahead": (masks.Causal(7), _K <= _Q + 7),
  "behind": (masks.Causal(-3), _K <= _Q - 3),
  "all": (masks.Causal(MOST), _K <= _Q + _NONE),
  "more": (masks.Causal(sys.maxsize), _K <= _Q + _NONE),
  "traced": (masks.Causal(jnp.array(2**30)), _K <= _Q + 2**30),
  "traced_down": (masks.Causal(jnp.array(-(2**30))), _K <= _Q - 2**30),
  "least": (masks.Causal(-(2**31)), _K <= _Q - 2**31),
  "traced_least": (masks.Causal(jnp.array(-(2**31))), _K <= _Q - 2**31),
  "window": (masks.Window(5, 2), _window(5, 2)),
  "left": (masks.Window(5, MOST), _window(5, _NONE)),
  "right": (masks.Window(sys.maxsize, 1), _window(_NONE, 1)),
  "wide": (masks.Window(2**31 - 2, 2**31 - 2), _window(2**31 - 2, 2**31 - 2)),
  "traced_window": (
    masks.Window(jnp.array([2**31 - 2]), jnp.array(3)),
    _window(2**31 - 2, 3),
  ),
  "dilated": (masks.Dilated(3), (_Q - _K) % 3 == 0),
  "dilated_far": (masks.Dilated(2**33), _Q == _K),
  "chunked": (masks.Chunked(4), _Q // 4 == _K // 4),
  "chunked_far": (masks.Chunked(2**40), (_Q < 0) == (_K < 0)),
  "lengths": (masks.Lengths(3, sys.maxsize), (_K < 3) & (_Q == _Q)),
  "no_lengths": (masks.Lengths(-(2**31), 5), (_K < -(2**31)) & (_Q < 5)),
  "traced_no_lengths": (
    masks.Lengths(jnp.array([-(2**31)]), sys.maxsize),
    (_K < -(2**31)) & (_Q == _Q),
  ),
  "intervals": (
    masks.Intervals(_PLACES - 2**33, np.where(_PLACES < 0, 2**40, -(2**40))),
    (_Q < 0) & (_K == _K),
  ),
  "diffusion": (masks.BlockDiffusion(2, 3), None),
}


class EndsTest(parameterized.TestCase):
  """CyberZHG/keras-self-attention#10, flash-attention#1133, transformers#40214."""

  @parameterized.parameters(*_FAR)
  def test_at_the_ends_of_int32(self, name):
    mask, want = _FAR[name]
    size = _PLACES.size
    got = np.asarray(mask.dense(size, size, _PLACES[None], _PLACES[None]))[0, 0]
    if want is None:
      inside = (_PLACES >= 0) & (_PLACES < 6)
      self.assertFalse(got[~inside].any() or got[:, ~inside].any())
      self.assertEqual(got.sum(), 5 + 2 + 7)
      return
    np.testing.assert_array_equal(got, np.broadcast_to(want, got.shape))
    for xp in (np, jnp):  # blocks, from static and from traced positions
      places = xp.asarray(_PLACES[None].astype(np.int32))
      kind = masks.kinds(mask, (1, 1, size, size), 4, 4, places, places, refine=False)
      _certain(self, np.asarray(kind)[0, 0], got)

  @parameterized.parameters(
    (lambda q, k: q * k < 0,),
    (lambda q, k: q + k > 2**30,),
    (lambda q, k: abs(q - k) < 4,),
    (lambda q, k: -q <= k,),
    (lambda q, k: jax.lax.rem(q, k) == 0,),
    (lambda q, k: jax.lax.div(q, k) > 0,),
    (lambda q, k: q.astype(jnp.int8) > 3,),
    (lambda q, k: q.astype(jnp.uint32) > k.astype(jnp.uint32),),
    (lambda q, k: (q.astype(jnp.float32) * 4).astype(jnp.int32) < k,),
    (lambda q, k: jnp.minimum(q, k ^ 3) == q,),
  )
  def test_bounds_know_that_integers_wrap(self, function):
    mask, size = masks.Where(function), _PLACES.size
    places = _PLACES[None].astype(np.int32)
    got = np.asarray(mask.dense(size, size, places, places))[0, 0]
    for xp in (np, jnp):
      own = xp.asarray(places)
      kind = masks.kinds(mask, (1, 1, size, size), 4, 4, own, own, refine=False)
      _certain(self, np.asarray(kind)[0, 0], got)

  def test_windows_without_a_limit(self):
    given = arrays(9)
    for window in ((16, MOST), MOST, (sys.maxsize, 16), (None, None), (2**40, 2**40)):
      got = attend(*given, local_window_size=window, impl="reference")
      close(got, expected(*given))

  @parameterized.parameters(
    ({"query_positions": 2**31 - 8}, "query_positions = 2147483649"),
    ({"key_positions": -(2**31) - 1}, "key_positions = -2147483649"),
    ({"key_positions": np.arange(9)[None] + 2**31 - 4}, "key_positions.*to 2147483652"),
    ({"query_positions": np.array([2**31 - 4])}, "query_positions.*2147483652"),
    (
      {"mask": masks.Permuted(masks.Causal(), np.arange(9) + 2**32, np.arange(9))},
      "order",
    ),
  )
  def test_positions_that_do_not_fit(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      attend(*arrays(9), is_causal=True, **options)

  def test_traced_positions_that_do_not_fit_are_no_answer(self):
    run = jax.jit(
      lambda first: attend(*arrays(9), is_causal=True, query_positions=first)
    )
    self.assertTrue(np.isnan(run(2**31 - 4)).all())
    close(run(3), attend(*arrays(9), is_causal=True, query_positions=3))

  def test_ids_of_64_bits(self):
    """Documents numbered by hashes: 2^32 and 0 are two."""
    ids = np.array([[0, 2**32, 2**32, -(2**40), 5, 2**63 - 1, 2**31, -(2**31), 0]])
    same = (ids[:, :, None] == ids[:, None]) & (ids >= 0)[:, None]
    given = arrays(9)
    close(attend(*given, segment_ids=ids, impl="reference"), expected(*given, same))
    unsigned = ids.astype(np.uint64)
    got = masks.Segments(unsigned, unsigned).dense(9, 9)[0, 0]
    np.testing.assert_array_equal(got, ids[0][:, None] == ids[0])
    with jax.enable_x64(True):
      wide = jnp.asarray(ids)
      got = jax.jit(lambda i: masks.Segments(i, i).dense(9, 9))(wide)
      np.testing.assert_array_equal(got[0], same)


def _certain(test, kind, seen):
  """Asserts that no block is called empty or full that is not."""
  for i, j in np.ndindex(kind.shape):
    block = seen[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
    if kind[i, j] == masks.EMPTY:
      test.assertFalse(block.any(), (i, j))
    if kind[i, j] == masks.FULL:
      test.assertTrue(block.all(), (i, j))


class ContainerTest(absltest.TestCase):
  def test_copies(self):
    """google/flax#4247, #1467, #3846."""
    mask = masks.Causal() & masks.Window(np.array([2]), 3)
    for same in (pickle.loads(pickle.dumps(mask)), copy.deepcopy(mask)):
      np.testing.assert_array_equal(same.dense(5, 5), mask.dense(5, 5))

  def test_a_mask_as_attribute_of_a_module(self):
    """google/flax#4497, p-doom/jasmine#228, bonsai#47."""

    class Layer(nnx.Module):
      def __init__(self):
        self.mask = masks.Causal() & masks.Window(4, 0)

    graph, state = nnx.split(Layer())
    got = nnx.merge(graph, state).mask.dense(8, 8)
    np.testing.assert_array_equal(got, Layer().mask.dense(8, 8))

  def test_one_trace_for_several_windows(self):
    """meta-pytorch/attention-gym#28, equinox#798."""
    traces = []

    @jax.jit
    def run(mask):
      traces.append(1)
      return mask.dense(6, 6)

    for left in (1, 2, 3):
      got = run(masks.Window(left, 0))
      np.testing.assert_array_equal(got, masks.Window(left, 0).dense(6, 6))
    self.assertLen(traces, 1)


if __name__ == "__main__":
  absltest.main()
