"""HiLo attention: what the paper and its code promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.core.grids.pooling import means
from attnjax.variants.local import hilo
from attnjax.variants.local.hilo import merging
from attnjax.variants.softmax import dot_product


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _layer(**options) -> Any:
  given: dict[str, Any] = {"heads": 4, "window": 2} | options
  return hilo.Layer(16, **given, rngs=nnx.Rngs(0))


def _image(*grid):
  return jax.random.normal(jax.random.key(1), (1, *grid, 16))


_run = jax.jit(lambda layer, x: layer(x))
_weights = jax.jit(lambda layer, x: layer.weights(x))


class LayerTest(parameterized.TestCase):
  def test_windows_of_one_token_are_softmax_attention(self):
    layer, x = _layer(window=1), _image(3, 4)
    self.assertIsNone(layer.high)

    @jax.jit
    def want(part, x):
      out = dot_product.attend(*part.qkv.heads(x.reshape(1, 12, 16)))
      return part.out(out).reshape(x.shape)

    _close(_run(layer, x), want(layer.low, x))

  def test_weights_are_those_of_the_two_kinds(self):
    layer, x = _layer(), _image(3, 4)  # the lower windows have two tokens
    weights = np.asarray(_weights(layer, x))
    cell = np.indices((3, 4)).reshape(2, -1) // 2
    same = (cell[:, :, None] == cell[:, None]).all(0)
    high, low = weights[0, :2], weights[0, 2:]
    np.testing.assert_array_equal(high > 0, np.broadcast_to(same, high.shape))
    shared = np.einsum("nts,su->ntu", low, same / same.sum(0))
    _close(low, shared)  # equal within each window
    _close(weights.sum(-1), np.ones((1, 4, 12)))
    values = [p.qkv.value(x).reshape(12, 2, 4) for p in (layer.high, layer.low)]
    mixed = (jnp.einsum("nts,snv->tnv", w, v) for w, v in zip((high, low), values))
    parts = [p.out(y) for p, y in zip((layer.high, layer.low), mixed)]
    _close(_run(layer, x).reshape(12, 16), jnp.concatenate(parts, -1))

  def test_shifts_by_whole_windows_shift_the_result(self):
    layer, x = _layer(), _image(4, 6)
    moved = _run(layer, jnp.roll(x, (2, -4), (1, 2)))
    _close(moved, jnp.roll(_run(layer, x), (2, -4), (1, 2)))

  def test_the_share_of_low_heads_is_rounded_down(self):
    layer: Any = hilo.Layer(12, heads=3, alpha=0.9, rngs=nnx.Rngs(0))
    self.assertEqual(layer.low.qkv.query.kernel.shape, (12, 2, 4))
    self.assertEqual(layer.high.out.kernel.shape, (1, 4, 4))
    self.assertIsNone(_layer(alpha=0.0).low)
    self.assertIsNone(_layer(alpha=1.0).high)

  def test_means_do_not_count_padding(self):
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    got = means(x, 2)[0, :, :, 0]
    _close(got, [[3, 5, 6.5], [10.5, 12.5, 14]])

  @parameterized.parameters(
    ({"form": "sequence"}, "unknown form 'sequence'.*image"),
    ({"impl": "fast"}, "unknown impl 'fast'"),
    ({"alpha": 1.5}, "alpha = 1.5"),
    ({"window": 0}, "window = 0"),
    ({"heads": 3}, "dim = 16 does not divide by heads = 3"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _layer(**options)

  def test_errors_name_the_shape(self):
    q, k = jnp.ones((1, 4, 4, 3, 2)), jnp.ones((1, 4, 4, 1, 2))
    with self.assertRaisesRegex(ValueError, "3 query heads; 1 heads of k and 1"):
      hilo.attend(q, k, k, k[:, :2, :2], k[:, :2, :2])
    with self.assertRaisesRegex(ValueError, r"must have the grid \(2, 2\)"):
      hilo.attend(q[..., :2, :], k, k, k, k)


class ModelTest(absltest.TestCase):
  def test_early_blocks_have_no_attention(self):
    options = hilo.SIZES["small"] | {"dim": 12}
    model: Any = jax.eval_shape(lambda: hilo.Model(3, 5, **options, rngs=nnx.Rngs(0)))
    mixers = [stage.sequence[0].mixer for stage in model.stages.stages]
    self.assertEqual(mixers[:2], [None, None])
    self.assertEqual([mixer.window for mixer in mixers[2:]], [2, 1])

  def test_stages_need_one_entry_each(self):
    with self.assertRaisesRegex(ValueError, r"heads = \(2, 2\).*one entry a stage"):
      hilo.Model(3, 5, depths=(1, 1), heads=(2, 2), rngs=nnx.Rngs(0))


class MergingTest(absltest.TestCase):
  def test_taps_that_do_not_move_are_a_convolution(self):
    moving: Any = merging.DeformableMerge(3, 4, rngs=nnx.Rngs(0))
    still: Any = merging.DeformableMerge(3, 4, False, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 5, 4, 3))
    run = jax.jit(lambda layer, x: layer(x, stats=layer.init_stats())[0])
    np.testing.assert_allclose(run(moving, x), run(still, x), atol=1e-6)
    # One row further down, which the last row of cells does not have.
    moving.move.bias[...] = jnp.tile(jnp.array([1.0, 0.0]), merging.TAPS)
    lower = jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], axis=1)
    lower = jnp.pad(lower, ((0, 0), (0, 1), (0, 0), (0, 0)))
    np.testing.assert_allclose(run(moving, x), run(still, lower), atol=1e-6)

  def test_between_pixels_it_interpolates(self):
    x = jnp.arange(12.0).reshape(3, 4, 1)
    places = jnp.array([[0.5, 1.25], [-0.5, 0.0], [2.0, 3.75], [-2.0, 1.0]])
    got = merging.interpolated(x, places)[:, 0]
    np.testing.assert_allclose(got, [3.25, 0.0, 11 * 0.25, 0.0], atol=1e-6)


if __name__ == "__main__":
  absltest.main()
