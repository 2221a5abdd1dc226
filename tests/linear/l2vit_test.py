"""L2ViT: what the paper and its code promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core import softmax
from attnjax.nn import running
from attnjax.variants.linear import l2vit


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _heads(B, T, N, H, gain=1.0):
  keys = jax.random.split(jax.random.key(0), 3)
  q, k, v = (jax.random.normal(key, (B, T, N, H)) for key in keys)
  return gain * q, gain * k, v


def _image(*shape):
  return jax.random.normal(jax.random.key(1), shape)


class AttendTest(parameterized.TestCase):
  @parameterized.parameters("reference", "xla")
  def test_rows_sum_to_the_temperature_above_the_clamp(self, impl):
    q, k, _ = (abs(x) for x in _heads(2, 20, 3, 4, gain=5))
    eye = jnp.broadcast_to(jnp.eye(20)[:, None], (2, 20, 3, 20))
    temperature = jnp.array([0.5, 1.0, 2.0])
    rows = l2vit.attend(q, k, eye, temperature, impl=impl)
    _close(rows.sum(-1), jnp.broadcast_to(temperature, (2, 20, 3)))
    self.assertGreaterEqual(float(rows.min()), 0)

  def test_is_linear_in_q_below_the_clamp(self):
    q, k, v = _heads(1, 20, 2, 4, gain=0.1)
    _close(l2vit.attend(2 * q, k, v), 2 * l2vit.attend(q, k, v))
    above = l2vit.attend(100 * q, k, v, den_min=0.01)
    _close(l2vit.attend(200 * q, k, v, den_min=0.01), above)

  @parameterized.parameters(0.0, 7.0)
  def test_queries_and_keys_without_a_positive_entry_give_zero(self, den_min):
    q, k, v = _heads(1, 9, 2, 4)

    def loss(q, k, v):
      out = l2vit.attend(q, k, v, den_min=den_min)
      return jnp.sin(out).sum(), out

    run = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    for arrays in ((-abs(q), k, v), (q, -abs(k), v)):
      (_, out), gradients = run(*arrays)
      _close(out, jnp.zeros_like(v), 0)
      for gradient in gradients:
        _close(gradient, jnp.zeros_like(gradient), 0)

  def test_order_of_tokens_does_not_matter(self):
    q, k, v = _heads(1, 20, 2, 4)
    order = jax.random.permutation(jax.random.key(3), 20)
    got = l2vit.attend(*(x[:, order] for x in (q, k, v)), den_min=5.0)
    _close(got, l2vit.attend(q, k, v, den_min=5.0)[:, order])

  def test_the_clamp_stops_the_gradient_of_the_denominator(self):
    q, k, v = _heads(1, 20, 2, 4)
    eye = jnp.ones_like(v[..., :1])  # the numerator is the denominator

    def total(k, den_min):
      return l2vit.attend(q, k, eye, den_min=den_min).sum()

    _close(jax.grad(total)(k, 0.0), jnp.zeros_like(k), 1e-6)
    direct = jax.grad(lambda k: (jax.nn.relu(q) * jax.nn.relu(k).sum(1)).sum() / 1e3)
    _close(jax.grad(total)(k, 1e3), direct(k), 1e-6)

  def test_errors(self):
    q, k, v = _heads(1, 5, 2, 4)
    with self.assertRaisesRegex(ValueError, "den_min = -1"):
      l2vit.attend(q, k, v, den_min=-1.0)


class LayerTest(parameterized.TestCase):
  def test_weights_give_the_attention(self):
    layer = l2vit.Layer(
      16, form="sequence", local_kernel=0, position_kernel=0, rngs=nnx.Rngs(0)
    )
    x = _image(2, 11, 16)
    ids = jnp.array([[0] * 4 + [1] * 7, [2] * 9 + [-1] * 2])

    @jax.jit
    def run(layer, x):
      weights = contract.weights(layer, x, segment_ids=ids)
      v = layer.qkv.value(layer.norm(x))
      out = layer.out(jnp.einsum("bnts,bsnv->btnv", weights, v))
      return layer(x, segment_ids=ids), jnp.where((ids >= 0)[..., None], out, 0)

    _close(*run(layer, x))

  def test_without_convolutions_a_grid_is_a_sequence(self):
    plain = {"local_kernel": 0, "position_kernel": 0}
    image = l2vit.Layer(16, form="image", **plain, rngs=nnx.Rngs(0))
    line = l2vit.Layer(16, form="sequence", **plain, rngs=nnx.Rngs(0))
    x = _image(2, 3, 5, 16)
    run = jax.jit(lambda layer, x: layer(x))
    _close(run(image, x), run(line, x.reshape(2, 15, 16)).reshape(x.shape))

  def test_running_statistics_move_in_training_only(self):
    layer: Any = l2vit.Layer(
      16, form="image", norm="batch", local_kernel=3, rngs=nnx.Rngs(0)
    )
    x, local = _image(2, 4, 5, 16), layer.concentrate
    run = jax.jit(
      lambda layer, x, stats, train: layer(x, stats=stats, train=train),
      static_argnums=3,
    )
    stats = layer.init_stats()
    still, kept = run(layer, x, stats, False)
    jax.tree.map(np.testing.assert_array_equal, kept, stats)
    y, moved = run(layer, x, stats, True)
    self.assertGreater(float(abs(y - still).max()), 1e-3)

    @jax.jit
    def want(layer, x):
      heads = layer.project(x)
      h = x + layer.position(x) + layer.out(layer.mix(heads)).reshape(x.shape)
      z = jax.nn.gelu(local.first(layer.local_norm(h)), approximate=False)
      mean, var = z.mean((0, 1, 2)), z.var((0, 1, 2))
      return mean, var, h + local.second((z - mean) / jnp.sqrt(var + 1e-5)) - x

    mean, var, wanted = want(layer, x)
    found = moved["concentrate"]["norm"]
    _close(found.mean, 0.1 * mean)
    _close(found.var, 0.9 + 0.1 * var * 40 / 39)
    _close(y, wanted, 1e-4)

  def test_padding_is_not_measured(self):
    options: dict[str, Any] = {"form": "sequence", "norm": "batch", "local_kernel": 3}
    layer: Any = l2vit.Layer(16, **{"form": "image"} | options, rngs=nnx.Rngs(0))
    x, real = _image(2, 9, 16), jnp.arange(9) < jnp.array([[9], [4]])
    stats = layer.init_stats()

    @jax.jit
    def run(layer, *parts):
      """Of a batch with padding, and of each row by itself."""
      filled = jnp.where(real[..., None], x, jnp.nan)
      how = {"train": True, "valid": real}
      y, moved = layer(filled, stats=stats, **how)
      moments = running.init_moments(stats)
      for part in parts:
        _, moments = layer(part, stats=moments, train=True)
      return y, moved, running.moved(layer, stats, moments)

    y, got, want = run(layer, x[:1], x[1:, :4])
    jax.tree.map(_close, got, want)
    self.assertTrue(np.isfinite(y).all())
    empty, kept = layer(x[:0], stats=stats, train=True)
    self.assertEqual(empty.shape, (0, 9, 16))
    jax.tree.map(np.testing.assert_array_equal, kept, stats)
    with self.assertRaisesRegex(ValueError, "Layer has batch norm: pass stats=layer."):
      layer(x)

  @parameterized.parameters(
    ({"form": "causal"}, "unknown form 'causal'.*image, sequence"),
    ({"norm": "group"}, "unknown norm 'group'"),
    ({"impl": "triton"}, "unknown impl 'triton'"),
    ({"heads": 3}, "dim = 16 does not divide by heads = 3"),
    ({"local_kernel": 4}, "size = 4 of a kernel; it must be odd"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      l2vit.Layer(16, **{"form": "image"} | options, rngs=nnx.Rngs(0))

  def test_an_image_takes_no_padding(self):
    layer = l2vit.Layer(16, form="image", local_kernel=3, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(NotImplementedError, "form 'image' takes no valid"):
      layer(_image(1, 2, 2, 16), valid=jnp.ones((1, 4), bool))
    with self.assertRaisesRegex(ValueError, r"\(1, 4, 16\); form 'image' takes 4 axes"):
      layer(_image(1, 4, 16))


class ModelTest(parameterized.TestCase):
  def test_a_window_above_the_grid_is_dense_on_the_padded_one(self):
    block = l2vit.WindowBlock(8, heads=2, hidden=8, window=4, rngs=nnx.Rngs(0))
    x = _image(1, 3, 2, 8)

    @jax.jit
    def run(block, x):
      y = x + block.positions[0](x)
      padded = jnp.pad(block.norms[0](y), ((0, 0), (0, 1), (0, 2), (0, 0)))
      out, _ = softmax.reference(*block.qkv.heads(padded.reshape(1, 16, 8)))
      y = y + block.out(out).reshape(1, 4, 4, 8)[:, :3, :2]
      y = y + block.positions[1](y)
      return block(x), y + block.feed(block.norms[1](y))

    _close(*run(block, x))

  def test_weights_of_windows_give_the_attention(self):
    block = l2vit.WindowBlock(8, heads=2, hidden=8, window=3, rngs=nnx.Rngs(0))
    x = _image(1, 4, 5, 8)

    @jax.jit
    def run(block, x):
      (weights,) = block.weights(x)
      y = x + block.positions[0](x)
      values = block.qkv.value(block.norms[0](y)).reshape(1, 20, 2, 4)
      outside = (1 - weights.sum(-1)).swapaxes(1, 2)[..., None]
      out = jnp.einsum("bnts,bsnv->btnv", weights, values)
      out = out + outside * block.qkv.value(jnp.zeros(8))
      y = y + block.out(out).reshape(x.shape)
      y = y + block.positions[1](y)
      return block(x), y + block.feed(block.norms[1](y)), weights.sum(-1)

    got, want, total = run(block, x)
    _close(got, want)
    _close(total[:, :, 0], 1)  # no padding in the window of the first token
    self.assertLess(float(total[:, :, -1].max()), 0.9)

  def test_blocks_take_turns(self):
    options = {"dims": (8, 16), "depths": (2, 2), "heads": (1, 2)}
    model: Any = jax.eval_shape(lambda: l2vit.Model(3, 5, **options, rngs=nnx.Rngs(0)))
    kinds = [[type(b).__name__ for b in s.sequence] for s in model.stages.stages]
    self.assertEqual(kinds, [["WindowBlock", "GlobalBlock"]] * 2)
    drops = [[b.drop for b in s.sequence] for s in _dropping(**options).stages.stages]
    np.testing.assert_allclose(drops, [[0, 0.1], [0.2, 0.3]])
    with self.assertRaisesRegex(ValueError, r"depths = \(2,\), heads .*: one entry a"):
      l2vit.Model(3, 5, dims=(8, 16), depths=(2,), heads=(1, 2), rngs=nnx.Rngs(0))

  def test_dropping_leaves_out_both_residuals_of_the_layer(self):
    block: Any = l2vit.GlobalBlock(
      8, hidden=8, drop=0.99, norm="layer", rngs=nnx.Rngs(0)
    )
    x = _image(1, 3, 4, 8)
    run = jax.jit(lambda block, x, key: block(x, key=key))
    _close(run(block, x, jax.random.key(1)), x + block.mix.position(x))


def _dropping(**options) -> Any:
  return jax.eval_shape(
    lambda: l2vit.Model(3, 5, **options, drop=0.3, rngs=nnx.Rngs(0))
  )


if __name__ == "__main__":
  absltest.main()
