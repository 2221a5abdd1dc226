"""HyperZ.Z.W: what the operators, the block and the losses promise."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.mixers import hyperzzw
from attnjax.variants.mixers.hyperzzw import slow, standardise
from tests import golden
from tests.golden import hyperzzw_model

_OPTIONS = {
  "size": 6,
  "kernels": (3, 5, 1, 3),
  "slow_width": 6,
  "local_width": 4,
  "score_width": 4,
  "omega0": 0.3,
}


def _close(got, want, tolerance=1e-5):
  np.testing.assert_allclose(got, want, atol=tolerance, rtol=tolerance)


def _normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def _made(kind, **options):
  return getattr(hyperzzw, kind)(**options, rngs=nnx.Rngs(0))


class OperatorTest(parameterized.TestCase):
  @parameterized.parameters("reference", "xla")
  def test_is_a_product_of_spatial_matrices(self, impl):
    """Rows of the weights times columns of z, for each channel, as with W = 1."""
    x, z = np.asarray(_normal(0, 2, 4, 4, 3)), np.asarray(_normal(1, 2, 4, 4, 3))
    ones = jnp.ones((4, 4, 3))
    got = hyperzzw.attend(jnp.asarray(z), ones, jnp.asarray(x), impl=impl)
    for b in range(2):
      for c in range(3):
        _close(got[b, :, :, c], x[b, :, :, c] @ z[b, :, :, c])
    none = hyperzzw.attend(jnp.asarray(z), 0 * ones, jnp.asarray(x), impl=impl)
    _close(none, jnp.zeros_like(none), 0)

  @parameterized.parameters("reference", "xla")
  def test_other_shapes_are_squares_filled_with_zeros(self, impl):
    z, w, x = _normal(0, 1, 3, 5, 2), _normal(1, 3, 5, 2), _normal(2, 1, 3, 5, 2)
    fill = ((0, 2), (0, 0), (0, 0))
    square = hyperzzw.attend(
      jnp.pad(z, ((0, 0), *fill)), jnp.pad(w, fill), jnp.pad(x, ((0, 0), *fill))
    )
    _close(hyperzzw.attend(z, w, x, impl=impl), square[:, :3])

  def test_local_is_a_correlation(self):
    kernel, x = _normal(0, 3, 1, 2), _normal(1, 1, 4, 4, 2)
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    want = sum(padded[:, i : i + 4] * kernel[i] for i in range(3))
    _close(hyperzzw.local(kernel, x), want)
    with self.assertRaisesRegex(ValueError, r"kernel \(2, 1, 2\): its sides"):
      hyperzzw.local(kernel[:2], x)

  def test_elementwise(self):
    w, x = _normal(0, 4, 4, 2), _normal(1, 3, 4, 4, 2)
    _close(hyperzzw.elementwise(w, x), w * jnp.square(x))


class SlowNetTest(absltest.TestCase):
  def test_interpolates_its_position_bias(self):
    bias = slow.PositionBias(4, 2)
    bias.table[...] = jnp.broadcast_to(jnp.arange(4.0), (4, 4))
    _close(bias((4, 4))[..., 0], bias.table[...], 0)
    wide = bias((2, 8))[0, :, 0]
    self.assertTrue((jnp.diff(wide) >= 0).all())
    self.assertEqual(wide.shape, (8,))

  def test_size_scales_the_output_once(self):
    small, large = (
      _made("SlowNet", outputs=64, size=size, width=64, depth=1, omega0=1.0)
      for size in (4, 16)
    )
    ratio = small.out.kernel[...].std() / large.out.kernel[...].std()
    self.assertBetween(float(ratio), 3.6, 4.4)

  def test_windows_of_pooling_cover_everything(self):
    """As torch's adaptive pooling: 7 to 3 is [0, 3), [2, 5), [4, 7)."""
    x = jnp.arange(7.0)[None, :, None, None] + jnp.zeros((1, 7, 2, 1))
    _close(slow.adaptive_mean(x, 3)[0, :, 0, 0], [1.0, 3.0, 5.0])
    _close(slow.adaptive_mean(x[:, :2], 3)[0, :, 0, 0], [0.0, 0.5, 1.0])

  def test_local_kernels_are_of_the_batch(self):
    net = _made("LocalSlowNet", channels=3, kernel=3, width=4, omega0=0.3)
    run = jax.jit(net.__call__)
    x, y = _normal(1, 1, 6, 6, 3), _normal(2, 1, 6, 6, 3)
    both = run(jnp.concatenate([x, y]))
    self.assertEqual(both.shape, (3, 3, 3))
    _close(run(jnp.concatenate([y, x])), both)
    self.assertGreater(float(abs(both - run(jnp.concatenate([x, x]))).max()), 1e-4)

  def test_renormalisation_has_the_gradient_of_directions(self):
    """The whole passes forward; backward only 0.1 h / |h|, blind to lengths."""
    h = _normal(0, 3, 3, 2)
    length = jnp.linalg.norm(h.reshape(9, 2), axis=0)
    _close(slow.renormalise(h), h + 0.1 * h / length)
    gradient = jax.grad(lambda h: (slow.renormalise(h) * h).sum())(h)
    product = (gradient * h).sum() - (slow.renormalise(h) * h).sum()
    _close(product, 0.0, 1e-4)
    zero = jax.grad(lambda h: slow.renormalise(h).sum())(0 * h)
    self.assertTrue(jnp.isfinite(zero).all())


class BlockTest(absltest.TestCase):
  def test_groups_alternate(self):
    x = 3 + _normal(0, 4, 5, 5, 24) * jnp.arange(1.0, 5.0)[:, None, None, None]
    y = hyperzzw.gibs(x)
    _close(y.mean(axis=(0, 1, 2)), jnp.zeros(24), 1e-4)
    own = y.std(axis=(1, 2))
    even = np.arange(24) // 2 % 2 == 0
    _close(own[:, ~even], jnp.ones((4, 12)), 1e-2)
    self.assertLess(float(own[0, even].max()), 0.7)
    odd = hyperzzw.gibs(x[..., :7])  # fewer channels than groups
    _close(odd.mean(axis=(0, 1, 2)), jnp.zeros(7), 1e-4)

  def test_statistics_make_images_independent(self):
    block = _made("SFNEBlock", channels=3, outputs=12, **_OPTIONS)
    images, others = _normal(1, 4, 6, 6, 3), _normal(2, 4, 6, 6, 3)
    mixed = jnp.concatenate([images[:2], others[2:]])

    @jax.jit
    def run(images, mixed):
      pool = hyperzzw.Statistics()
      own = block(images, pool=pool)[0]
      held = block(mixed, pool=hyperzzw.Statistics(pool.seen))[0]
      return own, held, block(mixed)[0]

    own, held, other = run(images, mixed)
    _close(held[:2], own[:2], 1e-4)
    self.assertGreater(float(abs(other[:2] - own[:2]).max()), 1e-3)

  def test_terminator_multiplies_the_channels(self):
    options = {"factors": (4, 2, 1), "slow_depths": (2, 1, 1), "extras": (0, 0, 1)}
    options |= {"dropout": (0.0,) * 3}

    def run(images):
      model = _made("Terminator", classes=5, **options, **_OPTIONS)
      return model.features(images), model(images), model.statistics(images)

    images = jax.ShapeDtypeStruct((4, 6, 6, 3), jnp.float32)
    (maps, kernels), (logits, _), held = jax.eval_shape(run, images)
    self.assertEqual([m.shape[-1] for m in maps], [12, 24, 24])
    self.assertEqual([k.shape for k in kernels], [(6, 6, 3), (6, 6, 12), (6, 6, 24)])
    self.assertEqual(logits.shape, (4, 5))
    # In each block: two of each local convolution and of its end, four kernels'.
    self.assertLen(held, 3 * (2 * 5 + 4))

  def test_dropout_is_of_whole_channels(self):
    block = _made("SFNEBlock", channels=3, outputs=24, dropout=0.5, **_OPTIONS)
    run = jax.jit(lambda x, key: block(x, key=key)[0])
    y = run(_normal(1, 2, 6, 6, 3), jax.random.key(0))
    gone = (y == 0).all(axis=(1, 2))
    self.assertBetween(int(gone.sum()), 10, 38)
    np.testing.assert_array_equal(gone, (y == 0).any(axis=(1, 2)))

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, r"kernels \(3, 5\): there are four"):
      hyperzzw.Layer(4, **_OPTIONS | {"kernels": (3, 5)}, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(ValueError, r"extras\[1\] = 1: there are no such"):
      hyperzzw.Terminator(
        classes=2,
        size=6,
        factors=(4, 2),
        slow_depths=(1, 1),
        extras=(0, 1),
        dropout=(0.0, 0.0),
        rngs=nnx.Rngs(0),
      )
    with self.assertRaisesRegex(ValueError, "unknown form 'causal'"):
      hyperzzw.Layer(4, form="causal", rngs=nnx.Rngs(0))
    layer, x = hyperzzw.Layer(4, **_OPTIONS, rngs=nnx.Rngs(0)), jnp.zeros((1, 2, 2, 4))
    with self.assertRaisesRegex(NotImplementedError, "form 'image' takes no valid"):
      layer(x, valid=jnp.ones((1, 4), bool))


class LossTest(parameterized.TestCase):
  @parameterized.parameters(*hyperzzw.REDUCTIONS)
  def test_slow_loss_of_equal_kernels_is_zero(self, reduce):
    w = _normal(0, 4, 4, 3)
    self.assertEqual(float(hyperzzw.slow_neural_loss([w, w, w], reduce)), 0.0)
    u = _normal(1, 4, 4, 3)
    pair = [hyperzzw.slow_neural_loss(x, reduce) for x in ([u, w], [w, u])]
    _close(pair[0], pair[1], 1e-6)
    self.assertGreater(float(pair[0]), 0.1)

  def test_slow_loss_by_hand(self):
    a, b = jnp.array([[[1.0, 2.0]]]), jnp.array([[[1.0, 0.0, 3.0, 2.0]]])
    _close(hyperzzw.slow_neural_loss([a, b]), (3.0 - 6.0) ** 2)
    _close(hyperzzw.slow_neural_loss([a, b], "tile"), (0 + 4 + 4 + 0) / 4)
    with self.assertRaisesRegex(ValueError, r"kernels \(1, 1, 4\) cannot be tiled"):
      hyperzzw.slow_neural_loss([b, a], "tile")
    with self.assertRaisesRegex(ValueError, "unknown reduce 'mean'"):
      hyperzzw.slow_neural_loss([a, b], "mean")

  def test_objective(self):
    logits, labels = jnp.zeros((2, 4)), jnp.array([0, 3])
    kernels = [jnp.ones((2, 2, 1)), jnp.ones((2, 2, 3))]
    _close(hyperzzw.terminator_loss(logits, labels, kernels), jnp.log(4.0) + 4)
    _close(hyperzzw.terminator_loss(logits, labels, kernels, weight=0.0), jnp.log(4.0))
    sure = 100 * jnp.eye(4)[labels]
    got = hyperzzw.terminator_loss(sure, labels, kernels, weight=0.0)
    _close(got, 0.09 * 3 / 4 * 100, 1e-3)

  def test_norms_are_of_the_weights_that_official_names_choose(self):
    """Fast ones have "fast" in their names, slow ones "Kernel" and two axes of 1."""
    with np.load(Path(golden.__file__).parent / "hyperzzw_model.npz") as file:
      arrays = dict(file)
    model = hyperzzw_model.filled(arrays, json.loads(str(arrays["meta"])))
    fast = slow = 0.0
    for name, value in arrays.items():
      norm = np.sqrt((np.float64(value) ** 2).sum()) if "param." in name else 0.0
      cancelled = re.search(r"\.bias\d$|mixer(_mlp)?\.bias$|bottleneck.*bias$", name)
      if "fast" in name and "Kernel" not in name and not cancelled:
        fast += norm
      if "Kernel" in name and name.endswith("weight") and value.ndim == 4:
        slow += norm

    @jax.jit
    def run(model):
      norms = hyperzzw.weight_norms
      return norms(model), norms(model, weight=1.0, slow=2.0)

    official, other = run(model)
    np.testing.assert_allclose(official, 5e-5 * (fast + 1e-6 * slow), rtol=1e-5)
    np.testing.assert_allclose(other, fast + 2 * slow, rtol=1e-5)
    self.assertGreater(min(fast, slow), 1.0)

  def test_norms_pull_each_matrix_by_its_direction(self):
    block = _made("SFNEBlock", channels=3, outputs=12, **_OPTIONS)
    block.branches.mix.kernel[...] *= 0  # no direction
    slope = jax.grad(lambda block: hyperzzw.weight_norms(block, weight=2.0, slow=0.5))
    got = slope(block).branches
    for part, net, factor in (
      (block.branches.narrow, got.narrow, 2.0),
      (block.branches.slow.out, got.slow.out, 1.0),
      (block.branches.gated.query, got.gated.query, 1.0),
      (block.branches.channel.slow.out, got.channel.slow.out, 0.0),
    ):
      w = np.asarray(part.kernel[...])
      _close(net.kernel[...], factor * w / np.sqrt((w**2).sum()))
      if net.bias is not None:
        _close(net.bias[...], np.zeros(net.bias.shape), 0)
    _close(got.mix.kernel[...], np.zeros((3, 3)), 0)

  def test_kar3_steps_by_signs(self):
    """The momenta that count are those before the gradient."""
    optimizer, p = hyperzzw.kar3(0.1), jnp.array([1.0, -1.0])
    state = optimizer.init(p)
    for gradient, step in (([2.0, -3.0], [-0.1, 0.1]), ([-9.0, -0.1], [-0.1, 0.3])):
      update, state = optimizer.update(jnp.array(gradient), state)
      _close(update, jnp.array(step), 1e-6)
    m1 = 0.5 * (0.5 * 2) + 0.5 * -9
    m2 = 0.95 * (0.05 * 2) + 0.05 * -9
    self.assertLess(m1, 0)
    self.assertLess(m2, 0)
    update, _ = optimizer.update(jnp.array([1.0, 0.0]), state)
    _close(optax.apply_updates(p, update), [1.0 + 0.1, -1.0 + 0.2], 1e-6)


class StandardiseTest(absltest.TestCase):
  def test_instance_and_batch(self):
    x = 5 + 2 * _normal(0, 3, 7, 7, 2)
    one, all_ = standardise.instance(x), standardise.batch(x)
    _close(one.mean(axis=(1, 2)), jnp.zeros((3, 2)), 1e-4)
    _close(one.var(axis=(1, 2)), jnp.ones((3, 2)), 1e-3)
    _close(all_.mean(axis=(0, 1, 2)), jnp.zeros(2), 1e-4)
    _close(all_.var(axis=(0, 1, 2)), jnp.ones(2), 1e-3)
    self.assertGreater(float(abs(all_.mean(axis=(1, 2))).max()), 1e-3)


if __name__ == "__main__":
  absltest.main()
