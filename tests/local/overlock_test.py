"""OverLoCK: its blocks by NumPy, its networks part by part, merging of kernels."""

import math
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.contract import networks, trace
from attnjax.nn import drop_path, running
from attnjax.nn.norms import Stats
from attnjax.variants.local import overlock
from attnjax.variants.local.overlock import contmix, frame, large_kernel, mixing, parts
from experiments.claims.systems import overlock as claim
from tests.local import overlock_definition as definition


def _close(found, wanted, tolerance=1e-5):
  scale = max(np.max(np.abs(wanted), initial=0), 1.0)
  np.testing.assert_allclose(found, wanted, atol=tolerance * scale, rtol=tolerance)


def _drawn(make, spread=0.5) -> Any:
  """A module with large weights, and running statistics that are not 0 and 1."""
  draw = np.random.default_rng(0)

  def leaf(path, shape):
    shift = "scale" in jax.tree_util.keystr(path)
    return jnp.asarray(spread * draw.standard_normal(shape.shape) + shift, jnp.float32)

  def own(stats):
    mean, var = (
      draw.standard_normal(stats.mean.shape),
      draw.uniform(0.5, 2, stats.var.shape),
    )
    return Stats(jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32))

  model = jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(make))
  stats = running.init_stats(model)
  return model, jax.tree.map(own, stats, is_leaf=lambda x: isinstance(x, Stats))


def _normal(*shape, seed=1):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def _np(x):
  return np.asarray(x, np.float64)


class MixTest(parameterized.TestCase):
  @parameterized.parameters("reference", "xla")
  def test_is_a_loop_over_pixels_and_taps(self, impl):
    case = overlock.CASES[0]
    arrays = case.arrays()
    run = jax.jit(lambda arrays: overlock.mix(**arrays, window=3, impl=impl))
    given = {name: _np(x) for name, x in arrays.items()}
    _close(run(arrays), definition.mix(**given, window=3))

  def test_no_taps_give_the_mean_of_the_window_moved_inside(self):
    v = jnp.arange(4.0 * 5).reshape(1, 4, 5, 1, 1)
    shapes = (1, 4, 5, 1, 2), (1, 3, 1, 2), (3, 9), (9,), (1, 5, 5)
    q, regions, taps, tap_bias, relative = map(jnp.zeros, shapes)
    y = overlock.mix(q, regions, taps, tap_bias, relative, v, window=3)[0, :, :, 0, 0]
    # The first two pixels on an axis have one window, and the last two.
    want = [[6.0, 6, 7, 8, 8]] * 2 + [[11.0, 11, 12, 13, 13]] * 2
    _close(y, want)

  def test_logits_of_any_size_do_not_overflow(self):
    arrays: Any = overlock.CASES[4].arrays() | {"tap_bias": jnp.array([1e4])}
    _close(overlock.mix(**arrays, window=1), arrays["v"])

  @parameterized.parameters(
    ({"window": 2}, "window = 2: it must be odd"),
    ({"window": 11}, r"window = 11 exceeds the map \(7, 9\)"),
    ({"taps": (5, 8)}, r"taps \(5, 8\) does not fit q .*\(5, 9\)"),
    ({"tap_bias": (8,)}, r"tap_bias \(8,\)"),
    ({"relative": (2, 3, 3)}, r"relative \(2, 3, 3\).*\(2, 5, 5\)"),
    ({"regions": (2, 5, 2, 3)}, r"regions \(2, 5, 2, 3\)"),
    ({"v": (2, 9, 7, 2, 3)}, r"v \(2, 9, 7, 2\)"),
  )
  def test_errors_name_the_argument(self, changes, message):
    case = overlock.CASES[0]
    made = {n: jnp.zeros(v) if n != "window" else v for n, v in changes.items()}
    with self.assertRaisesRegex(ValueError, message):
      mixing.check(**(case.arrays() | case.arguments() | made))


class LargeKernelTest(parameterized.TestCase):
  def test_branches_are_those_of_the_paper(self):
    sides = {
      19: ([5, 7, 9, 9, 3, 3, 3], [1, 1, 1, 2, 4, 5, 7]),
      17: ([5, 7, 9, 3, 3, 3], [1, 1, 2, 4, 5, 7]),
      15: ([5, 7, 7, 3, 3, 3], [1, 1, 2, 3, 5, 7]),
      13: ([5, 7, 7, 3, 3, 3], [1, 1, 2, 3, 4, 5]),
      11: ([5, 7, 5, 3, 3, 3], [1, 1, 2, 3, 4, 5]),
      9: ([5, 7, 5, 3, 3], [1, 1, 2, 3, 4]),
      7: ([5, 3, 3, 3], [1, 1, 2, 3]),
      5: ([3, 3], [1, 2]),
    }
    wanted = {k: tuple(zip(*both)) for k, both in sides.items()}
    self.assertEqual(large_kernel.BRANCHES, wanted)

  @parameterized.parameters((3, 2), (5, 3), (3, 7))
  def test_dilated_kernels_see_zeros_beyond_the_map(self, side, rate):
    x, kernel = _normal(2, 7, 10, 3), _normal(side, side, 3)
    want = definition.convolve(_np(x), _np(kernel), rate)
    _close(large_kernel.dilated(x, kernel, rate), want)

  @parameterized.parameters((9, True), (7, False))
  def test_the_merged_kernel_is_the_sum(self, size, normed):
    local, stats = _drawn(
      lambda: overlock.LargeKernel(3, size, normed=normed, rngs=nnx.Rngs(0))
    )
    x = _normal(1, 6, 11, 3)
    want = definition.large(local, stats, _np(x))
    found, _ = running.apply(local, x, stats=stats, train=False)
    _close(found, want)
    if not normed:
      _close(local(x, train=True), want)

  def test_fused_blocks_and_networks_give_equal_results(self):
    block, stats = _drawn(
      lambda: overlock.ContMixBlock(
        8, heads=1, window=5, small_window=3, regions=2, rngs=nnx.Rngs(0)
      )
    )
    x = _normal(1, 5, 6, 8)
    run = jax.jit(lambda block, x, stats: block(x, stats=stats)[0])
    fused, rest = overlock.fuse(block, stats)
    _close(run(fused, x, rest), run(block, x, stats), 1e-4)
    self.assertIn("local", stats["mixer"])
    self.assertNotIn("local", rest["mixer"])
    self.assertEqual(fused.mixer.local.kernel.shape, (5, 5, 8))
    self.assertLen(block.mixer.local.kernels, 3)  # the given one is as it was

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "side 6: it must be in .5, 7, 9"):
      overlock.LargeKernel(4, 6, rngs=nnx.Rngs(0))


class PartsTest(absltest.TestCase):
  def test_response_norm(self):
    respond, _ = _drawn(lambda: parts.ResponseNorm(3))
    x = _normal(2, 4, 5, 3)
    _close(respond(x), definition.respond(respond, _np(x)))
    _close(parts.ResponseNorm(3)(x), x)
    zero = jnp.zeros((1, 2, 2, 3))
    self.assertFalse(np.isnan(jax.grad(lambda x: respond(x).sum())(zero)).any())

  def test_the_squeeze_has_an_eighth_of_the_channels_and_at_least_16(self):
    for dim, width in ((8, 16), (256, 32)):
      made = jax.eval_shape(lambda dim=dim: parts.Excitation(dim, rngs=nnx.Rngs(0)))
      self.assertEqual(made.squeeze.kernel.shape, (dim, width))

  def test_residuals(self):
    x, y = _normal(2, 1, 1, 2), _normal(2, 1, 1, 2, seed=2)
    for value, on_input, want in (
      (0.0, True, x + y),
      (0.5, True, 0.5 * x + y + 3),
      (0.5, False, x + 0.5 * y + 3),
    ):
      made: Any = frame.Residual(2, value, scale_input=on_input, drop=0.4)
      if value:
        made.scale.bias[...] = jnp.full(2, 3.0)
      _close(made(x, y, None), want)
      with mock.patch.object(drop_path, "drop", lambda y, rate, key: rate * 0 * y):
        kept = 0.5 * x + 3 if value and on_input else x
        _close(made(x, y, jax.random.key(0)), kept)

  def test_maps_below_the_window_are_enlarged(self):
    for grid, window, want in (
      ((9, 11), 7, (9, 11)),
      ((5, 8), 7, (7, 11)),
      ((8, 5), 7, (11, 7)),
      ((3, 3), 5, (5, 5)),
      ((1, 1), 7, (7, 7)),
      ((45, 5), 7, (62, 7)),  # float64 gives 62.99...
      ((11, 11), 15, (15, 15)),  # and 14.99... here, which is raised
    ):
      self.assertEqual(contmix.enlarged(grid, window), want)


class BlocksTest(parameterized.TestCase):
  @parameterized.parameters(((3, 4), False), ((6, 5), True))
  def test_guided_block(self, grid, first):
    block, stats = _drawn(
      lambda: overlock.GuidedContMixBlock(
        8,
        4,
        first=first,
        heads=1,
        window=5,
        small_window=3,
        regions=2,
        mlp_ratio=1.5,
        layer_scale=0.7,
        scale_input=first,
        rngs=nnx.Rngs(0),
      )
    )
    x, context = _normal(2, *grid, 12), _normal(2, *grid, 4, seed=2)
    run = jax.jit(lambda block, x, context: block(x, context=context, stats=stats)[0])
    maps = _np(x), _np(context)
    want = definition.guided(block, stats, *maps, window=5, small=3)
    _close(run(block, x, context), want, 1e-4)

  def test_block_of_large_convolutions(self):
    block, stats = _drawn(
      lambda: overlock.ConvBlock(
        4, window=5, layer_scale=1.0, scale_input=True, rngs=nnx.Rngs(0)
      )
    )
    x = _normal(2, 5, 6, 4)
    found = jax.jit(lambda block, x: block(x, stats=stats)[0])(block, x)
    _close(found, definition.conv_block(block, stats, _np(x)), 1e-4)

  def test_defaults(self):
    block = jax.eval_shape(lambda: overlock.ContMixBlock(16, rngs=nnx.Rngs(0)))
    self.assertEqual((block.mixer.groups, block.mixer.windows), (4, (5, 7)))
    self.assertEqual(block.mixer.taps.kernel.shape, (49, 74))
    self.assertEqual(block.frame.feed.up.kernel.shape, (16, 64))
    self.assertIsNone(block.frame.sums[0].scale)
    self.assertEqual(block.frame.sums[1].drop, 0.0)

    @jax.jit
    def tables():
      made = overlock.Layer(8, heads=1, rngs=nnx.Rngs(0)).operator
      return *made.relative, *overlock.ContMix(8, heads=1, rngs=nnx.Rngs(0)).relative

    spreads = [float(jnp.std(table[...])) for table in tables()]
    np.testing.assert_allclose(spreads, [0.02, 0.02, 0, 0], rtol=0.2)


class LayerTest(parameterized.TestCase):
  def _layer(self, **options):
    given: dict[str, Any] = {"heads": 1, "window": 5, "small_window": 3, "regions": 2}
    given |= options
    return _drawn(lambda: overlock.Layer(8, **given, rngs=nnx.Rngs(0)))

  @parameterized.parameters((5, 6), (3, 4))
  def test_weights_are_of_the_pixels(self, *grid):
    layer, _ = self._layer()
    x = _normal(1, *grid, 8)

    @jax.jit
    def run(layer, x):
      heads = layer.project(x)
      return contract.weights(layer, x), layer.mix(heads), heads.v

    weights, out, values = run(layer, x)
    T = grid[0] * grid[1]
    self.assertEqual(weights.shape, (1, 4, T, T))
    _close(weights.sum(-1), np.ones((1, 4, T)))
    if values.shape[1:3] == grid:
      values = values.reshape(1, T, 4, -1)
      want = np.einsum("bnts,bsnv->btnv", weights, values)
      _close(out.reshape(want.shape), want)
      seen = (np.asarray(weights)[0] > 0).sum(-1)
      np.testing.assert_array_equal(seen[:2], 9)
      np.testing.assert_array_equal(seen[2:], 25)

  def test_batch_norm_takes_and_gives_statistics(self):
    layer, stats = self._layer(norm="batch")
    x = _normal(2, 5, 6, 8)
    with self.assertRaisesRegex(ValueError, "pass stats="):
      layer(x)

    @jax.jit
    def run(layer, x):
      y, _ = layer(x, stats=stats)
      traced = trace.traced(layer, x, stats=stats)
      trained, after = layer(x, stats=stats, train=True)
      empty, _ = layer(x[:0], stats=stats)
      return y, traced, trained, after, empty

    y, (again, heads, mixed), trained, after, empty = run(layer, x)
    operator, own = layer.operator, stats["operator"]
    want = definition.contmix(operator, own, *[_np(x)] * 3, window=5, small=3)
    _close(y, want, 1e-4)
    _close(again, y)
    self.assertEqual(mixed.shape, (2, 5, 6, 4, 2))
    self.assertEqual(heads.k.shape, (2, 4, 2, 2))
    self.assertGreater(np.abs(trained - y).max(), 0.1)
    self.assertEqual(empty.shape, (0, 5, 6, 8))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), after, stats)
    self.assertFalse(any(jax.tree.leaves(same)))

  @parameterized.parameters(
    ({"heads": 3}, "heads = 3: 4 heads must divide dim = 8"),
    ({"small_window": 7}, "small_window = 7: .* to window = 5"),
    ({"small_window": 2}, "small_window = 2"),
    ({"window": 6, "small_window": 5}, "side 6"),
    ({"regions": 0}, "regions = 0"),
    ({"norm": "group"}, "unknown norm 'group'"),
    ({"form": "sequence"}, "unknown form 'sequence'"),
    ({"impl": "fast"}, "unknown impl 'fast'"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      self._layer(**options)


class ClaimTest(parameterized.TestCase):
  @parameterized.parameters(("validation", 24), ("test", 48))
  def test_the_cue_in_a_corner_chooses_the_filter(self, split, side):
    drawn = claim.examples(48, 0, split)
    image = _np(drawn["image"][:20, ..., 0])
    self.assertEqual(image.shape[1:], (side, side))
    cells = image.reshape(20, side // 4, 4, -1, 4).mean((2, 4))[:, [0, -1]][
      :, :, [0, -1]
    ]
    cue = np.take_along_axis(
      cells.reshape(20, 4), np.abs(cells).reshape(20, 4).argmax(1)[:, None], 1
    )[:, 0]
    self.assertLen(set(np.sign(cue)), 2)
    inner = np.stack([image[:, 9:14, j : j + 5].mean((1, 2)) for j in (9, 10)], 1)
    slope = (image[:, 11, 12:14] - image[:, 11, 10:12]) / 2
    want = np.where(cue[:, None] > 0, inner, slope)
    _close(drawn["want"][:20, 11, 11:13], want)


class NetworkTest(parameterized.TestCase):
  def test_sizes_are_those_of_the_paper(self):
    names = ("widths", "depths", "focus_depths", "focus_heads", "drop")
    table = {
      "xt": ((56, 112, 256, 336), (2, 2, 3, 2), (6, 2), (4, 6), 0.1),
      "t": ((64, 128, 256, 512), (4, 4, 6, 2), (12, 2), (4, 8), 0.15),
      "s": ((64, 128, 320, 512), (6, 6, 8, 3), (16, 3), (8, 16), 0.4),
      "b": ((80, 160, 384, 576), (8, 8, 10, 4), (20, 4), (6, 9), 0.5),
    }
    found = {size: overlock.SIZES[size] for size in table}
    self.assertEqual(
      found, {size: dict(zip(names, row)) for size, row in table.items()}
    )
    defaults = dict(zip(names, table["t"])) | {
      "windows": (17, 15, 13, 7),
      "small_window": 5,
      "regions": 7,
      "mlp_ratio": 4.0,
      "focus_mlp_ratio": 3.0,
      "layer_scale": 1.0,
      "scale_input": True,
      "stem_strides": (2, 2),
      "projection": 1024,
      "auxiliary": False,
      "drop": 0.0,
      "remat": "none",
      "impl": "auto",
    }
    self.assertEqual(networks.defaults(overlock), defaults)

  @parameterized.parameters(("xt", 16), ("t", 33), ("s", 56), ("b", 95))
  def test_merged_networks_have_the_published_parameters(self, size, millions):
    options = overlock.SIZES[size]
    shallow = options | {"depths": (1, 1, 1, 1), "focus_depths": (2, 1)}
    model = jax.eval_shape(lambda: overlock.Model(3, 1000, **shallow, rngs=nnx.Rngs(0)))
    stages, total = model.stages, _count(model)
    depths = [*options["depths"], *options["focus_depths"]]
    many = [*stages.base.stages, stages.overview, *stages.focus]
    for stage, depth in zip(many, depths):
      *first, last = stage.sequence
      local = last.mixer.local if stage in stages.focus else last.local
      kernel = local.kernels[0].shape
      merged = math.prod(kernel) + kernel[-1] - _count(local)
      # The first guided block of all has fewer parameters than the others.
      total += merged * depth + _count(last) * (depth - 1 - len(first))
    self.assertEqual(round(total / 1e6), millions)

  def test_paths_are_dropped_at_rising_rates(self):
    model = jax.eval_shape(lambda: _tiny(drop=0.6))
    stages = model.stages
    convolved = [*stages.base.stages, stages.overview]
    found = [block.sum.drop for stage in convolved for block in stage.sequence]
    for stage in stages.focus:
      for block in stage.sequence:
        self.assertEqual(*(one.drop for one in block.frame.sums))
        found.append(block.frame.sums[0].drop)
    np.testing.assert_allclose(found, np.linspace(0, 0.6, 8))
    scaled = [s.sequence[0].sum.scale is not None for s in convolved]
    self.assertEqual(scaled, [False, True, True])
    firsts = [not block.scales for s in stages.focus for block in s.sequence]
    self.assertEqual(firsts, [True, False, False, False])

  def test_the_parts_are_called_as_in_the_paper(self):
    model, stats = _drawn(lambda: _tiny(auxiliary=True))
    images = _normal(2, 20, 28, 3)

    def convolved(self, x, *, index, key=None, stats, train):
      return 2 * x, stats

    def guided(self, x, *, context, index, key=None, stats, train):
      h = x[..., self.dim :] + 0.1 * context
      return jnp.concatenate([3 * x[..., : self.dim], h], axis=-1), stats

    with (
      mock.patch.object(overlock.ConvBlock, "__call__", convolved),
      mock.patch.object(overlock.GuidedContMixBlock, "__call__", guided),
    ):
      found = jax.jit(_called)(model, images, stats)
    for train, got in zip((False, True), found):
      want = definition.network(model, stats, _np(images), train)
      for name in got:
        jax.tree.map(lambda a, b: _close(a, b, 1e-4), got[name], want[name])

  def test_weights_and_traces_have_all_blocks(self):
    def run(model, images):
      stats = model.init_stats()
      return model.weights(images, stats=stats), model.trace(images, stats=stats)

    model = jax.eval_shape(lambda: _tiny(depths=(1, 1, 1), focus_depths=(1, 1)))
    images = jax.ShapeDtypeStruct((2, 20, 28, 3), jnp.float32)
    weights, traced = jax.eval_shape(run, model, images)
    sizes = 12, 4
    self.assertEqual([w.shape for w in weights], [(2, 4, n, n) for n in sizes])
    # One map before each block, and one behind each stage.
    self.assertLen(traced.hidden, 5 + 5)
    self.assertEqual(traced.output.shape, (2, 5))
    with self.assertRaisesRegex(NotImplementedError, "attentions of their own"):
      edit = lambda index, heads: heads  # noqa: E731
      jax.eval_shape(
        lambda m, x: m.trace(x, stats=m.init_stats(), edit=edit), model, images
      )

  def test_auxiliary_loss(self):
    logits, auxiliary = jnp.log(jnp.array([[[1.0, 3.0]] * 2, [[1.0, 1.0]] * 2]))
    labels = jnp.array([0, 1])
    first = -(math.log(0.25) + math.log(0.75)) / 2
    found = overlock.auxiliary_loss(logits, auxiliary, labels)
    _close(found, first + 0.4 * math.log(2))
    found = overlock.auxiliary_loss(logits, auxiliary, labels, weight=2.0)
    _close(found, first + 2 * math.log(2))

  def test_errors(self):
    for message, options in (
      ("4 stages have depths: as many as there are widths", {"depths": (1, 1)}),
      ("one entry a stage", {"windows": (5, 5)}),
      ("focus_heads = .*one entry a stage", {"focus_heads": (1,)}),
    ):
      with self.assertRaisesRegex(ValueError, message):
        jax.eval_shape(lambda options=options: _tiny(**options))
    with self.assertRaisesRegex(ValueError, "at least 2 stages"):
      one = {"widths": (8,), "depths": (1,), "windows": (5,)}
      overlock.Model(3, 5, **one, rngs=nnx.Rngs(0))


def _tiny(**options):
  given: dict[str, Any] = {
    "widths": (8, 8, 16),
    "depths": (1, 2, 1),
    "focus_depths": (2, 2),
    "focus_heads": (1, 1),
    "windows": (5, 5, 5),
    "small_window": 3,
    "regions": 2,
    "projection": 12,
    "layer_scale": 0.5,
  }
  return overlock.Model(3, 5, **(given | options), rngs=nnx.Rngs(0))


def _called(model, images, stats):
  """The results of evaluation and of training, by name."""
  logits, _ = model(images, stats=stats)
  maps, _ = model.features(images, stats=stats)
  (trained, auxiliary), _ = model(images, stats=stats, train=True)
  return {"logits": logits, "maps": maps}, {"logits": trained, "auxiliary": auxiliary}


def _count(module) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(module))


if __name__ == "__main__":
  absltest.main()
