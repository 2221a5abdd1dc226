"""Mixture of heads: what the paper alone promises, and what the authors' file lacks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.variants.heads import mixture_of_head as moh
from attnjax.variants.heads.mixture_of_head import dispatch
from attnjax.variants.linear import lightning2
from attnjax.variants.softmax import dot_product
from experiments.training import cost


def _draw(*shape, seed=0):
  draw = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(draw, jnp.float32)


def _softmax(x):
  x = np.asarray(x)
  weight = np.exp(x - x.max(-1, keepdims=True))
  return weight / weight.sum(-1, keepdims=True)


def _layer(**options) -> Any:
  options: dict[str, Any] = {"heads": 4, "form": "causal", "balance": 0.0} | options
  return moh.Layer(16, rngs=nnx.Rngs(0), **options)


def _outline(**options) -> Any:
  """A layer without numbers."""
  return jax.eval_shape(lambda: _layer(**options))


class GatesTest(parameterized.TestCase):
  def test_formula_by_hand(self):
    routed = jnp.log(jnp.array([[[4.0, 1.0, 3.0, 2.0]]]))
    shared, balance = (jnp.log(jnp.array([[x]])) for x in ([1.0, 3.0], [1.0, 4.0]))

    @jax.jit
    def run():
      found = moh.gates(routed, shared, balance, heads=6, top_k=2)
      alone = moh.gates(routed, heads=6, top_k=2).weights
      whole = moh.gates(routed[..., :0], shared, heads=2, top_k=0)
      level = moh.gates(jnp.zeros((1, 1, 5)), heads=5, top_k=2).weights
      return jax.tree.map(lambda x: x[0, 0], (found, alone, whole.weights, level))

    found, alone, whole, level = run()
    # Shared: 2 [1/4, 3/4] 2/5; routed: 2 [4/7, 0, 3/7, 0] 8/5.
    want = [0.2, 0.6, 64 / 35, 0, 48 / 35, 0]
    np.testing.assert_allclose(found.weights, want, rtol=1e-6)
    np.testing.assert_array_equal(found.active, [True, False, True, False])
    np.testing.assert_allclose(found.share, [0.4, 0.1, 0.3, 0.2], rtol=1e-6)
    np.testing.assert_allclose(alone, [1, 1, 8 / 7, 0, 6 / 7, 0], rtol=1e-6)
    np.testing.assert_allclose(whole, [0.5, 1.5], rtol=1e-6)
    # Of equal logits the first are taken.
    np.testing.assert_allclose(level, [1, 1, 0, 0, 0])

  def test_quantised_gates_are_0_or_1_with_the_gradient_of_p(self):
    routed, dg = _draw(2, 3, 5), _draw(2, 3, 7, seed=1)

    @jax.jit
    def run(routed):
      return moh.gates(routed, heads=7, top_k=2, quantised=True).weights

    weights, pull = jax.vjp(run, routed)
    rank = np.argsort(np.argsort(-routed, axis=-1), axis=-1)
    np.testing.assert_allclose(weights[..., 2:], rank < 2, atol=1e-6)
    np.testing.assert_array_equal(weights[..., :2], 1)
    p, dp = _softmax(routed), dg[..., 2:] * (rank < 2)
    want = p * (dp - (p * dp).sum(-1, keepdims=True))
    np.testing.assert_allclose(pull(dg)[0], want, rtol=1e-4, atol=1e-6)

  def test_norms_of_queries_over_their_deviation(self):
    q = _draw(1, 3, 4, 5).at[0, 2].set(0.0)  # a token of padding
    got, pull = jax.vjp(jax.jit(moh.query_norms), q)
    norm = np.linalg.norm(q, axis=-1)[:, :2]
    want = norm / norm.std(axis=-1, ddof=1, keepdims=True)
    np.testing.assert_allclose(got[:, :2], want, rtol=1e-5)
    np.testing.assert_array_equal(got[:, 2], 0)
    (dq,) = pull(jnp.ones_like(got))
    self.assertTrue(jnp.isfinite(dq).all())
    self.assertGreater(float(jnp.abs(dq[:, :2]).max()), 0.1)
    np.testing.assert_array_equal(dq[:, 2], 0)

  def test_balance_loss_and_its_gradient_by_shares_only(self):
    routed, valid = _draw(2, 4, 3), jnp.array([[1, 1, 1, 0], [0, 0, 1, 1]], bool)

    @jax.jit
    def run(routed):
      return moh.balance_loss(moh.gates(routed, heads=3, top_k=2), valid)

    got, slope = jax.value_and_grad(run)(routed)
    p = _softmax(routed)
    taken = np.argsort(np.argsort(-p, axis=-1), axis=-1) < 2
    P, f = p[np.asarray(valid)].mean(axis=0), taken[np.asarray(valid)].mean(axis=0)
    np.testing.assert_allclose(got, 9 * (P * f).mean(), rtol=1e-5)
    want = 3 * p * (f - (p * f).sum(-1, keepdims=True)) / 5 * valid[..., None]
    np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-7)
    level = moh.Gates(
      None, jnp.tile(jnp.eye(3, dtype=bool), (1, 2, 1)), jnp.full((1, 6, 3), 1 / 3)
    )
    np.testing.assert_allclose(moh.balance_loss(level), 1.0, rtol=1e-6)  # top_k

  @parameterized.parameters(
    ({"top_k": 4}, r"top_k = 4; of 3 routed heads a token takes 1 to 3"),
    ({"top_k": 0}, "top_k = 0"),
    ({"heads": 2}, "more than heads = 2"),
    ({"shared": jnp.zeros((1, 2, 2))}, "it has 1 shared heads"),
    ({"balance": jnp.zeros((1, 2, 2)), "heads": 3}, "0 heads are shared, 3 routed"),
    ({"shared": jnp.zeros((1, 2, 1)), "quantised": True}, "quantised gates"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      moh.gates(jnp.zeros((1, 2, 3)), **{"heads": 4, "top_k": 2} | options)


class DispatchTest(parameterized.TestCase):
  def test_without_drops_it_is_the_dense_form_with_all_gradients(self):
    B, T, S, A, R = 2, 12, 15, 2, 4
    draws = {n: _draw(B, S, 3, 4, seed=i) for i, n in enumerate("kv")}
    draws |= {"q": _draw(B, T, A + R, 4, seed=2), "bias": _draw(1, A + R, T, S, seed=3)}
    # Token t takes the heads t and t + 1 modulo R: half of the tokens take each.
    near = (np.arange(R) - np.arange(T)[:, None]) % R < 2
    draws |= {"routed": _draw(B, T, R, seed=4) + 9 * near}
    mask = _draw(B, 1, T, S, seed=5) > 0

    @jax.jit
    def both(draws):
      def run(draws, capacity, impl="xla", **options):
        options |= {"top_k": 2, "capacity": capacity, "impl": impl, "scale": 0.3}
        out = moh.attend(**draws, **options, mask=mask, quantised=True)
        return jnp.sin(out).sum(), out

      with jax.numpy_rank_promotion("raise"):
        found = [jax.grad(run, has_aux=True)(draws, c) for c in (0.0, 1.0)]
      past = [
        run(draws, c, i, causal=True)[1] for c, i in ((1.0, "xla"), (0.0, "reference"))
      ]
      return *found, run(draws, 0.0, "reference")[1], past

    self.assertEqual(dispatch.places(1.0, 2, R, T), 6)
    dense, lists, defined, past = both(draws)
    _close(*past)  # the last query sees the last key
    jax.tree.map(_close, lists, dense)
    _close(dense[1], defined)

  def test_places_go_to_the_first_tokens_and_padding_takes_none(self):
    q = k = jnp.zeros((1, 8, 3, 1))
    routed = jnp.zeros((1, 8, 2)).at[..., 1].set(jnp.array([1, 1, 1, -1, 1, 1, 1, -1]))
    ids = jnp.array([[-1, -1, 0, 0, 0, 0, 0, 0]])
    given = {"top_k": 1, "capacity": 1.0, "segment_ids": ids, "causal": True}
    v = jnp.ones_like(k).at[:, :2].set(jnp.nan)
    run = jax.jit(lambda *x: moh.attend(*x, **given)[0, 2:, :, 0])
    out = run(q, k, v, routed)
    # Of 6 tokens 4 take head 2, the last head, which has places for 3.
    np.testing.assert_array_equal(out[:, 0], 1)
    np.testing.assert_array_equal(out[:, 1], [0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(out[:, 2], [1, 0, 1, 1, 0, 0])

  @parameterized.parameters(
    (0.6, 3, 8, 10, 3), (1.25, 2, 6, 100, 42), (4.0, 1, 2, 9, 9)
  )
  def test_places(self, capacity, top_k, routed, tokens, want):
    self.assertEqual(dispatch.places(capacity, top_k, routed, tokens), want)

  def test_work_falls_with_the_share_of_active_heads(self):
    def count(capacity):
      def run(q, routed):
        return moh.attend(q, q, q, routed, top_k=2, capacity=capacity, impl="xla")

      q, routed = (jax.ShapeDtypeStruct((1, 1024, *n), "f4") for n in ((8, 4), (6,)))
      return cost.flops(jax.make_jaxpr(run)(q, routed).jaxpr)

    # 2 of 8 heads are shared, and 2 of 6 routed ones are taken.
    self.assertAlmostEqual(count(1.0) / count(0.0), (2 + 2) / 8, delta=0.005)

  def test_a_negative_capacity_is_an_error(self):
    with self.assertRaisesRegex(ValueError, "capacity = -1.0"):
      _layer(capacity=-1.0)


class LayerTest(parameterized.TestCase):
  def test_all_heads_with_quantised_gates_are_plain_attention(self):
    layer = _layer(shared=1, top_k=3, quantised=True, qkv_bias=True, out_bias=True)
    plain: Any = dot_product.Layer(
      16, form="causal", heads=4, qkv_bias=True, out_bias=True, rngs=nnx.Rngs(1)
    )
    layer.qkv, layer.out, x = plain.qkv, plain.out, _draw(1, 7, 16)
    _close(*jax.jit(lambda *layers: [y(x) for y in layers])(layer, plain))

  def test_the_router_of_language_models_reads_norms_before_the_rotation(self):
    layer = _layer(router="query_norm", quantised=True, kv_heads=2, shared=1, top_k=1)
    self.assertEmpty(jax.tree.leaves(layer.router))
    x = 40 * _draw(1, 7, 16)

    @jax.jit
    def run(layer):
      heads = layer.project(x)
      plain = dot_product.attend(heads.q, heads.k, heads.v, causal=True)
      return layer.qkv.heads(x)[0], layer.mix(heads), plain

    q, got, plain = run(layer)
    norm = np.linalg.norm(q, axis=-1)[..., 1:]
    gate = norm == norm.max(-1, keepdims=True)
    gate = np.concatenate([np.ones((1, 7, 1)), gate], axis=-1)
    _close(got, plain * gate[..., None])

  @parameterized.parameters(("token", 5.0), ("example", 2.0), ("batch", 1.0))
  def test_the_backward_pass_adds_the_weighted_loss(self, counted, number):
    options = {"shared": 1, "top_k": 2, "counted": counted}
    router = moh.Router(6, 4, balance=0.3, rngs=nnx.Rngs(0), **options)
    x, q = _draw(3, 3, 6), _draw(3, 3, 4, 2, seed=1)
    ids = jnp.array([[0, 0, -1], [1, 2, 2], [-1] * 3])

    def added(router):
      return router.learning(jnp.zeros(()), router.logits(x, q), ids)

    def loss(router):
      return 0.3 * number * router.loss(router.logits(x, q), ids)

    got, want = (jax.jit(jax.grad(f))(router) for f in (added, loss))
    jax.tree.map(_close, got, want)
    self.assertGreater(float(jnp.abs(got.routed_map.kernel[...]).max()), 1e-4)

  def test_the_loss_is_returned_and_is_averaged_over_layers(self):
    layer = _layer(balance=0.06, layers=3, form="sequence")
    self.assertAlmostEqual(layer.router.balance, 0.02)
    self.assertEqual(layer.router.counted, "example")
    x = _draw(2, 5, 16)
    y, loss, called = jax.jit(lambda f: (*f.learn(x), f(x)))(layer)
    _close(y, called)
    share = _softmax(x.reshape(10, 16) @ np.asarray(layer.router.routed_map.kernel))
    taken = share == share.max(-1, keepdims=True)
    _close(loss, 2 * (share.mean(0) * taken.mean(0)).sum())

  def test_defaults(self):
    layer, options = _outline(heads=8), contract.defaults("mixture_of_head")
    router = layer.router
    self.assertEqual((router.shared, router.top_k, router.counted), (4, 2, "token"))
    self.assertEqual(
      [options[n] for n in ("heads", "balance", "capacity")], [8, 0.01, 0]
    )
    shapes = [x.shape for x in jax.tree.leaves(router)]
    self.assertEqual(sorted(shapes), [(16, 2), (16, 4), (16, 4)])
    self.assertIsNone(_outline(shared=1).router.shared_map)
    self.assertIsNone(_outline(shared=0).router.balance_map)
    whole = _outline(shared=4, top_k=0)
    self.assertIsNone(whole.router.routed_map)
    loss = jax.eval_shape(lambda f: f.learn(jnp.zeros((1, 3, 16)))[1], whole)
    self.assertEqual(loss.shape, ())

  def test_the_start(self):
    router: Any = moh.Router(64, 4, shared=0, top_k=1, rngs=nnx.Rngs(0))
    kernel = router.routed_map.kernel[...]
    self.assertBetween(float(jnp.abs(kernel).max()), 0.95 / 8, 1 / 8)
    self.assertBetween(float(kernel.std()), 0.066, 0.078)  # 1 / 8 / 3^0.5

  def test_a_layer_that_may_drop_refuses_what_would_change_by_it(self):
    layer, x = _outline(shared=0, top_k=1, capacity=1.25), _draw(1, 4, 16)
    with self.assertRaisesRegex(NotImplementedError, "compete for the places"):
      layer(x, segment_ids=jnp.zeros((1, 4), jnp.int32))
    with self.assertRaisesRegex(NotImplementedError, "capacity = 1.25 does not decode"):
      layer.init_cache(1, 4)
    layer = _outline(shared=0, top_k=1, capacity=4.0)
    self.assertEqual(layer.init_cache(1, 4).k.shape, (1, 4, 4, 4))
    self.assertEmpty(layer.refuses)

  @parameterized.parameters(
    ({"router": "query_norm", "qk_norm": True}, "qk_norm makes the norms"),
    ({"router": "norm"}, "unknown kind 'norm'"),
    ({"router": "query_norm", "shared": 3}, "there are 1 routed heads"),
    ({"shared": 5}, "shared = 5"),
    ({"top_k": 3}, "of 2 routed ones a token takes 1 to 2"),
    ({"counted": "row"}, "unknown counted 'row'"),
  )
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _layer(**options)


class WrapperTest(absltest.TestCase):
  def test_around_attention_it_is_the_layer(self):
    layer = _layer(balance=0.1, counted="batch")
    inner: Any = dot_product.Layer(16, form="causal", heads=4, rngs=nnx.Rngs(1))
    layer.qkv, layer.out = inner.qkv, inner.out
    wrapped = moh.MixtureOfHeads(inner, layer.router)
    x, valid = _draw(1, 6, 16), jnp.arange(6)[None] > 0

    @jax.jit
    def run(layer):
      def loss(layer):
        y = layer(x, valid=valid)
        return jnp.sin(y).sum(), y

      grads, y = jax.grad(loss, has_aux=True)(layer)
      return y, grads.router

    got = run(wrapped)
    jax.tree.map(_close, got, run(layer))
    step = jax.jit(lambda f: f.step(x, f.init_cache(1, 6), valid=valid)[0])
    _close(step(wrapped), got[0])
    self.assertEqual(wrapped.refuses, inner.refuses)

  def test_no_steps_of_a_recurrence(self):
    def make():
      inner = lightning2.Layer(16, heads=4, rngs=nnx.Rngs(0))
      return moh.MixtureOfHeads(inner, moh.Router(16, 4, rngs=nnx.Rngs(0)))

    wrapped = jax.eval_shape(make)
    with self.assertRaisesRegex(NotImplementedError, "KeyValueCache"):
      wrapped.init_cache(1, 4)


class SizesTest(parameterized.TestCase):
  @parameterized.parameters(*moh.SIZES)
  def test_the_name_tells_the_share_of_active_heads(self, name):
    blocks = moh.blocks(name)
    depth = {"s": 12, "b": 12, "l": 24, "xl": 28}[name.split("_")[1]]
    if name.startswith("transnext"):
      depth = {"s": 37, "b": 38}[name.split("_")[1]]
    self.assertLen(blocks, depth)
    active, heads = (
      sum(map(f, blocks))
      for f in (lambda b: b["shared"] + b["top_k"], lambda b: b["heads"])
    )
    if name.startswith("dit"):
      # Heads of the narrow blocks of the two largest models are fewer than usual.
      heads = {"l": 16 * 24, "xl": 16 * 28}.get(name.split("_")[1], heads)
      self.assertAlmostEqual(active / heads, int(name[-2:]) / 100, delta=0.035)

  def test_the_tables_of_the_authors(self):
    found = [(b["shared"], b["top_k"]) for b in moh.blocks("dit_b_75")]
    self.assertEqual(found, [(4, 2)] * 2 + [(6, 3)] * 8 + [(12, 0)] * 2)
    found = [(b["shared"], b["top_k"]) for b in moh.blocks("dit_b_90")]
    self.assertEqual(found, [(6, 4)] * 5 + [(7, 4)] * 5 + [(12, 0)] * 2)
    found = moh.blocks("dit_xl_75")
    self.assertEqual([b["heads"] for b in found], [8] * 9 + [16] * 10 + [24] * 9)
    self.assertEqual(found[0]["head_dim"], 72)
    # Averaged over 19 of 28 blocks.
    self.assertAlmostEqual(found[20]["balance"], 0.01 * 28 / 19)
    stages = {"s_75": (6, 12), "s_80": (6, 12), "b_50": (6, 8), "b_75": (8, 16)}
    for name, want in stages.items():
      found = moh.blocks(f"transnext_{name}")
      self.assertEqual((found[10]["top_k"], found[-1]["top_k"]), want)
    with self.assertRaisesRegex(ValueError, "unknown size 'dit_b'"):
      moh.blocks("dit_b")

  def test_a_layer_of_every_block_can_be_made(self):
    for own in moh.blocks("dit_b_75")[::9]:
      made = jax.eval_shape(
        lambda o=own: moh.Layer(48, form="sequence", rngs=nnx.Rngs(0), **o)
      )
      y = jax.eval_shape(lambda f: f(jnp.zeros((1, 4, 48))), made)
      self.assertEqual(y.shape, (1, 4, 48))


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
