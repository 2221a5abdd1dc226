"""Tensor attention held to loops over triples, to its special cases, and Match-3."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.core import third_order
from attnjax.core.third_order.tiles import Tiles
from attnjax.variants.softmax import dot_product
from experiments.training import cost

tensor: Any = contract.load("tensor_attention")


def _draw(*shape, seed=0):
  x = np.random.default_rng([seed, *shape]).standard_normal(shape)
  return jnp.asarray(x, jnp.float32)


def _arrays(B=1, T=4, S=5, N=4, K=2, H=3, V=2):
  keys = [_draw(B, S, K, H, seed=i) for i in (1, 2)]
  return _draw(B, T, N, H), *keys, *(_draw(B, S, K, V, seed=i) for i in (3, 4))


def _loops(q, k1, k2, v1, v2, score, sees):
  """(out, lse) in float64, by loops over query heads, queries and pairs of keys."""
  q, k1, k2, v1, v2 = (np.asarray(x, np.float64) for x in (q, k1, k2, v1, v2))
  (B, T, N, _), (S, K, V) = q.shape, v1.shape[1:]
  out, lse = np.zeros((B, T, N, V)), np.full((B, T, N), -np.inf)
  for b, t, n in itertools.product(range(B), range(T), range(N)):
    k = n * K // N
    pairs = [
      (j, l)
      for j, l in itertools.product(range(S), range(S))
      if sees(b, t, j, 0) and sees(b, t, l, 1)
    ]
    if pairs:
      powers = [np.exp(score(q[b, t, n], k1[b, j, k], k2[b, l, k])) for j, l in pairs]
      lse[b, t, n] = np.log(sum(powers))
      for power, (j, l) in zip(powers, pairs):
        out[b, t, n] += power / sum(powers) * v1[b, j, k] * v2[b, l, k]
  return out, lse


def _trilinear(q, a, b):
  return (q * a * b).sum() / len(q) ** 0.5


def _of_determinants(q, a, b):
  pieces = [
    np.linalg.det(np.stack(x)) for x in zip(*(y.reshape(-1, 3) for y in (q, a, b)))
  ]
  return 0.7 * sum(pieces)


_IDS, _KEY_IDS = jnp.array([[3, 3, 8, -1]]), jnp.array([[3, 8, 3, -1, 8]])
_MASK = jnp.array([True, False, True, True, False])


class FunctionTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("defaults", {}, _trilinear, lambda b, t, s, n: True),
    (
      "causal_windows",
      {"causal": True, "window": (None, 2)},
      _trilinear,
      # The last of 4 queries sees the last of 5 keys.
      lambda b, t, s, n: s <= t + 1 and (n == 0 or s > t - 1),
    ),
    (
      "symmetric_windows",
      {
        "window": (3, 1),
        "offset": 2,
        "mask": _MASK,
        "kind": "determinant",
        "scale": 0.7,
      },
      _of_determinants,
      lambda b, t, s, n: abs(t + 2 - s) < (3, 1)[n] and bool(_MASK[s]),
    ),
    (
      "segments",
      {"segment_ids": _IDS, "kv_segment_ids": _KEY_IDS},
      _trilinear,
      lambda b, t, s, n: _IDS[b, t] == _KEY_IDS[b, s] >= 0,
    ),
  )
  def test_loops_over_triples(self, options, score, sees):
    arrays = _arrays()
    want = _loops(*arrays, score, sees)
    for impl in ("reference", "xla"):
      given = {"return_lse": True, "impl": impl} | options
      found = jax.jit(functools.partial(tensor.attend, **given))(*arrays)
      jax.tree.map(_close, found, want)

  def test_of_ones_it_is_ordinary_attention_with_the_other_stream(self):
    q, k, _, v, _ = _arrays(H=4, V=4)
    one = jnp.ones_like(k)

    @jax.jit
    def run(q, k, v):
      first = tensor.attend(q, k, one, v, one)
      second = tensor.attend(q, one, k, one, v)
      return first, second, tensor.attend_order(q, [k], [v])

    want = jax.nn.dot_product_attention(q, k, v)
    for got in run(q, k, v):
      _close(got, want)

  def test_streams_may_be_exchanged(self):
    @jax.jit
    def run(q, k1, k2, v1, v2):
      one = tensor.attend(q, k1, k2, v1, v2, window=(4, 2), causal=True)
      return one, tensor.attend(q, k2, k1, v2, v1, window=(2, 4), causal=True)

    _close(*run(*_arrays()))

  def test_derivatives_of_derivatives(self):
    arrays = _arrays(T=3, S=3, N=2, K=1)
    options = {"causal": True, "segment_ids": jnp.array([[1, 1, 2]])}

    def of(impl):
      def loss(*x):
        out, lse = tensor.attend(*x, impl=impl, return_lse=True, **options)
        return jnp.sin(out).sum() + (lse**2).sum()

      def slope(*x):
        return sum(jnp.vdot(g, g) for g in jax.grad(loss, (1, 4))(*x))

      return jax.jit(jax.grad(slope, (0, 3)))(*arrays)

    jax.tree.map(_close, of("xla"), of("reference"))

  def test_tiles_do_not_matter(self):
    arrays = _arrays(B=2, T=9, S=11)
    who = third_order.Sight(0.5, True, (0, 6), offset=2)

    def run(x, tiles):
      def both(*x):
        out, lse = third_order.tiled(*x, (None, None), sight=who, tiles=tiles)
        return jnp.sin(out).sum() + jnp.sin(lse).sum()

      return jax.value_and_grad(both, range(5))(*x)

    run = jax.jit(run, static_argnums=1)
    want = run(arrays, None)
    jax.tree.map(_close, run(arrays, Tiles(2, 4, 2, 6)), want)

  def test_memory_does_not_grow_with_pairs(self):
    def taken(T):
      q = jax.ShapeDtypeStruct((1, T, 1, 8), jnp.float32)

      def loss(q):
        return tensor.attend(q, q, q, q, q, causal=True, impl="xla").sum()

      compiled = jax.jit(jax.grad(loss)).lower(q).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    self.assertLess(taken(1024), 4 * 1024**2)  # pairs of one query alone: 4 MiB

  def test_of_nothing(self):
    for shape in ({"T": 0}, {"S": 0}, {"B": 0}):
      q, *rest = _arrays(**shape)
      out, lse = tensor.attend(q, *rest, return_lse=True)
      self.assertEqual(out.shape, (*q.shape[:3], 2))
      np.testing.assert_array_equal(lse, -np.inf)

  @parameterized.parameters(
    ({"window": (3,)}, "2 streams have one each"),
    ({"window": (0, 3)}, "None or at least 1"),
    ({"segment_ids": _IDS}, r"kv_segment_ids has the shape \(1, 4\)"),
    ({"kv_segment_ids": _KEY_IDS}, "kv_segment_ids without segment_ids"),
    ({"mask": _KEY_IDS}, "mask has the type int"),
    ({"kind": "determinants"}, "unknown kind 'determinants'"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      tensor.attend(*_arrays(), **options)

  def test_errors_of_shapes(self):
    q, k1, k2, v1, v2 = _arrays()
    for given, message in (
      ((q, k1, k2[:, :3], v1, v2), "k2.*must have the shape of k1"),
      ((q, k1, k2, v1, v2[..., :1]), "v2.*must have the shape of v1"),
      ((q[:, :, :3], k1, k2, v1, v2), "3 query heads do not divide by 2"),
      ((q[..., :2], k1, k2, v1, v2), "B and H as q"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        third_order.check(*given)
    with self.assertRaisesRegex(ValueError, "H = 2; determinants take pieces of 3"):
      tensor.attend(q[..., :2], k1[..., :2], k2[..., :2], v1, v2, kind="determinant")
    with self.assertRaisesRegex(ValueError, "0 keys and 0 values"):
      tensor.attend_order(q, [], [])


class DeterminantTest(absltest.TestCase):
  def test_scores_depend_on_differences_of_positions(self):
    q, k1, k2, v1, v2 = _arrays(T=5, H=6)

    @jax.jit
    def run(places):
      turned = [tensor.rotated(x, places, theta=50.0) for x in (q, k1, k2)]
      return tensor.attend(*turned, v1, v2, kind="determinant")

    place = jnp.arange(5)
    _close(run(place + 7), run(place))
    self.assertGreater(abs(run(2 * place) - run(place)).max(), 1e-3)
    # Piece 0 turns by its position, the axis stays.
    x = jnp.array([1.0, 0, 2, 0, 1, 3]).reshape(1, 1, 1, 6)
    turned = tensor.rotated(x, jnp.array([2.0]), theta=16.0)
    want = [np.cos(2), np.sin(2), 2, -np.sin(0.5), np.cos(0.5), 3]
    _close(turned.ravel(), want)


class PolynomialTest(parameterized.TestCase):
  def test_the_error_falls_with_the_degree_below_its_bound(self):
    arrays = _arrays(B=1, T=6, S=6, N=2, K=1, H=3)
    top = abs(np.einsum("btnh,bjkh,blkh->btnjl", *arrays[:3])).max() / 3**0.5
    degrees, before = (2, 4, 6), np.inf

    @jax.jit
    def run(*x):
      outs = [
        tensor.attend_polynomial(*x, degree=degree, bound=float(top))
        for degree in degrees
      ]
      return tensor.attend(*x), outs

    exact, outs = run(*arrays)
    for degree, out in zip(degrees, outs):
      error = float(abs(out - exact).max())
      relative = tensor.relative_error(degree, float(top))
      self.assertLess(error, tensor.error_bound(relative, *arrays[3:]) + 1e-6)
      self.assertLess(error, before / 2)
      before = error

  def test_coefficients(self):
    np.testing.assert_allclose(tensor.coefficients(3), [1, 1, 1 / 2, 1 / 6])
    # Near the best: the error of degree 1 on [-1, 1], where e^-x p(x) - 1 swings.
    self.assertLess(tensor.relative_error(1, 1.0), tensor.relative_error(1, 1.0, False))
    # Entries of twice the size: scores, and so the bound, are 8 times as great.
    self.assertLess(tensor.relative_error(4, 0.5), 1e-3)
    self.assertGreater(tensor.relative_error(4, 4.0), 1e-2)
    self.assertLess(tensor.relative_error(11, 4.0), 1e-3)
    self.assertEqual(tensor.error_bound(1.5, jnp.ones(1), jnp.ones(1)), np.inf)
    self.assertAlmostEqual(tensor.error_bound(0.5, jnp.ones(1), -jnp.full(1, 3.0)), 6)

  def test_of_fewer_keys_than_queries(self):
    arrays = _arrays(T=19, S=4, H=2)
    given = {"degree": 2, "causal": True}

    @jax.jit
    def run(*x):
      one = tensor.attend_polynomial(*x, **given)
      return one, tensor.attend_polynomial(*x, **given, impl="reference")

    got, want = run(*arrays)
    _close(got, want)
    np.testing.assert_array_equal(got[:, :15], 0)

  @parameterized.parameters(True, False)
  def test_products_are_linear_in_tokens(self, causal):
    def count(T):
      q = jax.ShapeDtypeStruct((1, T, 1, 3), jnp.float32)

      def run(q):
        return tensor.attend_polynomial(q, q, q, q, q, degree=4, causal=causal)

      return cost.flops(jax.make_jaxpr(run)(q).jaxpr)

    self.assertEqual(count(128), 2 * count(64))

  @parameterized.parameters(
    ({"degree": -1}, "degree = -1"), ({"degree": 2, "bound": 0.0}, "bound = 0.0")
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      tensor.attend_polynomial(*_arrays(), **options)


class LayerTest(parameterized.TestCase):
  def test_order_two_is_ordinary_attention(self):
    layer = tensor.Layer(
      8, form="causal", heads=2, order=2, qk_norm=False, rngs=nnx.Rngs(0)
    )
    plain: Any = dot_product.Layer(
      8, form="causal", heads=2, rope_theta=0.0, rngs=nnx.Rngs(1)
    )
    plain.qkv.query, plain.out = layer.query, layer.out
    plain.qkv.key, plain.qkv.value = layer.keys[0], layer.values[0]
    x = _draw(2, 6, 8)
    _close(*jax.jit(lambda *layers: [f(x) for f in layers])(layer, plain))

  def test_the_parts(self):
    layer = tensor.Layer(
      6, form="sequence", heads=2, kv_heads=1, scale=0.3, rngs=nnx.Rngs(0)
    )
    x = _draw(1, 5, 6)

    def norm(y, weight):
      return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(weight)

    def project(linear):
      return np.einsum("btd,dnh->btnh", x, linear.kernel)

    keys = [norm(project(k), n.scale) for k, n in zip(layer.keys, layer.key_norms)]
    q = norm(project(layer.query), layer.query_norm.scale)
    given = q, *keys, *map(project, layer.values)
    out, _ = _loops(*given, lambda *x: 0.3 * np.prod(x, 0).sum(), lambda *_: True)
    y = jax.jit(lambda f: f(x))(layer)
    _close(y, np.einsum("btnh,nhd->btd", out, layer.out.kernel))

  def test_weights_are_those_of_the_first_stream(self):
    layer = tensor.Layer(6, form="causal", heads=2, order=4, rngs=nnx.Rngs(0))
    x = _draw(1, 4, 6)

    @jax.jit
    def run(layer):
      heads = layer.project(x)
      values = jnp.ones_like(heads.v).at[:, :, :2].set(heads.v[:, :, :2])
      weights = contract.weights(layer, x)
      of_one = dataclasses.replace(heads, v=values)
      return weights, layer.mix(of_one), heads.v[:, :, :2]

    weights, got, values = run(layer)
    _close(weights.sum(-1), np.ones((1, 2, 4)))
    np.testing.assert_array_equal(np.triu(weights[0, 0], 1), 0)
    _close(got, np.einsum("bnts,bsnv->btnv", weights, values))

  def test_rotations_honour_positions(self):
    options = {"heads": 2, "kind": "determinant", "rope_theta": 100.0}
    layer = tensor.Layer(12, form="causal", **options, rngs=nnx.Rngs(0))
    x, place = _draw(1, 5, 12), jnp.arange(5)
    self.assertEmpty(layer.refuses)

    @jax.jit
    def run(layer, places):
      _, cache = layer.step(x[:, :3], layer.init_cache(1, 5))
      return layer(x, positions=places), layer.step(x[:, 3:], cache)[0]

    (y, last), (other, _) = run(layer, place + 3), run(layer, place**2)
    _close(y, run(layer, place)[0])
    _close(last, y[:, 3:])
    self.assertGreater(abs(y - other).max(), 1e-3)

  def test_defaults(self):
    layer = jax.eval_shape(lambda: tensor.Layer(16, form="causal", rngs=nnx.Rngs(0)))
    shapes = sorted(x.shape for x in jax.tree.leaves(layer))
    self.assertEqual(shapes, [(4,)] * 3 + [(4, 4, 16)] + [(16, 4, 4)] * 5)
    self.assertEqual((layer.scale, layer.window), (0.5, (None, None)))
    self.assertIn("positions", layer.refuses)
    self.assertEqual(layer.init_cache(2, 7).k.shape, (2, 7, 8, 4))

  @parameterized.parameters(
    ({"order": 1}, "order = 1"),
    ({"window": (3,)}, "order 3 has 2 streams"),
    ({"kind": "determinant"}, "H = 4: it needs order 3"),
    ({"rope_theta": 10.0}, "a trilinear form of rotated"),
    ({"kv_heads": 3}, "do not divide by kv_heads = 3"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      tensor.Layer(16, form="causal", **options, rngs=nnx.Rngs(0))


class MatchTest(parameterized.TestCase):
  @parameterized.parameters((8, 51), (16, 197))
  def test_triples_are_found_without_training(self, n, M):
    """Whether some j and l have x_i + x_j + x_l = 0 modulo M."""
    x = np.random.default_rng(n).integers(M, size=(4, n))
    both = (x[:, :, None, None] + x[:, None, :, None] + x[:, None, None]) % M == 0
    found = both.any(axis=(2, 3))
    self.assertBetween(found.mean(), 0.3, 0.7)
    c, s = np.cos(2 * np.pi * x / M), np.sin(2 * np.pi * x / M)
    beta = (2 * np.log(n) + 4) / (1 - np.cos(2 * np.pi / M))

    def heads(*parts, factor=1.0):
      return jnp.asarray(factor * np.stack(parts, axis=-1)[:, :, None], jnp.float32)

    root = float(beta) ** (1 / 3)
    q, k1, k2 = (
      heads(*parts, factor=root)
      for parts in ((c, -c, -s, -s), (c, s, c, s), (c, s, s, c))
    )
    v1, v2 = heads(c, -s, s, c), heads(c, s, c, s)
    run = jax.jit(functools.partial(tensor.attend, scale=1.0))
    out = np.asarray(run(q, k1, k2, v1, v2))[:, :, 0]
    total = c * (out[..., 0] + out[..., 1]) - s * (out[..., 2] + out[..., 3])
    guess = total > (1 + np.cos(2 * np.pi / M)) / 2
    np.testing.assert_array_equal(guess, found)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
