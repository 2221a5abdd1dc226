"""Activator: what the paper and its code promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.mixers import activator


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _noisy(module, seed=0):
  """Returns a module of shapes with parameters of which none is 0 or 1."""
  draw = np.random.default_rng(seed).standard_normal

  def drawn(path, leaf):
    one = "scale" in jax.tree_util.keystr(path)
    return np.asarray(0.4 * draw(leaf.shape) + one, np.float32)

  return jax.tree_util.tree_map_with_path(drawn, module)


def _model(**options) -> Any:
  given: dict[str, Any] = {"dims": (8,), "depths": (2,), "patch": 2} | options
  return _noisy(
    jax.eval_shape(lambda: activator.Model(1, 3, **given, rngs=nnx.Rngs(0)))
  )


_run = jax.jit(lambda module, x, key=None: module(x, key=key))


class GateTest(parameterized.TestCase):
  # Phi(1) is 0.841345, the logistic function of 1 is 0.731059. Two channels of any
  # distance are normed to -1 and 1, but for epsilon.
  @parameterized.parameters(
    ("gelu", 0.841345, -0.158655), ("silu", 0.731059, -0.268941), ("relu", 1.0, 0.0)
  )
  def test_two_channels_by_hand(self, activation, one, other):
    half = 0.5 * (one - other)
    a = half / np.sqrt(half**2 + 1e-5)
    b = 2 / np.sqrt(4 + 1e-5)
    got = activator.gate(
      jnp.array([1.0, -1.0]),
      jnp.array([3.0, 7.0]),
      jnp.array([2.0, 3.0]),
      jnp.array([0.5, -0.25]),
      activation=activation,
    )
    want = [(2 * a + 0.5) * (-2 * b + 0.5), (-3 * a - 0.25) * (3 * b - 0.25)]
    _close(got, want, 1e-6)

  def test_epsilon_is_added_to_the_variance(self):
    small = jnp.array([1e-3, -1e-3])  # variance 1e-6
    ones, zeros = jnp.ones(2), jnp.zeros(2)
    far = 2 / np.sqrt(4 + 1e-5)
    half = 1e-3 / np.sqrt(1.1e-5)
    # gelu(1, -1) less its mean is (0.5, -0.5), as Phi(1) + Phi(-1) = 1.
    first = 0.5 / np.sqrt(0.25 + 1e-5)
    got = activator.gate(jnp.array([1.0, -1.0]), small, ones, zeros)
    _close(got, [first * half, first * half], 1e-6)
    got = activator.gate(jnp.array([1.0, -1.0]), 2000 * small, ones, zeros)
    _close(got, [first * far, first * far], 1e-6)

  def test_both_branches_move_gain_and_shift(self):
    u, v = np.random.default_rng(0).standard_normal((2, 5, 6), np.float32)
    ones, zeros = np.ones(6, np.float32), np.zeros(6, np.float32)

    def total(gain, shift, u, v):
      return activator.gate(u, v, gain, shift).sum()

    # One norm of u as gelu gives it, one of v; d/dgain = 2 n(u) n(v), d/dshift = n(u) +
    # n(v) at gain 1 and shift 0.
    def normed(x):
      far = x - x.mean(-1, keepdims=True)
      return far / np.sqrt((far**2).mean(-1, keepdims=True) + 1e-5)

    n = normed(np.asarray(u * jax.scipy.stats.norm.cdf(u)))
    m = normed(v)
    gain, shift = jax.jit(jax.grad(total, (0, 1)))(ones, zeros, u, v)
    _close(gain, (2 * n * m).sum(0))
    _close(shift, (n + m).sum(0))

  def test_errors_name_the_shape_and_the_option(self):
    x, one = jnp.ones((2, 4)), jnp.ones(4)
    with self.assertRaisesRegex(ValueError, r"u \(2, 4\), v \(2, 3\)"):
      activator.gate(x, x[:, :3], one, one)
    with self.assertRaisesRegex(ValueError, r"shift \(3,\)"):
      activator.gate(x, x, one, one[:3])
    with self.assertRaisesRegex(ValueError, "unknown activation 'tanh'.*gelu"):
      activator.gate(x, x, one, one, activation="tanh")


class LayerTest(absltest.TestCase):
  def test_a_token_reads_itself_alone(self):
    layer: Any = _noisy(
      jax.eval_shape(lambda: activator.Layer(4, form="sequence", rngs=nnx.Rngs(0)))
    )
    x = np.random.default_rng(1).standard_normal((5, 4), np.float32)
    run = jax.jit(jax.jacfwd(lambda x, layer: layer(x[None])[0]))
    slope = np.asarray(run(x, layer))
    own = np.eye(5, dtype=bool)[:, None, :, None]
    self.assertEqual(np.abs(np.where(own, 0, slope)).max(), 0)
    self.assertGreater(np.abs(slope).max(axis=(1, 3)).diagonal().min(), 1e-3)

  def test_there_are_no_weights(self):
    layer = activator.Layer(4, form="image", rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(NotImplementedError, "no token reads another"):
      layer.weights(jnp.ones((1, 2, 2, 4)))

  def test_errors_name_the_option(self):
    for options, message in (
      ({"form": "cross"}, "unknown form 'cross'"),
      ({"activation": "tanh"}, "unknown activation 'tanh'"),
      ({"expand": 0.2}, "expand = 0.2: 4 channels leave none"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        activator.Layer(4, **{"form": "image"} | options, rngs=nnx.Rngs(0))

  def test_draws_within_the_bounds_of_torch(self):
    layer = activator.Layer(16, form="image", rngs=nnx.Rngs(0))
    for part, inputs in ((layer.up, 16), (layer.down, 32)):
      for leaf in (part.kernel[...], part.bias[...]):
        self.assertLessEqual(np.abs(leaf).max(), inputs**-0.5)
        self.assertGreater(np.abs(leaf).max(), 0.8 * inputs**-0.5)


class ModelTest(parameterized.TestCase):
  def test_the_order_of_patches_changes_no_logits(self):
    model = _model()
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 1), np.float32)
    logits = np.asarray(_run(model, x))
    _close(_run(model, np.roll(x, (2, -2), (1, 2))), logits)
    # A shift by one pixel changes the patches themselves.
    moved = _run(model, np.roll(x, 1, 1))
    self.assertGreater(np.abs(moved - logits).max(), 1e-3)

  @parameterized.parameters(("with_mlp", 3, 2), ("only_glu", 3, 0))
  def test_parameters_of_a_block(self, size, gating, mlp):
    options = activator.SIZES[size] | {"dims": (8,), "depths": (1,)}
    model: Any = jax.eval_shape(
      lambda: activator.Model(3, 10, **options, rngs=nnx.Rngs(0))
    )
    block = model.stages.stages[0].sequence[0]
    found = sum(leaf.size for leaf in jax.tree.leaves(block))
    D, F = 8, 16
    want = gating * D * F + 2 * F + D + 2 * F + 2 * D
    self.assertEqual(found, want + (mlp * D * F + F + D if mlp else 0))
    rest = sum(leaf.size for leaf in jax.tree.leaves(model)) - found
    self.assertEqual(rest, 4 * 4 * 3 * D + D + 10 * D + 10)  # no norm before the head

  def test_the_published_sizes(self):
    for size, expected in (("with_mlp", True), ("only_glu", False)):
      options = activator.SIZES[size]
      model: Any = jax.eval_shape(
        lambda options=options: activator.Model(3, 10, **options, rngs=nnx.Rngs(0))
      )
      blocks = model.stages.stages[0].sequence
      self.assertLen(blocks, 4)
      self.assertEqual(blocks[0].unit.up.kernel.shape, (256, 2, 512))
      self.assertEqual(blocks[0].unit.activation, "gelu")
      self.assertEqual(blocks[0].dropout, 0.5)
      self.assertEqual(model.stem.size, 4)
      self.assertEqual(blocks[0].up is not None, expected)
      if expected:
        self.assertEqual(blocks[0].up.kernel.shape, (256, 512))

  def test_one_norm_is_before_the_unit_and_the_mlp(self):
    block = _model().stages.stages[0].sequence[0]
    x = np.random.default_rng(1).standard_normal((1, 2, 1, 8), np.float32)

    @jax.jit
    def parts(block, x):
      unit = block.unit(block.norm(x))
      seen = block.norm(x + unit)
      hidden = jax.nn.gelu(block.up(seen), approximate=False)
      return x + unit + block.down(hidden)

    _close(_run(block, x), parts(block, x))

  def test_dropout_is_in_the_mlp_alone(self):
    key = jax.random.key(0)
    draw = np.random.default_rng(1).standard_normal
    block = _model(dropout=0.5, mlp_ratio=0.0).stages.stages[0].sequence[0]
    x = draw((1, 2, 2, 8)).astype(np.float32)
    np.testing.assert_array_equal(_run(block, x, key), _run(block, x))
    block = _model(dropout=0.5).stages.stages[0].sequence[0]

    @jax.jit
    def both(block, x):
      unit = x + block.unit(block.norm(x))
      many = jnp.broadcast_to(x, (4096, *x.shape[1:]))
      return block(many, key=key) - unit, block(x) - unit

    dropped, plain = both(block, draw((1, 1, 1, 8)).astype(np.float32))
    dropped, plain = np.asarray(dropped), np.asarray(plain)
    # Of the outputs one in two is 0. All are scaled to the mean without dropout, and
    # what is left differs, as hidden units are dropped too.
    zero = np.abs(dropped) < 1e-5
    self.assertBetween(zero.mean(), 0.48, 0.52)
    _close(dropped.mean(0), plain[0], 0.2)
    for channel in range(8):
      left = dropped[..., channel][~zero[..., channel]]
      self.assertGreater(np.unique(left).size, 100)

  def test_errors_name_the_option(self):
    with self.assertRaisesRegex(ValueError, r"dims = \(8, 8\)"):
      _model(dims=(8, 8), depths=(1, 1))
    with self.assertRaisesRegex(ValueError, r"depths = \(1, 1\).*one entry a stage"):
      _model(depths=(1, 1))
    with self.assertRaisesRegex(ValueError, "dropout = 1.0"):
      _model(dropout=1.0)


if __name__ == "__main__":
  absltest.main()
