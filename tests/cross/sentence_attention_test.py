"""Sentence attention: gates by hand, the layer's streams, the whole way in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.core.streams import Stream
from attnjax.nn import running
from attnjax.nn.top_down import TopDown
from attnjax.variants.cross import sentence_attention

CHANNELS, E, CLASSES = (3, 4, 5), 6, 2
SIZES, IMAGE = ((7, 5), (4, 3), (2, 2)), (13, 9)


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _drawn(build):
  """Returns a module with parameters of which none is 0 or 1, and is not drawn."""
  leaves, tree = jax.tree.flatten(jax.eval_shape(build))
  drawn = [jnp.asarray(0.5 * _draw(*x.shape, seed=i)) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(tree, drawn)


def _layer(**options):
  dims = {"image": 3, "text": E}
  return sentence_attention.Layer(dims, rngs=nnx.Rngs(0), **options)


def _net(**options):
  return sentence_attention.GroundingNet(
    CHANNELS, E, CLASSES, rngs=nnx.Rngs(0), **options
  )


def _softmax(z):
  z = np.exp(z)
  return z / z.sum(axis=-1, keepdims=True)


def _gate(layer, text, kind="softmax"):
  """Returns the gates (B, C), sentence by sentence, in float64."""
  found = []
  for t in np.asarray(text, np.float64):
    h = t @ np.asarray(layer.inner.kernel[...]) + np.asarray(layer.inner.bias[...])
    h = (h - h.mean()) / np.sqrt(h.var() + 1e-5)
    h = np.maximum(h * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...]), 0)
    z = h @ np.asarray(layer.outer.kernel[...]) + np.asarray(layer.outer.bias[...])
    found.append(1 / (1 + np.exp(-z)) if kind == "sigmoid" else _softmax(z))
  return np.array(found) * (z.size if kind == "softmax_scaled" else 1)


class GateTest(parameterized.TestCase):
  # Of the sentence (1, 2) numbers (3, 5) inside, normed (-1, 1); by gain and shift
  # (-2 + 0.5, 1 + 1), by relu (0, 2); logits 2 (ln 2 / 2, 0) and a bias: (ln 2, ln 6).
  WEIGHTS = {
    "inner": [[1.0, 1.0], [0.5, 1.0]],
    "inner_bias": [1.0, 2.0],
    "gain": [2.0, 1.0],
    "shift": [0.5, 1.0],
    "outer": [[7.0, 9.0], [np.log(2.0) / 2, 0.0]],
    "outer_bias": [0.0, np.log(6.0)],
  }

  @parameterized.parameters(
    ("softmax", [1 / 4, 3 / 4]),
    ("softmax_scaled", [1 / 2, 3 / 2]),
    ("sigmoid", [2 / 3, 6 / 7]),
    ("default", [1 / 4, 3 / 4]),
  )
  def test_by_hand(self, kind, want):
    weights: Any = {name: jnp.asarray(x) for name, x in self.WEIGHTS.items()}
    given: Any = {} if kind == "default" else {"gate": kind}
    sentence = jnp.array([[1.0, 2.0]])
    got = sentence_attention.channel_gate(sentence, **weights, **given)
    _close(got, [want], 1e-4)  # 1e-5 beside the variance of 1
    x = jnp.array([[[[1.0, 2.0], [3.0, -4.0]]]])
    gated = sentence_attention.attend(x, sentence, **weights, **given)
    _close(gated, x * jnp.asarray(want), 1e-4)

  def test_epsilon_is_that_of_torch(self):
    weights: Any = {name: jnp.asarray(x) for name, x in self.WEIGHTS.items()}
    # Numbers inside of +-0.001 have the variance 1e-6: normed +-1 / sqrt(11).
    weights |= {"inner": jnp.zeros((1, 2)), "inner_bias": jnp.array([-1e-3, 1e-3])}
    got = sentence_attention.channel_gate(jnp.ones((1, 1)), **weights, gate="sigmoid")
    inside = np.array([0.5 - 2 / np.sqrt(11), 1 + 1 / np.sqrt(11)]).clip(0)
    logits = inside @ self.WEIGHTS["outer"] + self.WEIGHTS["outer_bias"]
    _close(got[0], 1 / (1 + np.exp(-logits)))

  def test_gates_are_float32_and_maps_keep_their_type(self):
    def run(x, kernel, **arrays):
      gate = sentence_attention.channel_gate(**arrays)
      product = sentence_attention.project(x, gate, kernel)
      return gate, product, sentence_attention.attend(x, **arrays)

    arrays = sentence_attention.CASES[0].arrays("bfloat16")
    arrays["kernel"] = jnp.ones((arrays["x"].shape[3], 2), jnp.bfloat16)
    types = [str(y.dtype) for y in jax.eval_shape(run, **arrays)]
    self.assertEqual(types, ["float32", "bfloat16", "bfloat16"])

  def test_folding_makes_no_gated_map(self):
    def largest(impl):
      x, gate, kernel = jnp.ones((2, 9, 9, 8)), jnp.ones((2, 8)), jnp.ones((8, 3))
      made = jax.make_jaxpr(
        lambda *a: sentence_attention.project(*a, impl=impl)
      )(x, gate, kernel)  # fmt: skip
      values: Any = [v.aval for e in made.eqns for v in e.outvars]
      return max(value.size for value in values)

    self.assertEqual((largest("auto"), largest("reference")), (486, 1296))

  @parameterized.parameters(
    ({"gate": "soft"}, "unknown gate 'soft'.*softmax_scaled"),
    ({"outer": jnp.ones((3, 2))}, r"outer has the shape \(3, 2\).*\(2, 2\)"),
    ({"inner": jnp.ones((3, 2))}, r"inner has the shape \(3, 2\).*\(2, 2\)"),
    ({"shift": jnp.ones(3)}, r"shift has the shape \(3,\).*\(2,\)"),
    ({"x": jnp.ones((1, 1, 1, 3))}, r"gate \(1, 2\) of x \(1, 1, 1, 3\)"),
    ({"sentence": jnp.ones((2, 2))}, "2 sentences and 1 maps"),
  )
  def test_errors_name_value_and_rule(self, changed, message):
    given: Any = {name: jnp.asarray(x) for name, x in self.WEIGHTS.items()}
    given |= {"x": jnp.ones((1, 1, 1, 2)), "sentence": jnp.ones((1, 2))} | changed
    with self.assertRaisesRegex(ValueError, message):
      sentence_attention.attend(**given)

  def test_errors_of_kernels(self):
    x, gate = jnp.ones((2, 1, 1, 3)), jnp.ones((2, 3))
    with self.assertRaisesRegex(ValueError, r"kernel \(2, 3\) of x"):
      sentence_attention.project(x, gate, jnp.ones((2, 3)))
    with self.assertRaisesRegex(ValueError, r"gate \(1, 3\) of x \(2, 1, 1, 3\)"):
      sentence_attention.project(x, gate[:1], jnp.ones((3, 3)))


class LayerTest(parameterized.TestCase):
  @parameterized.parameters(*sentence_attention.GATES)
  def test_one_gate_for_all_pixels_of_the_mean_of_real_tokens(self, kind):
    layer: Any = _drawn(lambda: _layer(gate=kind, expansion=2))
    x, text = _draw(2, 4, 3), _draw(2, 3, E, seed=1)
    valid = jnp.array([[True, True, True], [False, True, False]])
    streams = {
      "image": Stream(jnp.asarray(x)),
      "text": Stream(jnp.asarray(text), valid),
    }
    gate = _gate(layer, [text[0].mean(axis=0), text[1, 1]], kind)
    kernel = _draw(3, 2, seed=2)
    run = jax.jit(lambda s, k: (layer(s)["image"], layer.projected(s, k)))
    found, product = run(streams, kernel)
    _close(found, x * gate[:, None])
    _close(product, (x * gate[:, None]) @ kernel)

  def test_defaults_and_parameters(self):
    layer: Any = jax.eval_shape(_layer)
    self.assertEqual((layer.gate, layer.impl), ("softmax", "auto"))
    self.assertEqual(layer.inner.kernel.shape, (E, 4 * E))
    self.assertEqual(layer.outer.kernel.shape, (4 * E, 3))

  def test_is_drawn_as_torch_draws_it(self):
    layer: Any = jax.jit(
      lambda: sentence_attention.Layer({"image": 40, "text": 16}, rngs=nnx.Rngs(0))
    )()
    for part, inputs in ((layer.inner, 16), (layer.outer, 64)):
      for leaf in (part.kernel[...], part.bias[...]):
        self.assertBetween(np.abs(leaf).max(), 0.85 * inputs**-0.5, inputs**-0.5)
    self.assertEqual(set(np.asarray(layer.scale[...])), {1.0})
    self.assertEqual(set(np.asarray(layer.bias[...])), {0.0})

  @parameterized.parameters(
    ({"gate": "hard"}, "unknown gate 'hard'"),
    ({"form": "image"}, "unknown form 'image'"),
    ({"expansion": 0}, "expansion = 0: it must be at least 1"),
  )
  def test_errors_name_value_and_rule(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _layer(**options)

  def test_errors_of_streams(self):
    with self.assertRaisesRegex(ValueError, r"dims of \['image', 'video'\]"):
      sentence_attention.Layer({"image": 2, "video": 3}, rngs=nnx.Rngs(0))


def _resized(x, size):
  """Returns a map (h, w, D) at another size, pixel by pixel: half-pixel centres."""
  out = np.zeros((*size, x.shape[2]))
  for place in np.ndindex(*size):
    taps = []
    for i, n, m in zip(place, size, x.shape):
      at = np.clip((i + 0.5) * m / n - 0.5, 0, m - 1)
      low = min(int(at), m - 1)
      taps.append([(low, 1 - at + low), (min(low + 1, m - 1), at - low)])
    for r, a in taps[0]:
      for c, b in taps[1]:
        out[place] += a * b * x[r, c]
  return out


def _all_resized(x, size):
  return np.stack([_resized(one, size) for one in x])


def _whole(net, maps, text, moments, kept=None):
  """Returns the logits, and the batch's moments, by loops in float64.

  Args:
    net: the network.
    maps: of all levels.
    text: (B, E).
    moments: (mean, variance) of each merge; None for those of the batch.
    kept: factors of the units in front of the head.
  """
  gated = [x * _gate(layer, text)[:, None, None] for layer, x in zip(net.layers, maps)]
  x, seen = gated[-1], {}
  for i in (1, 0):
    merge = net.merges[i]
    low = x @ np.asarray(merge.lower.kernel[...], np.float64)
    seen[i] = low.mean(axis=(0, 1, 2)), low.var(axis=(0, 1, 2)), low[..., 0].size
    mean, var = seen[i][:2] if moments is None else moments[i]
    low = (low - mean) / np.sqrt(var + 1e-5) * np.asarray(merge.norm.scale[...])
    low = low + np.asarray(merge.norm.bias[...])
    x = np.maximum(_all_resized(low, gated[i].shape[1:3]) + gated[i], 0)
  x = x * (1 if kept is None else kept)
  logits = x @ np.asarray(net.head.kernel[...]) + np.asarray(net.head.bias[...])
  return _all_resized(logits, IMAGE), seen


class NetworkTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.net = _drawn(_net)
    cls.maps = [
      jnp.asarray(_draw(2, *size, width, seed=i))
      for i, (size, width) in enumerate(zip(SIZES, CHANNELS))
    ]
    cls.text = jnp.asarray(_draw(2, E, seed=9))
    cls.called = staticmethod(
      jax.jit(
        lambda net, maps, text, stats, key=None, train=False: net(
          maps, text, IMAGE, stats=stats, key=key, train=train
        ),
        static_argnames="train",
      )
    )

  def test_training_is_the_whole_way_by_hand(self):
    stats = running.init_stats(self.net)
    got, after = self.called(self.net, self.maps, self.text, stats, train=True)
    want, seen = _whole(self.net, self.maps, self.text, None)
    self.assertEqual((got.shape, got.dtype), ((2, *IMAGE, CLASSES), jnp.float32))
    _close(got, want, 1e-4)
    for i, (mean, var, count) in seen.items():
      moved = after[f"merges/{i}"]["norm"]
      _close(moved.mean, 0.1 * mean)
      _close(moved.var, 0.9 + 0.1 * var * count / (count - 1))

  def test_evaluation_and_dropout_by_hand(self):
    moments = {i: (_draw(n, seed=i), 1 + _draw(n) ** 2) for i, n in ((0, 3), (1, 4))}
    stats: Any = running.init_stats(self.net)
    for i, (mean, var) in moments.items():
      old = stats[f"merges/{i}"]["norm"]
      stats[f"merges/{i}"]["norm"] = type(old)(jnp.asarray(mean), jnp.asarray(var))
    got, after = self.called(self.net, self.maps, self.text, stats)
    _close(got, _whole(self.net, self.maps, self.text, moments)[0], 1e-4)
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    key = jax.random.key(1)
    kept = 2 * np.asarray(jax.random.bernoulli(key, 0.5, self.maps[0].shape))
    got, _ = self.called(self.net, self.maps, self.text, stats, key)
    _close(got, _whole(self.net, self.maps, self.text, moments, kept)[0], 1e-4)

  def test_layers_are_of_the_form_alone(self):
    class Plain(nnx.Module):
      """The layer without `projected`: the gated map is made."""

      def __init__(self, layer):
        self.layer = layer

      def __call__(self, streams, *, index=0, key=None):
        seen.append((index, key is None))
        return self.layer(streams, index=index)

    plain, seen = _drawn(_net), []
    plain.layers = nnx.List([Plain(layer) for layer in plain.layers])
    stats = running.init_stats(self.net)
    got, _ = self.called(plain, self.maps, self.text, stats)
    want, _ = self.called(self.net, self.maps, self.text, stats)
    _close(got, want)
    # Each layer has the number of its map, and a key in training.
    call = lambda key: plain(self.maps, self.text, IMAGE, stats=stats, key=key)  # noqa: E731
    jax.eval_shape(call, jax.random.key(0))
    self.assertEqual(seen, [(i, none) for none in (True, False) for i in (2, 1, 0)])
    # A vector of a sentence is one token.
    token = Stream(self.text[:, None])
    _close(self.called(self.net, self.maps, token, stats)[0], want)

  def test_one_map_is_gated_too(self):
    net: Any = _drawn(
      lambda: sentence_attention.GroundingNet((3,), E, 2, rngs=nnx.Rngs(0))
    )
    got = jax.jit(lambda net, *x: net(*x, SIZES[0]))(net, self.maps[:1], self.text)
    gated = self.maps[0] * _gate(net.layers[0], self.text)[:, None, None]
    _close(got, gated @ net.head.kernel[...] + net.head.bias[...])

  def test_published_network(self):
    net: Any = jax.eval_shape(lambda: sentence_attention.GroundingNet(rngs=nnx.Rngs(0)))
    self.assertEqual(net.dropout, 0.5)
    self.assertEqual({layer.gate for layer in net.layers}, {"softmax"})
    widths, wide = (32, 48, 80, 224, 640), 4 * 384
    count = sum(384 * wide + 3 * wide + wide * c + c for c in widths)
    count += sum(c * d + 2 * d for d, c in zip(widths, widths[1:])) + 2 * 32 + 2
    self.assertEqual(sum(x.size for x in jax.tree.leaves(net)), count)
    self.assertLen(sentence_attention.CHANNELS, 8)
    given: Any = {"gate": "sigmoid", "expansion": 2, "dropout": 0.1, "impl": "xla"}
    other: Any = jax.eval_shape(lambda: _net(**given))
    layer = other.layers[1]
    self.assertEqual((layer.gate, layer.impl, other.dropout), ("sigmoid", "xla", 0.1))
    self.assertEqual(layer.inner.kernel.shape, (E, 2 * E))

  def test_errors_name_value_and_rule(self):
    with self.assertRaisesRegex(ValueError, "2 maps of 3 layers"):
      self.net(self.maps[:2], self.text, IMAGE)
    with self.assertRaisesRegex(ValueError, "pass stats="):
      self.net(self.maps, self.text, IMAGE)
    with self.assertRaisesRegex(ValueError, "0 layers and 1 maps"):
      TopDown([], (3,), 2, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(ValueError, r"dropout = 1.0; it must be from 0"):
      _net(dropout=1.0)


if __name__ == "__main__":
  absltest.main()
