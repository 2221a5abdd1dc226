"""How long block lists are, and how they are made, constant, traced or large."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import masks
from attnjax.core.masks import Causal, Window, entries

_T = 1 << 14


def _lengths(make, ids):
  plan = jax.eval_shape(
    lambda ids: masks.schedule(make(ids), (2, 4, _T, _T), 128, 256), ids
  )
  return plan.index.shape[-1], plan.index_t.shape[-1]


class ScheduleTest(parameterized.TestCase):
  def test_static_parts_bound_the_lists_of_traced_ones(self):
    ids = jax.ShapeDtypeStruct((2, _T), jnp.int32)
    window = masks.schedule(Window(1023, 0), (2, 4, _T, _T), 128, 256)
    alone = window.index.shape[-1], window.index_t.shape[-1]
    self.assertLess(max(alone), 12)
    for make in (
      lambda i: Window(1023, 0) & masks.Segments(i, i),
      lambda i: masks.Segments(i, i) & Window(1023, 0),
    ):
      self.assertEqual(_lengths(make, ids), alone)
    self.assertEqual(_lengths(lambda i: masks.Segments(i, i), ids), (64, 128))

  @parameterized.parameters(
    (masks.Where(lambda q, k: (q ^ k) < 64), 0),  # elements tell more than bounds
    (Causal() & Window(20, 500), 2**31 - 300),  # int32 bounds are wide here
  )
  def test_lists_of_traced_parts_lose_no_block(self, mask, start):
    shape, seen = (1, 1, 256, 256), np.ones((1, 1, 256, 256), bool)
    want = masks.schedule(mask, shape, 32, 32, start, start)
    given = jnp.asarray(seen)
    found = masks.schedule(mask & masks.Dense(given), shape, 32, 32, start, start)
    for name in ("index", "count", "index_t", "count_t"):
      np.testing.assert_array_equal(getattr(found, name), getattr(want, name), name)

  def test_traced_positions_bound_nothing(self):
    def plan(positions):
      ids = jnp.zeros((1, 1024), jnp.int32)
      mask = Window(7, 0) & masks.Segments(ids, ids)
      return masks.schedule(mask, (1, 1, 1024, 1024), 128, 128, positions)

    found = jax.jit(plan)(jnp.full((1, 1024), 1023, jnp.int32).at[0, 0].set(0))
    self.assertEqual(found.index.shape[-1], 8)
    self.assertEqual(found.count[0, 0].tolist(), [8] + [1] * 7)

  def test_visits_are_the_lists_together(self):
    shape = 1, 1, 1000, 1300
    for mask in (
      Causal(),
      Causal(-500),
      Window(300, 50),
      Window(300, 0) & Causal(-700),
    ):
      plan = masks.schedule(mask, shape, 128, 256)
      for count, found in ((plan.count, plan.visits), (plan.count_t, plan.visits_t)):
        self.assertEqual(found, np.maximum(count, 1).sum())

    def traced(ids):
      return masks.schedule(
        Causal() & masks.Segments(ids[:, :1000], ids), shape, 128, 256
      )

    ids = jax.ShapeDtypeStruct((1, 1300), jnp.int32)
    plan, known = jax.eval_shape(traced, ids), masks.schedule(Causal(), shape, 128, 256)
    self.assertEqual((plan.visits, plan.visits_t), (known.visits, known.visits_t))

  def test_lists_of_data_are_those_of_constants(self):
    kind = np.random.default_rng(0).integers(0, 3, (2, 3, 5, 7)).astype(np.int8)
    kind[0, 0, 0] = 0
    most = int((kind > 0).sum(-1).max())
    for row, (index, full, count) in zip(
      kind.reshape(-1, 7), zip(*(x.reshape(30, -1) for x in entries.lists(kind, most)))
    ):
      want = [*np.flatnonzero(row == 2), *np.flatnonzero(row == 1)]
      self.assertEqual(index[: count[0]].tolist(), want)
      self.assertEqual(full[0], (row == 2).sum())
      self.assertTrue((index[count[0] :] == (want or [0])[-1]).all())
    traced = jax.jit(lambda kind: entries.lists(kind, most))(kind)
    for one, other in zip(traced, entries.lists(kind, most), strict=True):
      np.testing.assert_array_equal(one, other)

  @parameterized.parameters(
    (Causal(), 500, 1300), (Window(300, 50), 1000, 1000), (Window(10, 10), 1300, 700)
  )
  def test_large_lists_are_no_constants(self, mask, T, S):
    def plan():
      return masks.schedule(mask, (1, 1, T, S), 128, 128)

    want = plan()
    with mock.patch.object(entries, "_LARGE", 0):
      made = jax.make_jaxpr(plan)()
      got = jax.jit(lambda: jax.tree.leaves(plan()))()
    self.assertLess(max(np.size(x) for x in made.consts), want.index.size)
    for one, other in zip(got, jax.tree.leaves(want), strict=True):
      np.testing.assert_array_equal(one, other)

  def test_rows_with_holes_stay_constants(self):
    mask = Window(130, 0) | Causal(-900)
    with mock.patch.object(entries, "_LARGE", 0):
      plan = masks.schedule(mask, (1, 1, 2048, 2048), 128, 128)
    self.assertIsInstance(plan.index, np.ndarray)


if __name__ == "__main__":
  absltest.main()
