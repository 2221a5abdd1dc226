"""Scale-DiT: what the paper and its code promise."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.local import scale_dit

LAYOUT = scale_dit.Layout((4, 6), (2, 3), 3, (2, 3))


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _dense(layout):
  mask = scale_dit.hierarchical_local_mask(layout)
  return np.asarray(mask.dense(layout.tokens, layout.tokens))[0, 0]


def _heads(layout):
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, (1, layout.tokens, 2, 4)) for key in keys]


class LayoutTest(parameterized.TestCase):
  @parameterized.product(
    order=("raster", "window", "hilbert", "released"),
    form=(((5, 7), (2, 3)), ((4, 8), (4, 4)), ((6, 6), (3, 2))),
  )
  def test_orders_visit_window_by_window(self, order, form):
    grid, window = form
    layout = scale_dit.Layout(grid, window=window, order=order)
    places = layout.places()
    np.testing.assert_array_equal(np.sort(places), np.arange(layout.high))
    if order != "raster":
      row, column = layout.coordinates()
      number = row // window[0] * -(-grid[1] // window[1]) + column // window[1]
      self.assertTrue((np.diff(number) >= 0).all())

  def test_low_resolution_tokens_lie_in_the_area_they_stand_for(self):
    layout = scale_dit.Layout((8, 12), (2, 3), 2, (4, 4))
    ids = layout.positions()
    high, low = ids[2:98, 1:3], ids[98:, 1:3]
    of = high[:, 0] // 4 * 3 + high[:, 1] // 4
    offset = high - low[of]
    self.assertEqual((offset.min(), offset.max()), (0, 3))
    np.testing.assert_array_equal(ids[:2, 3], [0, 1])

  @parameterized.parameters(
    ({"kind": "dilated"}, "unknown kind 'dilated'"),
    ({"text_sees": "none"}, "unknown text_sees 'none'"),
    ({"order": "spiral"}, "unknown order 'spiral'"),
    ({"window": (0, 2)}, r"window = \(0, 2\)"),
    ({"text": -1}, "text = -1"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      dataclasses.replace(LAYOUT, **options)


class MaskTest(parameterized.TestCase):
  def test_an_image_token_sees_text_neighbours_and_guide(self):
    layout = scale_dit.Layout((9, 9), (3, 3), 4, (4, 4), order="raster")
    seen = _dense(layout)
    middle = seen[4 + 40, 4:85].reshape(9, 9)
    self.assertEqual(middle.sum(), 25)  # 5 x 5 keys for a window of 4
    self.assertTrue(middle[2:7, 2:7].all())
    self.assertEqual(seen[4, 4:85].sum(), 9)  # fewer at the border
    self.assertTrue(seen[4:85, :4].all() and seen[4:85, 85:].all())
    self.assertFalse(seen[85:, 4:85].any() or seen[:4, 85:].any())
    self.assertTrue(seen[85:, 85:].all() and seen[85:, :4].all())

  def test_shifted_windows_join_the_borders(self):
    layout = scale_dit.Layout((4, 4), window=(2, 2), kind="window", order="raster")
    np.testing.assert_array_equal(np.flatnonzero(_dense(layout)[0]), [0, 3, 12, 15])

  def test_many_low_resolution_tokens_are_seen_by_area(self):
    # A run of windows is half of the image, as is a part of the low resolution.
    layout = scale_dit.Layout((16, 8), (8, 4), window=(4, 4), dense=16)
    seen, low = _dense(layout), layout.low_places()
    row, column = layout.coordinates()
    for token in range(layout.high):
      found = low[np.flatnonzero(seen[token, layout.high :])]
      self.assertLen(found, 16)
      self.assertIn(row[token] // 2 * 4 + column[token] // 2, found)

  def test_a_window_sees_nine_windows(self):
    layout = scale_dit.Layout((16, 16), window=(4, 4))
    seen = _dense(layout).reshape(16, 16, 16, 16).any(axis=(1, 3))
    # As runs of tokens: 4 windows in the corners see 4, 8 at the sides 6, and 4 see 9.
    self.assertEqual(sorted(seen.sum(axis=1)), [4] * 4 + [6] * 8 + [9] * 4)

  def test_low_resolution_does_not_depend_on_the_image(self):
    q, k, v = _heads(LAYOUT)

    def low(x):
      out = scale_dit.attend(q + x, k + x, v + x, layout=LAYOUT)
      return jnp.sin(out[:, -LAYOUT.low :]).sum()

    gradient = jax.jit(jax.grad(low))(jnp.zeros_like(q))
    np.testing.assert_array_equal(gradient[:, 3:27], 0)
    self.assertGreater(jnp.abs(gradient[:, 27:]).min(), 0)


class AttendTest(absltest.TestCase):
  def test_the_order_of_tokens_does_not_matter(self):
    inputs, outs = _heads(LAYOUT), []
    for order in ("raster", "hilbert"):
      layout = dataclasses.replace(LAYOUT, order=order)
      to = np.arange(layout.tokens)
      to[3:27] = 3 + layout.places()
      q, k, v = (x[:, to] for x in inputs)
      out = scale_dit.attend(q, k, v, layout=layout)
      outs.append(out[:, np.argsort(to)])
    _close(*outs)

  def test_a_window_over_the_image_is_dense_attention(self):
    layout = scale_dit.Layout((3, 4), window=(6, 8))
    q, k, v = _heads(layout)
    _close(
      scale_dit.attend(q, k, v, layout=layout), jax.nn.dot_product_attention(q, k, v)
    )

  def test_errors(self):
    q, k, v = _heads(LAYOUT)
    with self.assertRaisesRegex(ValueError, "k has 32 tokens; the layout has 33"):
      scale_dit.attend(q, k[:, 1:], v[:, 1:], layout=LAYOUT)
    with self.assertRaisesRegex(ValueError, "without low resolution 27"):
      scale_dit.attend(q[:, :5], k, v, layout=LAYOUT)

  def test_more_keys_than_in_training_sharpen(self):
    _close(scale_dit.proportional_scale(64, 64, 16), 0.25)
    _close(scale_dit.proportional_scale(4096, 64, 16), 0.25 * 2**0.5)


class LayerTest(parameterized.TestCase):
  def test_low_rank_terms_begin_at_nothing_and_touch_low_resolution_only(self):
    def make(noise) -> Any:
      return scale_dit.JointAttention(
        16, heads=2, rank=2, lora_noise=noise, rngs=nnx.Rngs(0)
      )

    x = jax.random.normal(jax.random.key(1), (1, LAYOUT.tokens, 16))
    base, tuned = make(0.0), make(1.0)
    run = jax.jit(lambda layer, x: layer.key(x, LAYOUT.streams() == 2))
    low = slice(27, None)
    _close(run(base, x), base.key.linear(x))
    _close(run(tuned, x)[:, :27], run(base, x)[:, :27])
    self.assertGreater(jnp.abs(run(tuned, x) - run(base, x))[:, low].min(), 0)

  @parameterized.parameters(True, False)
  def test_joint_attention_follows_the_definition(self, own_text):
    options: Any = {"own_text": own_text, "rank": 2, "alpha": 3.0, "rope_theta": 0.0}
    layer = scale_dit.JointAttention(16, heads=2, **options, rngs=nnx.Rngs(0))
    draw = np.random.default_rng(0)
    graph, leaves = nnx.split(layer)
    leaves = jax.tree.map(lambda x: draw.normal(size=x.shape).astype("float32"), leaves)
    layer, x = nnx.merge(graph, leaves), draw.normal(size=(33, 16)).astype("float32")

    def mapped(name, x):
      part = getattr(layer, name)
      y = x @ np.asarray(part.linear.kernel)
      low = 3 / 2 * x @ np.asarray(part.down) @ np.asarray(part.up)
      y[27:] += low[27:]
      if own_text:
        y[:3] = x[:3] @ np.asarray(getattr(layer.text, name).kernel)
      return y

    def normed(name, y):
      y = y / np.sqrt((y * y).mean(axis=2, keepdims=True) + 1e-6)
      scale = np.tile(np.asarray(getattr(layer.norms, name).scale), (33, 1, 1))
      if own_text:
        scale[:3] = getattr(layer.text.norms, name).scale
      return y * scale

    q, k, v = (mapped(n, x).reshape(33, 2, 8) for n in ("query", "key", "value"))
    q, k = normed("query", q), normed("key", k)
    score = np.einsum("tnh,snh->nts", q, k) / 8**0.5
    weight = np.exp(score - score.max(axis=2, keepdims=True)) * _dense(LAYOUT)
    out = np.einsum("nts,snh->tnh", weight / weight.sum(axis=2, keepdims=True), v)
    got = jax.jit(lambda layer, x: layer(x, LAYOUT))(layer, x[None])
    _close(got[0], mapped("out", out.reshape(33, 16)), 1e-4)

  def test_without_rotary_positions(self):
    layer = scale_dit.Layer(8, heads=1, rope_theta=0.0, rngs=nnx.Rngs(0))
    y = layer(jax.random.normal(jax.random.key(0), (1, 5, 4, 8)))
    self.assertTrue(jnp.isfinite(y).all())

  def test_only_relative_positions_count(self):
    keys = jax.random.split(jax.random.key(0))
    q, k = (jax.random.normal(key, (1, 6, 1, 16)) for key in keys)
    ids = scale_dit.Layout((2, 3), window=(1, 1)).positions()

    def scores(ids):
      a, b = (scale_dit.rotate(x, ids) for x in (q, k))
      return jnp.einsum("btnh,bsnh->bts", a, b)

    _close(scores(ids), scores(ids + np.array([0, 5, 9, 2])), 1e-4)
    self.assertGreater(jnp.abs(scores(ids) - scores(0 * ids)).max(), 0.1)

  @parameterized.parameters(
    ({"form": "sequence"}, "unknown form 'sequence'"),
    ({"heads": 3}, "dim = 32 does not divide by heads = 3"),
    ({"heads": 8}, "head size 4: 8 must divide it"),
    ({"rank": 0}, "rank = 0"),
    ({"ratio": 0}, "ratio = 0"),
    ({"kind": "far"}, "unknown kind 'far'"),
    ({"impl": "fast"}, "unknown impl 'fast'"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      scale_dit.Layer(32, **options, rngs=nnx.Rngs(0))


if __name__ == "__main__":
  absltest.main()
