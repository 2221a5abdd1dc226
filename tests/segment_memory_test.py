"""Segment memory in the language host: two segments are one row, without a gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import language
from attnjax.nn.segment_memory import SegmentMemory

_TOKENS = jax.random.randint(jax.random.key(0), (2, 14), 0, 17)
_CUT = 8


def _model(*builds, **changes) -> Any:
  """A model of (slug, options), one a layer of the pattern."""
  builds = [contract.constructor(s, {"heads": 2} | o, ("causal",)) for s, o in builds]
  options = {"vocab": 17, "dim": 8, "depth": 2, "rngs": nnx.Rngs(0)} | changes
  model = language.Model(builds, **options)
  leaves, tree = jax.tree.flatten(model)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  drawn = [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
  return jax.tree.unflatten(tree, drawn)


@functools.partial(jax.jit, static_argnames="length")
def _two(model, first, second, length, **context):
  """Logits of both segments, and the memory after them."""
  memory = model.init_memory(first.shape[0], length)
  one, memory = model(first, memory=memory, **context)
  two, memory = model(second, memory=memory)
  return jnp.concatenate([one, two], axis=1), memory


class SegmentMemoryTest(parameterized.TestCase):
  @parameterized.parameters(
    ((("dot_product", {}),), 3),
    ((("rcmha", {"conv_halo": True, "max_distance": 9}), ("dot_product", {})), 0),
  )
  def test_two_segments_are_one_row(self, builds, conv):
    model = _model(*builds, conv=conv)
    whole = jax.jit(lambda model, x: model(x))(model, _TOKENS)
    got, memory = _two(model, _TOKENS[:, :_CUT], _TOKENS[:, _CUT:], 10)
    _close(got, whole)
    # Of 14 inputs the first layer keeps the last 10.
    _close(memory[0].x[0], model.embed.embedding[...][_TOKENS[:, 4:]])
    np.testing.assert_array_equal(memory[-1].segment_ids, 0)

  def test_a_memory_reaches_as_far_as_it_is_long(self):
    model = _model(("dot_product", {}), depth=1)
    first, second = _TOKENS[:, :_CUT], _TOKENS[:, _CUT:]
    got = _two(model, first, second, 3)[0]
    for place, changes in ((4, False), (5, True)):
      other = first.at[:, place].set((first[:, place] + 1) % 17)
      change = jnp.abs(_two(model, other, second, 3)[0] - got)[:, _CUT:].max()
      self.assertEqual(bool(change > 1e-4), changes, place)

  def test_no_gradient_goes_into_the_first_segment(self):
    model = _model(("dot_product", {}), tied=False)
    first, second = jnp.arange(8)[None], 8 + jnp.arange(6)[None]

    def loss(model):
      return jnp.sum(jnp.sin(_two(model, first, second, 8)[0][:, _CUT:]))

    by_rows = jax.grad(loss)(model).embed.embedding[...]
    np.testing.assert_array_equal(by_rows[:8], 0)
    self.assertGreater(np.abs(by_rows[8:14]).min(), 0)

  def test_padding_and_other_documents_are_not_recalled(self):
    model = _model(("dot_product", {}), depth=1, conv=3)
    first, second = _TOKENS[:, :_CUT], _TOKENS[:, _CUT:]
    alone = jax.jit(lambda model, x: model(x))(model, second)
    padding = {"valid": jnp.zeros(first.shape, bool)}
    document = {"segment_ids": jnp.full(first.shape, 4)}
    for context in (padding, document):
      _close(_two(model, first, second, 10, **context)[0][:, _CUT:], alone)

  def test_keeps_the_last_inputs(self):
    x = jnp.arange(10.0).reshape(1, 5, 2)
    memory = SegmentMemory.empty(1, 3, 2)
    short = memory.after(x[:, :2])
    np.testing.assert_array_equal(short.segment_ids, [[-1, 0, 0]])
    after = short.after(x[:, 2:4], jnp.array([[7, -1]]))
    np.testing.assert_array_equal(after.segment_ids, [[0, 7, -1]])
    np.testing.assert_array_equal(after.x[0], x[0, 1:4])
    by_x = jax.grad(lambda x: memory.after(x).x.sum())(x)
    np.testing.assert_array_equal(by_x, 0)

  def test_refusals(self):
    model = _model(("dot_product", {}))
    with self.assertRaisesRegex(NotImplementedError, "positions with a memory"):
      model(_TOKENS, memory=model.init_memory(2, 3), positions=jnp.arange(14)[None])


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
