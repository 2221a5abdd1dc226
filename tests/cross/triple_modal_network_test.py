"""The parts of ITCFN's network beside its fusion, in NumPy, and their sizes."""

import math
from typing import Any

import jax
import numpy as np
from absl.testing import absltest
from flax import nnx

from attnjax.nn.norms import Stats
from attnjax.variants.cross import triple_modal

NETWORK = 51_712_485  # the authors' count of their whole network


def _close(found, wanted):
  np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _shapes(make, *arguments, **options):
  return jax.eval_shape(lambda: make(*arguments, **options, rngs=nnx.Rngs(0)))


def _drawn(make, *arguments, **options):
  """Returns a module whose parameters are all drawn."""
  leaves, tree = jax.tree.flatten(_shapes(make, *arguments, **options))
  drawn = [_draw(*x.shape, seed=i) for i, x in enumerate(leaves)]
  # Sums of units are about 1, so that no sigmoid of them is 0 or 1.
  sizes = [math.prod(x.shape[:-1]) ** -0.5 for x in leaves]
  return jax.tree.unflatten(tree, [x * np.float32(s) for x, s in zip(drawn, sizes)])


def _size(made):
  return sum(x.size for x in jax.tree.leaves(made))


def _residual_network():
  """Returns the number of parameters of a 3-D ResNet-50 with 400 classes."""
  count, below = 64 * 7**3 + 2 * 64, 64
  for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
    for block in range(blocks):
      count += below * width + 27 * width**2 + 4 * width**2 + 2 * 6 * width
      count += 0 if block else below * 4 * width + 8 * width
      below = 4 * width
  return count + below * 400 + 400


def _norm(x, norm, stats):
  scale, bias = (np.asarray(getattr(norm, n)[...]) for n in ("scale", "bias"))
  mean, var = np.asarray(stats.mean), np.asarray(stats.var)
  return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)


def _convolved(x, map, stride=1):
  kernel, bias = np.asarray(map.kernel[...]), np.asarray(map.bias[...])
  K = len(kernel)
  x = np.pad(x, ((0, 0), (K // 2, K // 2), (0, 0)))
  starts = range(0, x.shape[1] - K + 1, stride)
  rows = [np.einsum("bki,kio->bo", x[:, s : s + K], kernel) + bias for s in starts]
  return np.stack(rows, axis=1)


def _linear(x, map):
  return x @ np.asarray(map.kernel[...]) + np.asarray(map.bias[...])


def _layer_norm(x, norm):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  return x * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])


class DenseNetTest(absltest.TestCase):
  def test_by_hand(self):
    make: dict[str, Any] = {"layers": (1, 1), "growth": 2, "sigmoid_scores": True}
    net = _drawn(triple_modal.DenseNet, 3, **make)
    x = _draw(2, 37, 3)
    stats = jax.tree.map(
      lambda s: np.float32(0.05) + np.asarray(s) / 3, net.init_stats()
    )
    self.assertLen(
      jax.tree.leaves(stats, is_leaf=lambda s: isinstance(s, Stats)), 1 + 2 + 1 + 2
    )
    found, kept = jax.jit(lambda n, x, s: n(x, stats=s))(net, x, stats)
    jax.tree.map(np.testing.assert_array_equal, kept, stats)
    y = _norm(_convolved(x, net.stem, 2), net.norm, stats["norm"])
    padded = np.pad(y, ((0, 0), (1, 1), (0, 0)), constant_values=-np.inf)
    y = np.stack([padded[:, s : s + 3].max(1) for s in range(0, 19, 2)], axis=1)
    for place in (0, 2):
      block, own = net.blocks[place], stats[f"blocks/{place}"]
      z = _convolved(_norm(y, block.norm, own["norm"]), block.narrow)
      z = _convolved(_norm(z, block.inner_norm, own["inner_norm"]), block.wide)
      y = np.concatenate([y, z], axis=-1)
      if not place:
        between, own = net.blocks[1], stats["blocks/1"]
        y = _convolved(_norm(y, between.norm, own["norm"]), between.convolution)
        y = (y[:, 0::2] + y[:, 1::2]) / 2
    scores = _linear(np.maximum(_linear(y.mean(1), net.hidden), 0), net.head)
    self.assertLess(np.abs(scores).max(), 5)
    _close(found, 1 / (1 + np.exp(-scores)))


class ClinicalEncoderTest(absltest.TestCase):
  def test_by_hand(self):
    make: dict[str, Any] = {"dim": 4, "heads": 2, "hidden": 6, "depth": 2}
    net, x = _drawn(triple_modal.ClinicalEncoder, 3, 5, **make), _draw(7, 3)
    run = jax.jit(lambda n, x, key=None: (n(x, key=key), n.splines(x)))
    found, y = run(net, x)
    for block in net.blocks:
      # A token that is alone sees itself.
      y = _layer_norm(y + _linear(_linear(y, block.value), block.out), block.norm)
      z = _linear(np.maximum(_linear(y, block.up), 0), block.down)
      y = _layer_norm(y + z, block.last_norm)
    _close(found, _linear(y, net.out))
    dropped, _ = run(net, x, jax.random.key(0))
    self.assertGreater(np.abs(dropped - found).max(), 1e-3)

  def test_the_parts_are_as_large_as_the_authors(self):
    attention = _size(_shapes(triple_modal.SelfAttention, 256))
    fusion = 25  # "joint" with D = 1
    net, encoder = map(_shapes, (triple_modal.DenseNet, triple_modal.ClinicalEncoder))
    parts = _size(net) + _size(encoder)
    unused = 9 * 128 + 128  # a linear map that their encoder never calls
    between = 400 * 256 + 256  # from the ResNet's outputs to features
    whole = parts + 3 * attention + fusion + between + unused + _residual_network()
    self.assertEqual(whole, NETWORK)
    self.assertEqual((net.drop_rate, net.sigmoid_scores), (0.5, False))
    self.assertEqual([block.drop_rate for block in encoder.blocks], [0.1] * 3)

  def test_heads_divide_the_width(self):
    with self.assertRaisesRegex(ValueError, "heads = 3; it must divide D = 4"):
      triple_modal.ClinicalEncoder(3, 5, dim=4, heads=3, rngs=nnx.Rngs(0))


if __name__ == "__main__":
  absltest.main()
