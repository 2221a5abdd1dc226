"""The algebra of masks: the dense oracle, blocks, lists, in any combination."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import masks
from attnjax.core.masks import Causal, Chunked, Dense, Dilated, Full, Lengths, Window

_RANDOM = np.random.default_rng(3)
_B, _N, _T, _S = 2, 3, 37, 45


def _leaves(xp=np):
  """One mask of each kind over (2, 3, 37, 45), with arrays of that module."""
  ids = xp.asarray(np.sort(_RANDOM.integers(-1, 4, (_B, _T))))
  kv_ids = xp.asarray(np.sort(_RANDOM.integers(-1, 4, (_B, _S))))
  lists = xp.asarray(_RANDOM.integers(0, 6, (_B, _N, 5, 2)).astype(np.int32))
  count = xp.asarray(_RANDOM.integers(0, 3, (_B, _N, 5)).astype(np.int32))
  bits = _RANDOM.integers(0, 2**32, (_T, 2), dtype=np.uint32)
  flags = [xp.asarray(_RANDOM.random((1, n)) < 0.1) for n in (_T, _S)]
  ends = _RANDOM.integers(0, _S // 2, (2, _B, _T))
  return {
    "full": Full(),
    "causal": Causal(),
    "causal_offset": Causal(5),
    "causal_traced": Causal(xp.asarray([3, -4])),
    "window": Window(6, 2),
    "left": Window(4, None),
    "traced_window": Window(xp.asarray([2, 9]), 0),
    "dilated": Dilated(3),
    "chunked": Chunked(10),
    "lengths": Lengths(xp.asarray([13, 45]), xp.asarray([37, 20])),
    "prefix": masks.prefix_lm(xp.asarray([9, 20])),
    "segments": masks.Segments(ids, kv_ids),
    "intervals": masks.Intervals(xp.asarray(ends[0]), xp.asarray(ends.sum(axis=0))),
    "dense": Dense(xp.asarray(_RANDOM.random((_T, _S)) < 0.4)),
    "keys": Dense(xp.asarray(_RANDOM.random((_B, 1, 1, _S)) < 0.5)),
    "bits": masks.packed_bits(xp.asarray(bits), _S),
    "global": masks.Global(*flags),
    "blocks": masks.Blocks(lists, count, 8, 8, _T, _S),
    "heads": masks.per_head([Causal(), Window(3, 3), Causal()]),
    "where": masks.Where(lambda q, k: (q + k) % 5 < 2),
  }


_NAMES = sorted(_leaves())
_PAIRS = random.Random(0).sample(list(itertools.combinations(_NAMES, 2)), 24)


class AlgebraTest(parameterized.TestCase):
  def _check(self, mask, block_q=8, block_k=8, refine=True):
    shape = (_B, _N, _T, _S)
    dense = np.asarray(mask.dense(_T, _S))
    whole = np.broadcast_to(dense, shape)
    plan = jax.tree.map(
      np.asarray, masks.schedule(mask, shape, block_q, block_k, refine=refine)
    )
    visited = np.zeros((_B, _N, -(-_T // block_q), -(-_S // block_k)), int)
    for b, n, i in itertools.product(*map(range, visited.shape[:3])):
      own = b * (plan.count.shape[0] > 1), n * (plan.count.shape[1] > 1), i
      count, full = plan.count[own], plan.full[own]
      listed = plan.index[own][:count]
      self.assertLen(set(listed.tolist()), count)
      visited[b, n, i, listed[:full]] = masks.FULL
      visited[b, n, i, listed[full:]] = masks.PARTIAL
      for j in range(visited.shape[3]):
        columns = slice(j * block_k, (j + 1) * block_k)
        block = whole[b, n, i * block_q : (i + 1) * block_q, columns]
        if visited[b, n, i, j] == masks.EMPTY:
          self.assertFalse(block.any())
        if visited[b, n, i, j] == masks.FULL:
          self.assertTrue(block.all() and block.shape[1] == block_k)
    self._check_transposed(plan, visited)
    return visited, whole

  def _check_transposed(self, plan, visited):
    for b, n, j in itertools.product(*map(range, (_B, _N, visited.shape[3]))):
      own = b * (plan.count.shape[0] > 1), n * (plan.count.shape[1] > 1), j
      count, full = plan.count_t[own], plan.full_t[own]
      column = visited[b, n, :, j]
      want = [set(np.flatnonzero(column == kind)) for kind in (masks.FULL, 1)]
      listed = plan.index_t[own].tolist()
      self.assertEqual([set(listed[:full]), set(listed[full:count])], want)

  @parameterized.parameters(*_NAMES)
  def test_lists_of_every_leaf_are_right(self, name):
    for xp in (np, jnp):
      self._check(_leaves(xp)[name])
    visited, whole = self._check(_leaves()[name], 16, 4, refine=False)
    if name in ("causal", "window", "left", "causal_offset"):  # as tight as can be
      for i, j in np.ndindex(visited.shape[2:]):
        block = whole[0, 0, 16 * i : 16 * i + 16, 4 * j : 4 * j + 4]
        self.assertEqual(visited[0, 0, i, j] > 0, block.any())

  @parameterized.parameters(*_PAIRS)
  def test_combinations(self, first, second):
    leaves = _leaves()
    a, b = leaves[first], leaves[second]
    whole = [
      np.asarray(jnp.broadcast_to(x.dense(_T, _S), (_B, _N, _T, _S))) for x in (a, b)
    ]
    for mask, want in (
      (a & b, whole[0] & whole[1]),
      (a | b, whole[0] | whole[1]),
      (a & ~b, whole[0] & ~whole[1]),
      (~(a | ~b), ~whole[0] & whole[1]),
    ):
      got = self._check(mask)[1]
      np.testing.assert_array_equal(got, want)

  def test_traced_lists_need_no_second_trace(self):
    traces = []

    @jax.jit
    def lists(ids, lengths, offset):
      traces.append(1)
      mask = Causal(offset) & masks.Segments(ids, ids) & Lengths(lengths)
      return masks.schedule(mask, (2, 1, 32, 32), 8, 8)

    for seed in range(3):
      rng = np.random.default_rng(seed)
      ids = np.sort(rng.integers(0, 3, (2, 32)))
      plan = lists(ids, jnp.array([32, 5 + seed]), jnp.array(seed))
      mask = Causal(seed) & masks.Segments(ids, ids) & Lengths(np.array([32, 5 + seed]))
      dense = np.asarray(mask.dense(32, 32))[:, 0].reshape(2, 4, 8, 4, 8)
      np.testing.assert_array_less(dense.any(axis=(2, 4)).sum(-1) - 1, plan.count[:, 0])
    self.assertLen(traces, 1)

  def test_documents_visit_their_own_blocks_only(self):
    ids = jnp.repeat(jnp.arange(8), 16)[None]
    plan = jax.jit(
      lambda ids: masks.schedule(masks.Segments(ids, ids), (1, 1, 128, 128), 16, 16)
    )(ids)
    np.testing.assert_array_equal(plan.count, np.ones((1, 1, 8)))
    np.testing.assert_array_equal(plan.full, np.ones((1, 1, 8)))
    self.assertAlmostEqual(float(plan.density()), 1 / 8)

  def test_an_offset_crops_the_dense_mask(self):
    mask = Causal() & Window(9, 0)
    whole = np.asarray(mask.dense(40, 40))
    q = jnp.arange(20, 33)[None]
    got = mask.dense(13, 40, query_positions=q)
    np.testing.assert_array_equal(got, whole[:, :, 20:33])
    a = masks.schedule(mask, (1, 1, 16, 40), 8, 8, 16)
    b = masks.schedule(mask, (1, 1, 40, 40), 8, 8)
    np.testing.assert_array_equal(a.count[0, 0], b.count[0, 0, 2:4])

  def test_permuted_tokens_keep_their_mask(self):
    order = np.random.default_rng(0).permutation(_T)
    mask = masks.permute(Causal(), order)
    want = np.tri(_T, dtype=bool)[order][:, order]
    np.testing.assert_array_equal(mask.dense(_T, _T)[0, 0], want)
    masks.schedule(mask, (1, 1, _T, _T), 8, 8)

  def test_full_in_a_conjunction_and_double_negation_change_nothing(self):
    mask = Window(3, 1)
    shape = (1, 1, 32, 32)
    for same in (mask & Full(), ~~mask):
      kinds = [masks.kinds(m, shape, 4, 4, refine=True) for m in (mask, same)]
      np.testing.assert_array_equal(*kinds)

  def test_tree_sees_ancestors(self):
    parent = np.array([-1, 0, 0, 1, 3, 2])
    got = masks.tree(parent).dense(6, 6)[0, 0]
    want = np.eye(6, dtype=bool)
    for node in range(6):
      above = parent[node]
      while above >= 0:
        want[node, above] = True
        above = parent[above]
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(
      masks.tree(jnp.asarray(parent)).dense(6, 6)[0, 0], want
    )

  def test_block_diffusion(self):
    got = np.asarray(masks.BlockDiffusion(2, 6).dense(12, 12))[0, 0]
    for q, k in np.ndindex(12, 12):
      clean_q, clean_k = q >= 6, k >= 6
      i, j = q % 6 // 2, k % 6 // 2
      want = (
        (not clean_q and not clean_k and i == j)
        or (not clean_q and clean_k and j < i)
        or (clean_q and clean_k and j <= i)
      )
      self.assertEqual(got[q, k], want, (q, k))

  def test_selected_blocks(self):
    scores = jnp.array([[[[1.0, 3, 2, -jnp.inf], [0, -jnp.inf, -jnp.inf, -jnp.inf]]]])
    forced = jnp.zeros(scores.shape, bool).at[0, 0, 0, 3].set(True)
    mask = masks.select(scores, 2, block_q=4, block_k=4, T=8, S=16, forced=forced)
    rows = np.asarray(mask.dense(8, 16))[0, 0, ::4, ::4]
    np.testing.assert_array_equal(rows, [[0, 1, 0, 1], [1, 0, 0, 0]])
    plan = masks.schedule(mask, (1, 1, 8, 16), 4, 4)
    self.assertEqual(plan.index.shape[-1], 2)  # the lists are no longer than asked
    np.testing.assert_array_equal(plan.full, [[[2, 1]]])

  def test_printing_draws(self):
    picture = str(Causal()).splitlines()
    self.assertLen(picture, 17)
    self.assertEqual(picture[1].strip(), "█")
    self.assertEqual(picture[-1], "█" * 16)
    axes = masks.draw(Window(1, 1), 8, block=4)
    self.assertEqual(axes.images[0].get_array().shape, (8, 8))

  @parameterized.parameters(
    (lambda: Window(-1, 0), "left = -1"),
    (lambda: Chunked(0), "size = 0"),
    (lambda: Dense(np.ones((3, 3))).operands(), "float64.*boolean"),
    (lambda: Dense(np.ones((4, 4), bool)).check((1, 1, 3, 4)), r"\(1, 1, 3, 4\)"),
    (
      lambda: masks.Neighborhood((4, 4), (3, 3)).check((1, 1, 8, 8)),
      "16 tokens",
    ),
    (lambda: masks.packed_bits(np.zeros((3, 1), np.int32), 20), "uint32"),
  )
  def test_errors(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()


if __name__ == "__main__":
  absltest.main()
