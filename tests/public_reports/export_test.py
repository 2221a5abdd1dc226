"""Reports of functions that are exported, and of layers that are copied and stacked."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx
from jax import export

import attnjax
from attnjax import contract, masks
from tests import definition, precision
from tests.public_reports import arrays, attend, close, expected


class ExportTest(parameterized.TestCase):
  @parameterized.product(
    spec=("b, 16, 2, 8", "1, t, 2, 8", "b, t, 2, 8"), impl=("auto", "reference")
  )
  def test_sizes_that_are_left_open(self, spec, impl):
    """keras-team/keras PR#19462, enpasos/jax2onnx#168, jax-ml/jax#28327."""
    x = jax.ShapeDtypeStruct(export.symbolic_shape(spec), jnp.float32)
    first = jax.ShapeDtypeStruct((), jnp.int32)

    def run(q, k, v, first):
      options = {"is_causal": True, "segment_ids": jnp.zeros(q.shape[:2], int)}
      options |= {"local_window_size": (5, 0), "impl": impl}
      later = attend(q, k, v, query_positions=first, mask=masks.Causal(), impl=impl)
      return attend(q, k, v, **options), later

    saved = export.export(jax.jit(run))(x, x, x, first)
    if impl == "auto":
      given = arrays(16)
      away = np.arange(16)[:, None] - np.arange(16)
      near, later = saved.call(*given, jnp.int32(2))
      close(near, expected(*given, (away >= 0) & (away <= 5)))
      close(later, expected(*given, away >= -2))

  def test_a_decoding_step_with_its_cache(self):
    """google-deepmind/penzai#123."""
    layer = attnjax.dot_product.Layer(16, form="causal", heads=2, rngs=nnx.Rngs(0))
    given = jnp.ones((1, 1, 16)), layer.init_cache(1, 8)
    step = jax.jit(layer.step)
    saved = export.export(step)(*given).serialize()
    close(export.deserialize(saved).call(*given), step(*given))

  @parameterized.parameters("nprf", "neighborhood", "routing_transformer", "aaren")
  def test_caches_of_all_kinds(self, slug):
    module = contract.load(slug)
    options = {n: x for n, x in module.LAYER.items() if n != "dim"}
    make = contract.constructor(slug, options, ("causal",))
    layer = make(module.LAYER["dim"], layers=2, rngs=nnx.Rngs(0))
    cache = jax.eval_shape(lambda: layer.init_cache(1, 16))
    saved = export.export(jax.jit(lambda cache: cache))(cache).serialize()
    tree = jax.tree.structure(((cache,), {}))
    self.assertEqual(export.deserialize(saved).in_tree, tree)

  def test_masks_in_exports(self):
    grid = masks.Neighborhood((3, 3), (3, 2), causal=(True, False))
    for mask in (
      masks.Causal(2) & masks.Window(3, 1) | ~masks.Chunked(4),
      masks.per_head([grid, masks.Dilated(2) & masks.Lengths(5)]),
      masks.permute(masks.Segments(np.arange(9) // 3, np.arange(9) // 3), np.arange(9)),
      masks.Blocks(np.zeros((1, 1, 3, 1), int), np.ones((1, 1, 3), int), 3, 3, 9, 9),
    ):
      run = jax.jit(lambda mask: mask.dense(9, 9))
      saved = export.deserialize(export.export(run)(mask).serialize())
      np.testing.assert_array_equal(saved.call(mask), run(mask))
    with self.assertRaisesRegex(ValueError, "Where cannot be exported"):
      export.export(run)(masks.Where(lambda q, k: q > k)).serialize()


class LayerTest(absltest.TestCase):
  def test_stacks_by_vmap_and_scan(self):
    """google/flax#4589, #4151, #4771, #5025."""

    @nnx.vmap
    def make(key):
      return attnjax.dot_product.Layer(16, form="causal", heads=2, rngs=nnx.Rngs(key))

    layers = make(jax.random.split(jax.random.key(0), 3))
    graph, state = nnx.split(layers)

    def run(state, x):
      body = jax.checkpoint(lambda x, s: (x + nnx.merge(graph, s)(x), None))
      return jnp.sin(jax.lax.scan(body, x, state)[0]).sum()

    found = jax.eval_shape(jax.grad(run), state, jnp.ones((1, 12, 16)))
    jax.tree.map(lambda a, b: self.assertEqual(a.shape, b.shape), found, state)

  def test_donated_decoding_in_64_bits(self):
    """google/flax PR#3571, jax-ml/jax#9635, sglang-jax PR#230."""
    with jax.enable_x64(True):
      layer = attnjax.dot_product.Layer(8, form="causal", heads=2, rngs=nnx.Rngs(0))
      x = jax.random.normal(jax.random.key(0), (1, 4, 8), jnp.float32)
      ids = jnp.array([[0, 0, 1, 1]])  # int64
      step = jax.jit(
        lambda x, cache, ids: layer.step(x, cache, segment_ids=ids), donate_argnums=1
      )
      cache, found = layer.init_cache(1, 4), []
      for t in range(4):
        y, cache = step(x[:, t : t + 1], cache, ids[:, t : t + 1])
        found.append(y)
      close(jnp.concatenate(found, axis=1), layer(x, segment_ids=ids))

  def test_half_precision(self):
    """google/flax#982: float16, head sizes that divide by nothing."""
    for size in (1, 3):
      q, k, v = (x.astype(jnp.float16) for x in arrays(12, H=size))
      problem = {n: np.asarray(x, np.float64) for n, x in zip("qkv", (q, k, v))}
      problem |= {"scale": size**-0.5, "g": 0 * problem["q"]}
      problem["g_lse"] = problem["g"][..., 0]
      plain = definition.plain(problem, "float16")["out"]
      part = precision.worst(attend(q, k, v), expected(q, k, v), plain)
      self.assertLessEqual(part, 1.0)

  def test_dropout_under_vmap(self):
    """google/flax#4151: the same as in a loop."""
    q, k, v = arrays(12)
    keys = jax.random.split(jax.random.key(0), 3)

    def run(key):
      return attend(q, k, v, dropout_rate=0.5, dropout_rng=key, impl="reference")

    got = jax.vmap(run)(keys)
    close(got, jnp.stack([run(key) for key in keys]))
    self.assertGreater(float(jnp.abs(got[0] - got[1]).max()), 0.1)

  def test_a_mask_beside_all_else(self):
    """AI-Hypercomputer/maxtext#878: nothing is dropped where features meet."""
    given, rng = arrays(12), np.random.default_rng(0)
    mask, ids = rng.random((2, 12, 12)) < 0.8, np.repeat([0, 1], 6)
    mask |= np.eye(12, dtype=bool)
    away = np.arange(12)[:, None] - np.arange(12)
    seen = mask & (away >= 0) & (away <= 4) & (ids[:, None] == ids)
    got = attend(
      *given,
      mask=mask,
      is_causal=True,
      local_window_size=(4, 9),
      segment_ids=ids,
      key_value_seq_lengths=[10],
      query_seq_lengths=[12],
    )
    close(got, expected(*given, seen & (np.arange(12) < 10)))


if __name__ == "__main__":
  absltest.main()
