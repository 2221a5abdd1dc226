"""Polarized self-attention: what the paper and the authors' two modules promise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.mixers import polarized
from experiments.claims.systems import polarized as claim
from experiments.data import key_points

_ALL = [(v, y) for v in polarized.VARIANTS for y in polarized.LAYOUTS]


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _noisy(layer):
  """Returns a layer with parameters of which none is 0 or 1."""
  return jax.tree.map(
    lambda leaf: leaf + 0.3 * _draw(*leaf.shape, seed=leaf.size), layer
  )


_run: Any = jax.jit(lambda layer, x: layer(x))


def _sigmoid(z):
  return 1 / (1 + np.exp(-z))


def _softmax(z):
  return np.exp(z) / np.exp(z).sum()


def _paper(layer, x):
  """The gates of the paper for one image (R, C, D), place by place, in float64."""
  own = {
    name: np.asarray(getattr(layer, name)[...], np.float64)
    for name in "channel_query channel_value spatial_query spatial_value".split()
  }
  places = [x[r, c].astype(np.float64) for r, c in np.ndindex(*x.shape[:2])]
  share = _softmax(np.array([own["channel_query"] @ place for place in places]))
  z = sum(a * (own["channel_value"].T @ place) for a, place in zip(share, places))
  z = np.asarray(layer.up.kernel[...], np.float64).T @ z
  z = (z - z.mean()) / np.sqrt(z.var() + 1e-5)
  channels = _sigmoid(z * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...]))

  def spatial(places):
    queries = [own["spatial_query"].T @ place for place in places]
    weight = _softmax(np.mean(queries, axis=0))
    scores = [weight @ (own["spatial_value"].T @ place) for place in places]
    return _sigmoid(np.array(scores))

  return channels, spatial, places


class GateTest(parameterized.TestCase):
  # Two places, (1, 0) and (0, 1), of which the first weighs three times as much: the
  # pooled x is (3/4, 1/4), its value 4 * 3/4 + 8 * 1/4 = 5.
  IMAGE = jnp.eye(2)[None, None]
  QUERY, VALUE = jnp.array([np.log(3.0), 0.0]), jnp.array([[4.0], [8.0]])

  def _channel(self, up, **options):
    return polarized.channel_gate(self.IMAGE, self.QUERY, self.VALUE, up, **options)[0]

  def test_channel_gate_of_the_paper_by_hand(self):
    norm = {"gain": jnp.array([2.0, 1.0]), "shift": jnp.array([0.5, 0.25])}
    got = self._channel(jnp.array([[1.0, -1.0]]), **norm)
    _close(got, [0.924142, 0.320821])  # of 2.5 and -0.75
    # Of 5e-3 the variance is 2.5e-5, to which 1e-5 is added.
    got = self._channel(jnp.array([[1e-3, -1e-3]]), **norm)
    _close(got, _sigmoid(np.array([2.0, -1.0]) / np.sqrt(1.4) + [0.5, 0.25]))

  def test_channel_gate_of_the_parallel_code_by_hand(self):
    got = self._channel(jnp.array([[0.2, -0.4]]), variant="code_p")
    _close(got, [0.731059, 0.119203])  # of 1 and -2

  def test_channel_gate_of_the_sequential_code_by_hand(self):
    # 5 becomes (6, -4), normed (1, -1), (1.5, -1), by relu (1.5, 0), (3, -1.5).
    got = self._channel(
      jnp.array([[2.0, -1.0], [3.0, 3.0]]),
      squeeze=jnp.array([[1.0, -1.0]]),
      squeeze_bias=jnp.array([1.0, 1.0]),
      gain=jnp.array([1.0, 2.0]),
      shift=jnp.array([0.5, 1.0]),
      up_bias=jnp.array([-1.0, 0.5]),
      variant="code_s",
    )
    _close(got, [0.880797, 0.268941])  # of 2 and -1

  # The mean of x is (1/2, 1/2).
  @parameterized.parameters(
    # m = (ln 3, 0), of which the softmax is (3/4, 1/4); values (2, -2) and (0, -4):
    # scores 1 and -1.
    ("paper", [[np.log(9), 0], [0, 0]], [[2, -2], [0, -4]], [0.731059, 0.268941]),
    # Scores 2 ln 3 and 0, of which the softmax is 9/10 and 1/10.
    ("code_p", [[np.log(9), 0], [0, 0]], [[2, -2], [0, -4]], [0.710950, 0.524979]),
    # m = (1, 2); over places the values are (0.8, 0.25) and (0.2, 0.75): 1.3 and 1.7.
    (
      "code_s",
      [[2, 0], [0, 4]],
      [[np.log(4), 0], [0, np.log(3)]],
      [0.785835, 0.845535],
    ),
  )
  def test_spatial_gate_by_hand(self, variant, query, value, want):
    query, value = (jnp.asarray(weight, jnp.float32) for weight in (query, value))
    got = polarized.spatial_gate(self.IMAGE, query, value, variant=variant)
    _close(got[0, 0], want)

  def test_spatial_gates_of_the_parallel_code_share_one(self):
    x, query, value = map(jnp.asarray, (_draw(2, 9, 7, 6), *_draw(2, 6, 3, seed=1)))
    got = np.asarray(polarized.spatial_gate(x, query, value, variant="code_p"))
    self.assertBetween(got.min(), 0.5, 0.51)
    self.assertLessEqual(got.max(), 0.7311)
    # All but constant on a large map: what is above 1/2 is divided among its places.
    _close(np.log(got / (1 - got)).sum((1, 2)), [1, 1])

  def test_gates_are_float32(self):
    x, query, value = (
      y.astype(jnp.bfloat16) for y in (self.IMAGE, self.QUERY, self.VALUE)
    )
    up = jnp.ones((1, 2), jnp.bfloat16)
    got = polarized.channel_gate(x, query, value, up, variant="code_p")
    self.assertEqual(got.dtype, jnp.float32)
    self.assertEqual(polarized.spatial_gate(x, value, value).dtype, jnp.float32)


class AttendTest(parameterized.TestCase):
  @parameterized.parameters(*_ALL)
  def test_layouts_are_of_the_gates(self, variant, layout):
    layer: Any = _noisy(_layer(variant=variant, layout=layout))
    x = _draw(2, 3, 4, 8)

    @jax.jit
    def parts(layer, x):
      weights = layer.channel_query, layer.channel_value, layer.up.kernel
      more = {"gain": layer.scale, "shift": layer.bias, "up_bias": layer.up.bias}
      if variant == "code_s":
        more |= {"squeeze": layer.squeeze.kernel, "squeeze_bias": layer.squeeze.bias}
      more = {name: more[name][...] for name in polarized.VARIANTS[variant]}
      weights, given = [w[...] for w in weights], {"variant": variant}
      g = polarized.channel_gate(x, *weights, **more, **given)[:, None, None]
      y = x * g if layout == "sequential" else x
      weights = layer.spatial_query[...], layer.spatial_value[...]
      s = polarized.spatial_gate(y, *weights, **given)[..., None]
      return y * s if layout == "sequential" else x * g + x * s

    _close(_run(layer, x), parts(layer, x))

  @parameterized.parameters(*polarized.LAYOUTS)
  def test_the_paper_place_by_place(self, layout):
    layer: Any = _noisy(_layer(layout=layout))
    x = _draw(2, 3, 4, 8)
    found = np.asarray(_run(layer, x)).reshape(2, 12, 8)
    for image, got in zip(x, found):
      channels, spatial, places = _paper(layer, image)
      gated = [place * channels for place in places]
      if layout == "sequential":
        want = [place * s for place, s in zip(gated, spatial(gated))]
      else:
        want = [y + p * s for y, p, s in zip(gated, places, spatial(places))]
      _close(got, want)

  @parameterized.parameters(*_ALL)
  def test_places_have_no_order(self, variant, layout):
    layer = _noisy(_layer(variant=variant, layout=layout))
    x, order = _draw(2, 3, 4, 8), np.random.default_rng(0).permutation(12)
    moved = x.reshape(2, 12, 8)[:, order].reshape(x.shape)
    got = np.asarray(_run(layer, moved)).reshape(2, 12, 8)
    _close(got, np.asarray(_run(layer, x)).reshape(2, 12, 8)[:, order])

  @parameterized.parameters(*_ALL)
  def test_weights_of_zero(self, variant, layout):
    layer = jax.tree.map(jnp.zeros_like, _layer(variant=variant, layout=layout))
    x = _draw(2, 3, 4, 8)
    place = _sigmoid(1 / 12) if variant == "code_p" else 0.5
    factor = 0.5 + place if layout == "parallel" else 0.5 * place
    _close(_run(layer, x), factor * x)

  def test_backward_keeps_the_inputs_alone(self):
    for case in polarized.CASES:
      function, arrays = case.implemented(polarized), case.arrays()
      call = lambda arrays, f=function, o=case.options: f(**arrays, **o)  # noqa: E731
      kept = jax.eval_shape(lambda a, f=call: jax.vjp(f, a)[1], arrays)
      size = sum(leaf.size for leaf in jax.tree.leaves(arrays))
      self.assertLessEqual(sum(leaf.size for leaf in jax.tree.leaves(kept)), size)

  def test_x_is_pooled_before_it_is_projected(self):
    def count(**options):
      layer: Any = jax.eval_shape(lambda: _layer(64, **options))
      x = jax.ShapeDtypeStruct((1, 32, 32, 64), jnp.float32)
      return _run.lower(layer, x).cost_analysis()["flops"]

    # Two numbers of each channel and place for each of five passes, and softmaxes;
    # with F = 32 values of each place it is 6 F such numbers.
    for layout in polarized.LAYOUTS:
      for variant in ("paper", "code_p"):
        found = count(variant=variant, layout=layout)
        self.assertLess(found, 16 * 1024 * 64)
    self.assertGreater(count(variant="code_s"), 64 * 1024 * 64)

  @parameterized.parameters("paper", "code_s")
  def test_images_without_places(self, variant):
    @jax.jit
    def gradient(layer, x):
      # The layer's call gives empty results without its parts.
      heads = layer.project(x)
      return layer.merge(layer.mix(heads), heads).sum()

    layer = _layer(variant=variant)
    for leaf in jax.tree.leaves(jax.grad(gradient)(layer, jnp.ones((2, 0, 3, 8)))):
      self.assertFalse(np.asarray(leaf).any())

  @parameterized.parameters(
    ({"variant": "codes"}, "unknown variant 'codes'.*code_s"),
    ({"layout": "both"}, "unknown layout 'both'.*parallel"),
    ({"gain": None}, r"arrays \['shift'\].*'paper'.*\['gain', 'shift'\]"),
    ({"up_bias": jnp.ones(2)}, r"arrays \['gain', 'shift', 'up_bias'\]"),
    ({"variant": "code_p"}, r"arrays \['gain', 'shift'\].*'code_p' takes \[\]"),
    ({"up": jnp.ones((2, 2))}, r"up has the shape \(2, 2\).*must be \(1, 2\)"),
    ({"channel_query": jnp.ones(3)}, r"channel_query has the shape \(3,\).*\(2,\)"),
    ({"spatial_query": jnp.ones((2, 3))}, r"spatial_query has.*\(2, 3\).*\(2, 1\)"),
    ({"shift": jnp.ones(1)}, r"shift has the shape \(1,\).*\(2,\)"),
  )
  def test_errors_name_the_value(self, changed, message):
    arrays: dict[str, Any] = {"x": jnp.ones((1, 1, 1, 2)), "channel_query": jnp.ones(2)}
    for name in ("channel_value", "spatial_query", "spatial_value"):
      arrays[name] = jnp.ones((2, 1))
    arrays |= {"up": jnp.ones((1, 2)), "gain": jnp.ones(2), "shift": jnp.ones(2)}
    with self.assertRaisesRegex(ValueError, message):
      polarized.attend(**(arrays | changed))


class LayerTest(parameterized.TestCase):
  # Queries D and D F, values 2 D F; norms and the maps after the pooled value.
  @parameterized.parameters(
    ("paper", 16, 8, 8 * 16 + 2 * 16),
    ("code_p", 16, 8, 8 * 16),
    ("code_s", 16, 8, 8 * 2 + 2 + 2 * 2 + 2 * 16 + 16),
    ("code_s", 7, 3, 3 * 1 + 1 + 2 * 1 + 1 * 7 + 7),
    ("paper", 1, 1, 1 + 2),
  )
  def test_parameters(self, variant, dim, inner, rest):
    layer: Any = jax.eval_shape(lambda: _layer(dim, variant=variant))
    found = sum(leaf.size for leaf in jax.tree.leaves(layer))
    self.assertEqual(found, dim + 3 * dim * inner + rest)

  def test_is_the_paper_in_parallel_by_default(self):
    layer = polarized.Layer(8, rngs=nnx.Rngs(0))
    self.assertEqual((layer.variant, layer.layout), ("paper", "parallel"))
    arrays = polarized.CASES[0].arrays()
    named: Any = {"variant": "paper", "layout": "parallel"}
    programs = [
      str(jax.make_jaxpr(lambda a, o=o: polarized.attend(**a, **o))(arrays))
      for o in ({}, named)
    ]
    self.assertEqual(*programs)

  def test_draws_as_the_authors_do(self):
    layer: Any = _layer(256, variant="code_s")
    for leaf in (layer.channel_value, layer.spatial_query, layer.spatial_value):
      self.assertAlmostEqual(float(leaf[...].std()), (2 / 256) ** 0.5, delta=2e-3)
      # Not truncated: of so many some are beyond three deviations.
      self.assertGreater(np.abs(leaf[...]).max(), 3.3 * (2 / 256) ** 0.5)
    self.assertAlmostEqual(float(layer.channel_query[...].std()), 0.0884, delta=0.015)
    self.assertEqual(layer.channel_query.shape, (256,))
    for part, inputs in ((layer.squeeze, 128), (layer.up, 32)):
      for leaf in (part.kernel[...], part.bias[...]):
        self.assertLessEqual(np.abs(leaf).max(), inputs**-0.5)
        self.assertGreater(np.abs(leaf).max(), 0.8 * inputs**-0.5)
    np.testing.assert_array_equal(layer.scale[...], np.ones(32))
    np.testing.assert_array_equal(layer.bias[...], np.zeros(32))

  def test_refuses_what_it_cannot_honour(self):
    layer, x = _layer(), jnp.ones((1, 2, 2, 8))
    with self.assertRaisesRegex(NotImplementedError, "places have no order"):
      layer(x, positions=jnp.arange(4))
    with self.assertRaisesRegex(NotImplementedError, "no valid"):
      layer(x, valid=jnp.ones((1, 2), bool))
    with self.assertRaisesRegex(NotImplementedError, "no weights of pairs"):
      layer.weights(x)

  def test_errors_name_the_option(self):
    for options, message in (
      ({"form": "sequence"}, "unknown form 'sequence'"),
      ({"variant": "codes"}, "unknown variant 'codes'"),
      ({"layout": "both"}, "unknown layout 'both'"),
      ({"impl": "pallas"}, "unknown impl 'pallas'"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        _layer(**options)


class ClaimTest(absltest.TestCase):
  def test_the_claim_counts_peaks_near_the_centres(self):
    side = claim.SIDE
    centres = np.array([[[3, 4], [20, 9], [11, 11]], [[0, 23], [12, 5], [6, 17]]])
    maps = [key_points.heat_maps(one, side, claim.SIGMA) for one in centres]
    _close(claim.heat_maps(jnp.asarray(centres)), np.stack(maps))
    batch = {"image": None, "centres": jnp.asarray(centres)}
    # Two pixels off are near, (1, 2) are not: 3 of 6.
    moved = centres + [[[0, 2], [1, 2], [0, 0]], [[1, -2], [1, 1], [3, 0]]]
    call = lambda image: claim.heat_maps(jnp.asarray(moved))  # noqa: E731
    self.assertAlmostEqual(float(claim.found(call, batch)), 0.5)


def _layer(dim=8, **options) -> Any:
  return polarized.Layer(dim, **options, rngs=nnx.Rngs(0))


if __name__ == "__main__":
  absltest.main()
