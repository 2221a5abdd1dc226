"""The count of products: loops as often as they turn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import masks, softmax
from attnjax.core.scores import Scores
from attnjax.core.softmax.tiling import Tiles
from experiments.training import cost

N = 4
PRODUCT = 2 * N**3


def _power(x, count):
  return jax.lax.fori_loop(0, count, lambda _, y: y @ x, x)


def _count(function, *arguments, given=False):
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  return cost.flops(jaxpr, jax.tree.leaves(arguments) if given else ())


def _ragged(x):
  """Loops of 3, 0 and 5 turns, which only constants tell."""
  counts = jnp.asarray(np.array([3, 0, 5]))
  return jax.lax.map(lambda count: _power(x, count), counts).sum()


def _with_jvp(function):
  wrapped = jax.custom_jvp(function)
  wrapped.defjvps(lambda dx, *_: dx.sum())
  return wrapped


def _with_vjp(function):
  wrapped = jax.custom_vjp(function)
  wrapped.defvjp(lambda x: (function(x), None), lambda _, g: (g,))
  return wrapped


def _with_vmap(function):
  wrapped = jax.custom_batching.custom_vmap(function)
  wrapped.def_vmap(lambda size, batched, x: (jax.vmap(function)(x), True))
  return wrapped


class CostTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.x = jnp.ones((N, N))

  def test_a_scan_counts_its_length(self):
    count = _count(
      lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=7), self.x
    )
    self.assertEqual(count, 7 * PRODUCT)

  def test_turns_that_constants_tell(self):
    self.assertEqual(_count(_ragged, self.x), 8 * PRODUCT)

  @parameterized.named_parameters(
    ("jit", jax.jit),
    ("checkpoint", jax.checkpoint),
    ("custom_jvp", _with_jvp),
    ("custom_vjp", _with_vjp),
    ("custom_vmap", _with_vmap),
  )
  def test_inside_calls(self, wrap):
    self.assertEqual(_count(lambda x: wrap(_ragged)(x) + 1, self.x), 8 * PRODUCT)

  def test_turns_that_data_tell(self):
    arguments = self.x, jnp.asarray(6)
    self.assertEqual(_count(_power, *arguments), PRODUCT)
    self.assertEqual(_count(_power, *arguments, given=True), 6 * PRODUCT)

  def test_a_batch_of_loops_turns_as_often_as_its_longest(self):
    arguments = jnp.stack([self.x] * 3), jnp.asarray([2, 0, 5])
    count = _count(jax.vmap(_power), *arguments, given=True)
    self.assertEqual(count, 5 * 3 * PRODUCT)

  def test_a_loop_in_a_loop(self):
    def triangle(x, count):
      return jax.lax.fori_loop(0, count, lambda i, y: _power(y, i + 1) @ x, x)

    count = _count(triangle, self.x, jnp.asarray(3), given=True)
    self.assertEqual(count, (1 + 2 + 3 + 3) * PRODUCT)

  def test_a_loop_ends_by_what_it_computes(self):
    def halved(x):
      state = jax.lax.while_loop(
        lambda s: s[0] > 1, lambda s: (s[0] / 2, s[1] @ x), (x[0, 0] * 32, x)
      )
      return state[1]

    self.assertEqual(_count(halved, self.x, given=True), 5 * PRODUCT)

  def test_the_dearest_branch(self):
    def either(x):
      branches = (_ragged, lambda x: (x @ x).sum())
      return jax.lax.cond(x[0, 0] > 0, *reversed(branches), x)

    self.assertEqual(_count(either, self.x), 8 * PRODUCT)

  @parameterized.parameters("forward", "both")
  def test_attention_counts_the_tiles_that_it_visits(self, kind):
    T, H, size = 512, 8, 64
    tiles = Tiles(size, size, key_heads=1)
    mask = masks.Causal() & masks.Window(100, 0)
    q, k, v = jnp.ones((3, 1, T, 2, H))

    def attend(q, k, v):
      out, _ = softmax.chunked(q, k, v, Scores(mask), tiles=(tiles, tiles))
      return out.sum()

    function = attend if kind == "forward" else jax.grad(attend, (0, 1, 2))
    schedule = masks.schedule(mask, (1, 2, T, T), size, size)
    visited = 2 * int(schedule.count.sum())
    # Two products of a tile forward, and five backward.
    products = 2 if kind == "forward" else 7
    want = visited * products * 2 * size * size * H
    self.assertEqual(_count(function, q, k, v), want)

  def test_growth_with_a_window_is_linear(self):
    attend = functools.partial(
      softmax.chunked, scores=Scores(masks.Causal() & masks.Window(127, 0))
    )
    counts = [
      _count(
        lambda q: attend(q, q, q)[0], jax.ShapeDtypeStruct((1, T, 1, 8), "float32")
      )
      for T in (4096, 8192)
    ]
    self.assertAlmostEqual(counts[1] / counts[0], 2, delta=0.05)


if __name__ == "__main__":
  absltest.main()
