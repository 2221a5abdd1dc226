"""Agent attention: what the paper and its code promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core import softmax
from attnjax.core.compaction import Compaction
from attnjax.variants.linear import agent_attention
from attnjax.variants.linear.agent_attention.arrangement import averages
from attnjax.variants.softmax import dot_product


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def _layer(**options):
  options: dict[str, Any] = {"heads": 2, "num_agents": 4, "grid": 3} | options
  return agent_attention.Layer(16, **{"form": "image"} | options, rngs=nnx.Rngs(0))


_run = jax.jit(lambda layer, x, **given: layer(x, **given))
_weights = jax.jit(lambda layer, x, **given: contract.weights(layer, x, **given))


class AttendTest(parameterized.TestCase):
  def test_the_matrix_is_stochastic_and_of_low_rank(self):
    q, k, agents = (
      _normal(0, 1, 12, 2, 8),
      _normal(1, 1, 15, 2, 8),
      _normal(2, 1, 3, 2, 8),
    )
    eye = jnp.broadcast_to(jnp.eye(15)[:, None], (1, 15, 2, 15))
    matrix = agent_attention.attend(q, k, eye, agents).swapaxes(1, 2)
    _close(matrix.sum(-1), jnp.ones((1, 2, 12)))
    self.assertGreaterEqual(float(matrix.min()), 0)
    rank = np.linalg.matrix_rank(np.asarray(matrix, np.float64), tol=1e-5)
    self.assertEqual(rank.max(), 3)

  def test_one_agent_tells_all_queries_the_same(self):
    q, k, v = (_normal(i, 2, 9, 2, 4) for i in range(3))
    agent, bias = _normal(3, 2, 1, 2, 4), _normal(4, 1, 2, 1, 9)
    wanted = dot_product.attend(agent, k, v, bias=bias)
    got = agent_attention.attend(q, k, v, agent, gather_bias=bias)
    _close(got, jnp.broadcast_to(wanted, got.shape))

  def test_sharp_agents_pass_on_softmax_attention(self):
    # Each query finds its own agent, which has the query as it was.
    q = 3 * jnp.eye(9)[None, :, None]
    k, v = _normal(1, 1, 9, 1, 9), _normal(2, 1, 9, 1, 4)
    got = agent_attention.attend(q, k, v, q, spread_scale=50.0)
    _close(got, dot_product.attend(q, k, v))


class LayerTest(parameterized.TestCase):
  @parameterized.parameters("image", "sequence")
  def test_weights_give_the_layer(self, form):
    layer = _layer(form=form, kernel=0)
    x = _normal(1, 2, 10, 16)
    x = x.reshape(2, 2, 5, 16) if form == "image" else x
    weights = _weights(layer, x)
    v = layer.qkv.value(x.reshape(2, 10, 16))
    wanted = layer.out(jnp.einsum("bnts,bsnv->btnv", weights, v))
    _close(_run(layer, x).reshape(2, 10, 16), wanted)
    _close(weights.sum(-1), jnp.ones((2, 2, 10)))

  def test_agents_are_means_of_overlapping_cells(self):
    layer = _layer(num_agents=9)
    x = _normal(0, 1, 4, 5, 16)
    heads = jax.jit(lambda layer, x: layer.project(x))(layer, x)
    grid = np.asarray(heads.q[0])
    got = heads.more["agents"].reshape(3, 3, 2, 8)
    for i, rows in enumerate((slice(0, 2), slice(1, 3), slice(2, 4))):
      for j, columns in enumerate((slice(0, 2), slice(1, 4), slice(3, 5))):
        _close(got[i, j], grid[rows, columns].mean((0, 1)))

  def test_agents_keep_float64(self):
    with jax.enable_x64(True):
      for form, grid in (("image", (3, 4)), ("sequence", (12,))):
        q = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 2, 8)))
        sides = (2, 2) if form == "image" else (4,)
        got = averages(q.reshape(1, *grid, 2, 8), sides)
        self.assertEqual(got.dtype, "float64")
        wanted = np.asarray(q).reshape(*grid, 2, 8)
        if form == "image":
          wanted = np.stack([wanted[r, c].mean((0, 1)) for r in (slice(2), slice(1, 3))
                             for c in (slice(2), slice(2, 4))])  # fmt: skip
        else:
          wanted = wanted.reshape(4, 3, 2, 8).mean(1)
        np.testing.assert_allclose(got[0], wanted, rtol=1e-13, atol=1e-13)

  def test_biases_at_their_own_grid_are_not_smoothed(self):
    biases = agent_attention.Biases(2, 4, (3, 5), rngs=nnx.Rngs(0))
    rows, columns = (side[...] for side in biases.sides)
    table = jax.image.resize(biases.table[...], (2, 4, 3, 5), "linear", antialias=False)
    # Resizing a table of 7 x 7 to less takes points from it: no average.
    wanted = table + rows[..., None] + columns[..., None, :]
    _close(biases((3, 5)), wanted.reshape(1, 2, 4, 15))

  def test_the_class_token_has_no_place(self):
    layer = _layer(form="sequence", class_token=True, grid=(3, 4))
    x = _normal(1, 1, 13, 16)
    self.assertEqual(_weights(layer, x).shape, (1, 2, 13, 13))
    plain = nnx.clone(layer)
    plain.convolution.kernel[...] = jnp.zeros((3, 3, 16))
    _close(_run(layer, x)[:, 0], _run(plain, x)[:, 0], 1e-6)
    self.assertGreater(float(abs(_run(layer, x) - _run(plain, x))[:, 1:].min()), 0)
    with self.assertRaisesRegex(ValueError, r"12 tokens; grid \(3, 4\) has 13"):
      layer(x[:, 1:])

  def test_windows_are_apart(self):
    layer, alone = _layer(window=3), _layer()
    x = _normal(1, 2, 3, 6, 16)

    @jax.jit
    def run(layer, alone, x):
      pairs = (layer, x), (alone, x[:, :, 3:])
      return [(f(y), contract.weights(f, y)) for f, y in pairs]

    (got, weights), wanted = run(layer, alone, x)
    _close(got[:, :, 3:], wanted[0])
    weights = weights.reshape(2, 2, 3, 2, 3, 3, 2, 3)
    right = weights[:, :, :, 1, :, :, 1].reshape(2, 2, 9, 9)
    _close(right, wanted[1])
    _close(weights[:, :, :, 0, :, :, 1], jnp.zeros((2, 2, 3, 3, 3, 3)), 0)

  def test_windows_that_do_not_tile_are_smaller(self):
    layer, alone = _layer(window=4, grid=4), _layer(grid=4)
    x = _normal(1, 1, 6, 4, 16)

    @jax.jit
    def run(layer, alone, x):
      heads = layer.project(x)
      found = layer(x), alone(x[:, :4]), heads.q, heads.more["agents"]
      return found, contract.weights(layer, x)

    (y, whole, q, agents), weights = run(layer, alone, x)
    _close(y[:, :4], whole)
    # The last window has 2 x 4 tokens: those of two cells of four, and of none.
    cells = q[0, 4:].reshape(2, 2, 2, 2, 8).mean(axis=(0, 2))
    _close(agents[1], jnp.concatenate([cells, jnp.zeros((2, 2, 8))]))
    _close(weights[..., :16, 16:], jnp.zeros((1, 2, 16, 8)), 0)
    _close(weights.sum(-1), jnp.ones((1, 2, 24)))
    with self.assertRaisesRegex(ValueError, r"do not tile \(6, 4\), and sr_ratio > 1"):
      _layer(window=4, sr_ratio=2)(x)

  def test_shifted_windows_join_opposite_borders(self):
    layer, plain = _layer(window=4, shift=1, grid=4), _layer(window=4, grid=4)
    x = _normal(1, 1, 8, 8, 16)

    @jax.jit
    def run(layer, plain, x):
      y = plain(jnp.roll(x, (-1, -1), axis=(1, 2)))
      few = x[:, :4]  # one row of windows, without a shift
      return layer(x), jnp.roll(y, (1, 1), axis=(1, 2)), layer(few), plain(few)

    got, wanted, small, same = run(layer, plain, x)
    _close(got, wanted)
    _close(small, same)
    with self.assertRaisesRegex(ValueError, "shift = 4: below window = 4"):
      _layer(window=4, shift=4)

  @parameterized.parameters(((7, 9), (3, 4)), ((1, 4), (1, 2)))
  def test_keys_are_reduced_by_whole_cells(self, grid, small):
    layer = _layer(sr_ratio=2, grid=(7, 9))
    x = _normal(1, 1, *grid, 16)
    self.assertEqual(_run(layer, x).shape, x.shape)
    keys = small[0] * small[1]
    self.assertEqual(_weights(layer, x).shape, (1, 2, grid[0] * grid[1], keys))

  def test_padding_inside_is_as_if_not_there(self):
    layer = _layer(form="sequence")
    x = _normal(1, 1, 14, 16)
    real = jnp.array([0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1], bool)
    got = _run(layer, x, valid=real[None])
    _close(got[:, real], _run(layer, x[:, real]))
    _close(got[:, ~real], jnp.zeros((1, 5, 16)), 0)
    _close(_run(layer, x, valid=jnp.zeros((1, 14), bool)), jnp.zeros_like(x), 0)
    weights = _weights(layer, x, valid=real[None])
    _close(weights[:, :, real][..., real], _weights(layer, x[:, real]))
    _close(weights[..., ~real], jnp.zeros((1, 2, 14, 5)), 0)

  @parameterized.parameters(
    ({"form": "causal"}, "unknown form 'causal'"),
    ({"num_agents": 8}, "num_agents = 8: on a grid their number is a square"),
    ({"grid": (3,)}, r"grid = \(3,\) must have 2 sides"),
    ({"class_token": True}, "class_token = True: for sequences only"),
    ({"form": "sequence", "window": 2}, "window = 2: for images only"),
    ({"impl": "cuda"}, "unknown impl 'cuda'"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _layer(**options)

  def test_what_cannot_be_honoured_is_refused(self):
    x = jnp.zeros((1, 4, 16))
    with self.assertRaisesRegex(NotImplementedError, "segment_ids: agents are of"):
      _layer(form="sequence")(x, segment_ids=jnp.zeros((1, 4), jnp.int32))
    line, real = _layer(form="sequence"), jnp.ones((1, 4), bool)
    with self.assertRaisesRegex(NotImplementedError, "positions: cells and biases"):
      line(x, positions=jnp.arange(4))
    with self.assertRaisesRegex(NotImplementedError, "valid: a grid has none"):
      _layer(form="sequence", class_token=True, grid=(3, 1))(x, valid=real)
    with self.assertRaisesRegex(NotImplementedError, "form 'image' takes no valid"):
      _layer()(x.reshape(1, 2, 2, 16), valid=real)


class MergingTest(parameterized.TestCase):
  def test_the_most_similar_merge_into_their_means(self):
    x = _normal(0, 2, 20, 6).at[:, 1].set(0)
    # Token 3 is like the target 2 of the next cell, and is the first to merge.
    x = x.at[:, 3].set(2 * x[:, 2])
    found = agent_attention.matching(x, (4, 5), 1)
    self.assertEqual(found.slots, 19)
    merged = found.merge(x)
    slot = np.asarray(found.slot)
    for b in range(2):
      self.assertEqual(slot[b, 3], slot[b, 2])
      self.assertEqual(len(set(slot[b])), 19)
      _close(merged[b, slot[b, 3]], 1.5 * x[b, 2])
      _close(merged[b, slot[b, 7]], x[b, 7])
    _close(found.spread(merged)[:, 3], 1.5 * x[:, 2])

  @parameterized.parameters((0, 20), (9, 11), (100, 4))
  def test_each_slot_has_a_token(self, removed, slots):
    x = _normal(0, 2, 20, 6)
    for key in (None, jax.random.key(1)):
      found = agent_attention.matching(x, (4, 5), removed, key=key)
      self.assertEqual(found.slots, slots)
      for row in np.asarray(found.slot):
        self.assertEqual(set(row), set(range(slots)))
    _close(found.merge(jnp.ones_like(x)), jnp.ones((2, slots, 6)))

  def test_few_tokens_are_softmax_attention(self):
    q, k, v = (_normal(i, 1, 8, 2, 4) for i in range(3))
    wanted, _ = softmax.reference(q, k, v, scale=0.5)
    _close(agent_attention.training_free(q, k, v, q[:, :4]), wanted)
    got = agent_attention.training_free(q, k, v, q[:, :3])
    options = {"scale": 0.5, "spread_scale": 4**-0.15}
    two = agent_attention.attend(q, k, v, q[:, :3], **options)
    _close(got, two + 0.075 * v)

  def test_takes_the_parameters_of_a_trained_layer(self):
    trained = dot_product.Layer(
      16, form="image", heads=2, rope_theta=0.0, rngs=nnx.Rngs(1)
    )
    drop_in = agent_attention.DropIn(16, heads=2, rngs=nnx.Rngs(0))
    nnx.update(drop_in, nnx.state(trained))
    x = _normal(1, 1, 4, 4, 16)
    few = agent_attention.matching(x.reshape(1, 16, 16), (4, 4), 6)
    fewest = agent_attention.matching(x.reshape(1, 16, 16), (4, 4), 12)
    q, k, v = trained.qkv.heads(few.merge(x.reshape(1, 16, 16)))
    agents = trained.qkv.query(fewest.merge(x.reshape(1, 16, 16)))
    out = trained.out(agent_attention.training_free(q, k, v, agents))
    _close(drop_in(x), few.spread(out).reshape(x.shape))
    # A grid without a cell has nothing that could merge.
    _close(drop_in(x[:, :1]), trained(x[:, :1]))

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, r"grid \(3, 5\) has not the 20 tokens"):
      agent_attention.matching(jnp.zeros((1, 20, 4)), (3, 5), 1)
    with self.assertRaisesRegex(
      ValueError, r"grid \(1, 20\) has no cell of stride = 2"
    ):
      agent_attention.matching(jnp.zeros((1, 20, 4)), (1, 20), 1)
    with self.assertRaisesRegex(ValueError, "merged = 1.0; a share is in"):
      agent_attention.DropIn(16, merged=1.0, rngs=nnx.Rngs(0))


class CompactionTest(absltest.TestCase):
  def test_back_and_forth(self):
    x = _normal(0, 2, 5, 3)
    real = jnp.array([[False, True, False, True, True], [False] * 5])
    moved = Compaction.of(real)
    packed = moved.pack(x)
    _close(packed[0], jnp.concatenate([x[0, real[0]], jnp.zeros((2, 3))]), 0)
    _close(moved.unpack(packed), jnp.where(real[..., None], x, 0), 0)


if __name__ == "__main__":
  absltest.main()
