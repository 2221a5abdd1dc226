"""DuoFormer: what the paper and its code promise."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.local import duoformer
from attnjax.variants.local.duoformer import resnet


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _normal(*shape):
  return jax.random.normal(jax.random.key(0), shape)


def _numbered(start, *grid):
  count = int(np.prod(grid))
  return jnp.arange(start, start + count).reshape(1, *grid, 1).astype(jnp.float32)


def _encoder(**options) -> Any:
  given: dict[str, Any] = {"heads": 2, "depth": 2, "tokens": 6, "grid": (2, 3)}
  return duoformer.Encoder(8, **given | options, rngs=nnx.Rngs(0))


def _attention(part, z):
  """NumPy's self-attention of tokens (n, D) with the layer's projections."""
  projections = part.qkv.query, part.qkv.key, part.qkv.value
  q, k, v = (
    np.einsum("nd,dhe->hne", z, p.kernel[...]) + p.bias[...][:, None]
    for p in projections
  )
  shares = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]))
  shares /= shares.sum(axis=-1, keepdims=True)
  return np.einsum("hne,hed->nd", shares @ v, part.out.kernel[...]) + part.out.bias[...]


class TokensTest(absltest.TestCase):
  def test_each_feature_is_in_one_list(self):
    maps = [_numbered(0, 2, 3), _numbered(6, 4, 6), _numbered(30, 8, 12)]
    lists = np.asarray(duoformer.scale_tokens(maps))[0, :, :, 0]
    self.assertEqual(lists.shape, (6, 21))
    np.testing.assert_array_equal(np.sort(lists.ravel()), np.arange(126))
    # Cell (1, 2): the middle map's tokens column by column, the last one's by rows.
    row = 30 + 12 * np.arange(4, 8)[:, None] + np.arange(8, 12)
    wanted = [5, 6 + 16, 6 + 22, 6 + 17, 6 + 23, *row.ravel()]
    np.testing.assert_array_equal(lists[5], wanted)
    rows = duoformer.scale_tokens(maps, columns_first=())
    np.testing.assert_array_equal(rows[0, 5, 1:5, 0], [22, 23, 28, 29])

  def test_one_scale_is_the_coarse_map(self):
    x = _normal(2, 3, 4, 5)
    np.testing.assert_array_equal(duoformer.scale_tokens([x]), x.reshape(2, 12, 1, 5))

  def test_maps_must_fit(self):
    with self.assertRaisesRegex(ValueError, r"\(1, 4, 5, 1\).*\(2, 3\) cells"):
      duoformer.scale_tokens([_numbered(0, 2, 3), _numbered(6, 4, 5)])


class EncoderTest(parameterized.TestCase):
  def test_lists_are_independent_before_the_patch_blocks(self):
    encoder, x = _encoder(), _normal(1, 6, 6, 8)
    run = jax.jit(lambda encoder, x: encoder.scales(x)[-1])
    before, after = run(encoder, x), run(encoder, x.at[:, 2].add(1.0))
    same = np.arange(6) != 2
    np.testing.assert_array_equal(after[:, same], before[:, same])
    self.assertGreater(jnp.abs(after[:, 2] - before[:, 2]).min(), 0)
    order = np.array([3, 1, 0, 5, 4, 2])
    _close(run(encoder, x[:, order]), before[:, order])

  def test_the_order_within_a_list_is_its_positions(self):
    encoder, x = _encoder(), _normal(1, 6, 6, 8)
    run = jax.jit(lambda encoder, x: encoder(x, (2, 3)))
    before, order = run(encoder, x), np.array([0, 4, 1, 5, 2, 3])
    positions = encoder.scales.positions
    positions[...] = positions[...][order]
    _close(run(encoder, x[:, :, order]), before)

  def test_published_patch_blocks_are_bare(self):
    encoder = _encoder(patch_block="bare", head_norm=False)
    kinds = {type(block).__name__ for block in encoder.patches.sequence}
    self.assertEqual(kinds, {"ScaleAttention"})
    for block in encoder.patches.sequence:
      block.out.kernel[...] = jnp.zeros_like(block.out.kernel[...])
    _close(jax.jit(lambda e, x: e(x, (3, 2)))(encoder, _normal(1, 6, 6, 8)), 0)
    with self.assertRaisesRegex(ValueError, "patch_block 'plain'.*bare, prenorm"):
      _encoder(patch_block="plain")

  def test_positions_fit_any_grid(self):
    encoder = _encoder()
    x = jax.ShapeDtypeStruct((2, 20, 6, 8), jnp.float32)
    self.assertEqual(jax.eval_shape(lambda x: encoder(x, (4, 5)), x).shape, (2, 8))


class LayerTest(parameterized.TestCase):
  def test_weights_stay_in_the_cell(self):
    layer: Any = duoformer.Layer(8, heads=2, scales=2, rngs=nnx.Rngs(0))
    x = _normal(1, 3, 4, 8)  # the lower cells have two tokens
    weights = jax.jit(lambda layer, x: layer.weights(x))(layer, x)
    cell = np.indices((3, 4)).reshape(2, -1) // 2
    same = (cell[:, :, None] == cell[:, None]).all(0)
    np.testing.assert_array_equal(weights[0, 0] > 0, same)
    self.assertLess(weights.sum(-1).max(), 1)

  def test_cells_attend_within_and_then_to_each_other(self):
    layer: Any = duoformer.Layer(8, heads=2, scales=2, rngs=nnx.Rngs(0))
    layer = jax.tree.map(lambda leaf: 20 * leaf, layer)  # all parts weigh much
    x, halves = np.asarray(_normal(1, 3, 4, 8)), (slice(0, 2), slice(2, 4))
    cells, found = list(itertools.product(halves, halves)), []
    for rows, columns in cells:  # the lower ones have one row
      tokens = x[0, rows, columns].reshape(-1, 8)
      z = np.stack([layer.token[...], tokens.mean(axis=0), *tokens])
      found.append(_attention(layer.scale, z + layer.positions[: len(z)]))
    between = _attention(layer.patch, np.stack([z[0] for z in found]))
    wanted = np.zeros((1, 3, 4, 8))
    for place, z, y in zip(cells, found, between):
      wanted[0][place] = (z[2:] + y).reshape(-1, 2, 8)
    _close(jax.jit(lambda layer, x: layer(x))(layer, x), wanted, 1e-4)

  def test_cells_meet_in_their_scale_tokens(self):
    layer: Any = duoformer.Layer(8, heads=2, scales=2, rngs=nnx.Rngs(0))
    x = _normal(1, 4, 4, 8)
    run = jax.jit(lambda layer, x: layer(x))
    moved = run(layer, x.at[:, 0, 0].add(1.0)) - run(layer, x)
    self.assertGreater(jnp.abs(moved[:, 2:, 2:]).max(), 0)
    _close(moved[:, 2:, 2:], jnp.broadcast_to(moved[:, 2, 2], (1, 2, 2, 8)), 1e-6)

  @parameterized.parameters(
    ({"form": "causal"}, "unknown form 'causal'.*image"),
    ({"impl": "fast"}, "unknown impl 'fast'"),
    ({"scales": 0}, "scales = 0"),
    ({"heads": 3}, "dim = 8 does not divide by heads = 3"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      duoformer.Layer(8, **{"heads": 2} | options, rngs=nnx.Rngs(0))


class ModelTest(parameterized.TestCase):
  @parameterized.parameters(("resnet18", 11.69), ("resnet50", 25.56))
  def test_resnet_has_as_many_parameters_as_published(self, name, published):
    size, head = duoformer.SIZES[name], 1000
    below = jax.eval_shape(lambda: resnet.ResNet(3, **size, rngs=nnx.Rngs(0)))
    found = sum(leaf.size for leaf in jax.tree.leaves(below))
    found = (found + (below.dims[-1] + 1) * head) / 1e6
    self.assertLess(abs(found - published) / published, 0.001, found)

  @parameterized.parameters(((64, 96),), ((70, 45),))
  def test_images_are_padded_to_whole_cells(self, image):
    options = {"blocks": (1,) * 4, "dim": 16, "heads": 2, "depth": 1}
    images = jax.ShapeDtypeStruct((2, *image, 3), jnp.float32)

    def run(images):
      model: Any = duoformer.Model(3, 5, **options, rngs=nnx.Rngs(0))
      given = {"key": jax.random.key(0), "stats": model.init_stats()}
      return model.features(images, **given, train=True)[0]

    maps = jax.eval_shape(run, images)
    whole = [tuple(-(-side // 32) * 8 // 2**n for side in image) for n in range(4)]
    self.assertEqual([x.shape[1:3] for x in maps], [*whole, whole[-1]])
    self.assertEqual(maps[-1].shape[3], 16)

  def test_scales_are_of_the_network(self):
    with self.assertRaisesRegex(ValueError, "scales = 5: it must be from 1 to 4"):
      duoformer.Model(3, 5, scales=5, rngs=nnx.Rngs(0))

  def test_weights_give_the_attention_of_each_list(self):
    attention: Any = duoformer.ScaleAttention(8, heads=2, rngs=nnx.Rngs(0))
    x = _normal(2, 3, 5, 8)

    @jax.jit
    def run(attention, x):
      weights = attention.weights(x).reshape(2, 3, 2, 5, 5)
      v = attention.qkv.value(x)
      out = jnp.einsum("bpnts,bpsnv->bptnv", weights, v)
      return attention.out(out), attention(x)

    _close(*run(attention, x))


if __name__ == "__main__":
  absltest.main()
