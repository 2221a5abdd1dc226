"""Sparsifiner: what the paper alone promises."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import sparsifiner
from attnjax.variants.sparse.sparsifiner import predicted
from attnjax.variants.sparse.sparsifiner.layer import Left
from tests.sparse import growth

TOKENS = 17


def _layer(**options):
  given: dict[str, Any] = {
    "form": "sequence",
    "heads": 2,
    "grid": (TOKENS - 1,),
    "class_token": True,
  }
  given |= {"reduce_n": 3, "distill": 0.0, "impl": "reference", "rngs": nnx.Rngs(0)}
  return sparsifiner.Layer(16, **{"form": "image"} | given | options)


def _input(number: int = 1):
  return jax.random.normal(jax.random.key(1), (number, TOKENS, 16))


def _plain(layer):
  plain = dot_product.Layer(
    16, form="sequence", heads=2, qkv_bias=True, impl="reference", rngs=nnx.Rngs(0)
  )
  plain.qkv, plain.out = layer.qkv, layer.out
  return plain


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)


class AttendTest(absltest.TestCase):
  def test_rows_have_so_many_keys_and_the_class_token_all(self):
    guess = jax.random.normal(jax.random.key(0), (2, 3, 16, TOKENS))
    kept = sparsifiner.chosen(guess, 1, 0.25)
    number = kept.sum(axis=-1)
    np.testing.assert_array_equal(number[:, :, 0], TOKENS)
    np.testing.assert_array_equal(number[:, :, 1:], 5)  # ceil(17 / 4)
    least = jnp.where(kept[:, :, 1:], guess, jnp.inf).min(axis=-1)
    most = jnp.where(kept[:, :, 1:], -jnp.inf, guess).max(axis=-1)
    self.assertTrue((least > most).all())

  def test_an_exact_share_is_not_rounded_up(self):
    kept = sparsifiner.chosen(jnp.zeros((1, 1, 10, 10)), 0, 0.3)
    np.testing.assert_array_equal(kept.sum(axis=-1), 3)

  def test_pruning_keeps_what_the_class_token_attends(self):
    weights = jnp.array([[0.0, 0.5, 0.1, 0.3, 0.2]])
    once = sparsifiner.most_attended(weights, 0.75)
    self.assertEqual(once[0].tolist(), [True, True, False, True, True])
    twice = sparsifiner.most_attended(weights.at[0, 2].set(9.0), 0.5, once)
    self.assertEqual(twice[0].tolist(), [True, True, False, True, False])

  def test_errors_name_the_argument(self):
    q = jnp.zeros((1, 5, 1, 2))
    with self.assertRaisesRegex(ValueError, "keep_ratio = 1.5"):
      sparsifiner.attend(q, q, q, jnp.zeros((1, 1, 5, 5)), keep_ratio=1.5)
    with self.assertRaisesRegex(ValueError, "approximate has the shape"):
      sparsifiner.attend(q, q, q, jnp.zeros((1, 1, 6, 5)))
    with self.assertRaisesRegex(ValueError, r"guess_q \(1, 6, 1, 2\).*q is \(1, 5"):
      guesses = jnp.zeros((1, 6, 1, 2)), q[:, :3], jnp.zeros((3, 5))
      sparsifiner.attend_predicted(q, q, q, *guesses)
    with self.assertRaisesRegex(ValueError, "keep_ratio = 0"):
      sparsifiner.attend_predicted(q, q, q, q, q, jnp.zeros((5, 5)), keep_ratio=0.0)

  def test_the_class_token_may_see_pruned_tokens(self):
    keys = jax.random.split(jax.random.key(0), 6)
    q, k, v = (jax.random.normal(key, (1, 9, 1, 4)) for key in keys[:3])
    guesses = (
      jax.random.normal(key, shape)
      for key, shape in zip(keys[3:], ((1, 8, 1, 2), (1, 3, 1, 2), (3, 9)))
    )
    given = (q, k, v, *guesses)
    options = {"valid": jnp.arange(9)[None] % 3 != 1, "keep_ratio": 0.3}
    outs = []
    for whole in (True, False):
      want = sparsifiner.attend_predicted(
        *given, **options, whole=whole, impl="reference"
      )
      outs.append(sparsifiner.attend_predicted(*given, **options, whole=whole))
      np.testing.assert_allclose(outs[-1], want, rtol=1e-4, atol=1e-6)
    self.assertGreater(float(abs(outs[0] - outs[1])[:, 0].max()), 1e-3)
    _close(outs[0][:, 1:], outs[1][:, 1:])

  def test_no_array_has_all_pairs(self):
    def run(q, k, v, guess_q, guess_k, basis):
      def loss(*x):
        guesses = guess_q, guess_k, basis
        return sparsifiner.attend_predicted(*x, *guesses, impl="xla").sum()

      return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    def shapes(T):
      q, reduced = (1, T, 1, 4), (1, 9, 1, 2)
      return q, q, q, (1, T - 1, 1, 2), reduced, (9, T)

    _, size = growth.powers(run, shapes, (1024, 4096))
    self.assertLess(size, 1.05)


class LayerTest(parameterized.TestCase):
  @parameterized.parameters({"keep_ratio": 1.0}, {"kind": "reconstruct"})
  def test_it_is_softmax_attention(self, **options):
    layer, x = _layer(**options), _input()
    got, want = (jax.jit(lambda f, x: f(x))(f, x) for f in (layer, _plain(layer)))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)

  def test_chunks_of_queries_are_the_whole(self):
    """Value, gradients and the predictor's loss, with pruned tokens left out."""
    x, valid = _input(2), jnp.arange(TOKENS) % jnp.array([[4], [30]]) != 1
    layer = _layer(distill=0.01, impl="xla", keep_ratio=0.3)

    def run(layer, x):
      def loss(layer, x):
        left = Left(valid)
        heads = layer.pruned(layer.project(x), left)
        y = layer.merge(layer.mix(heads), heads)
        return jnp.sin(y).sum(), y

      return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(layer, x)

    want = run(layer, x)
    with mock.patch.object(predicted, "ROWS", 5):
      got = run(layer, x)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)

  def test_the_layer_and_its_loss_have_no_array_of_all_pairs(self):
    layer = _layer(grid=(600,), reduce_n=60, distill=0.01, impl="xla")
    x = jnp.zeros((1, 601, 16))
    program = jax.make_jaxpr(jax.grad(lambda f: f(x).sum()))(layer)
    self.assertLess(growth.largest(program.jaxpr), 601 * 601)

  def test_own_weights_are_the_teacher_of_themselves(self):
    layer, x = _layer(), _input(2)

    @jax.jit
    def run(layer, x):
      heads = layer.project(x)
      weights = sparsifiner.dense_weights(heads.q, heads.k)
      return layer.reconstruction(x), layer.reconstruction(x, weights)

    np.testing.assert_allclose(*run(layer, x), rtol=1e-5)

  def test_without_thresholds_what_is_used_is_what_is_learned(self):
    predictor = _layer(threshold=0.0, top=99).predictor
    predictor.up[...] = abs(predictor.up[...])
    keys = jax.random.split(jax.random.key(2), 2)
    q, k = (jax.random.normal(key, (1, TOKENS, 2, 8)) for key in keys)
    run = jax.jit(lambda f: (f.scores(q, k), f.scores(q, k, sparse=False)))
    np.testing.assert_allclose(*run(predictor), rtol=1e-5)

  def test_the_task_does_not_teach_the_predictor_but_its_own_loss_does(self):
    x = _input(2)
    gradients, values = [], []
    for distill in (0.0, 0.01):
      layer = _layer(distill=distill)
      run = jax.jit(jax.value_and_grad(lambda layer: jnp.sin(layer(x)).sum()))
      value, gradient = run(layer)
      gradients.append(gradient)
      values.append(value)
    np.testing.assert_array_equal(*values)
    for leaf in jax.tree.leaves(gradients[0].predictor):
      np.testing.assert_array_equal(leaf, 0)
    own = jax.jit(jax.grad(lambda layer: 0.01 * layer.reconstruction(x)))(layer)
    jax.tree.map(_close, gradients[1].predictor, own.predictor)
    jax.tree.map(_close, gradients[1].qkv, gradients[0].qkv)

  def test_tables_for_other_grids_are_interpolated(self):
    layer = sparsifiner.Layer(
      8, form="image", heads=2, grid=(4, 4), reduce_n=3, distill=0.0, rngs=nnx.Rngs(0)
    )
    flat = jnp.broadcast_to(jnp.arange(5.0), layer.predictor.down.shape)
    layer.predictor.down[...] = layer.predictor.up[...] = flat
    q = jax.random.normal(jax.random.key(3), (1, 16, 2, 4))

    @jax.jit
    def sums(predictor):
      twice = jnp.repeat(q, 4, axis=1)
      small = predictor.scores(q, q, sparse=False)
      large = predictor.scores(twice, twice, (8, 8), sparse=False)
      return small.sum(axis=-1), large.sum(axis=-1)

    small, large = sums(layer.predictor)
    np.testing.assert_allclose(large[:, :, ::4], small, rtol=1e-4)

  @parameterized.parameters(
    ({"kind": "dense"}, "kind 'dense'"),
    ({"form": "image"}, "form 'image' takes"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _layer(**options)


class ModelTest(parameterized.TestCase):
  def _weights(self, shares=(0.5, 0.5), **options):
    given: dict[str, Any] = {"dim": 8, "depth": 2, "heads": 1, "patch": 2}
    given |= {"grid": (4, 4), "shares": shares, "top": 2, "impl": "reference"}
    model = sparsifiner.Model(1, 3, **given | options, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    return [w[:, 0] for w in jax.jit(lambda model: model.weights(images))(model)]

  def test_a_query_sees_no_more_keys_than_tokens_are_left(self):
    before, after = ((w > 0).sum(axis=-1) for w in self._weights(keep_ratio=1.0))
    np.testing.assert_array_equal(before, TOKENS)
    np.testing.assert_array_equal(after[:, 0], TOKENS)  # the class token's
    np.testing.assert_array_equal(jnp.sort(after[:, 1:]), [[0] * 8 + [8] * 8] * 2)

  def test_learning_the_predictor_prunes_nothing(self):
    got, want = (self._weights(s, kind="reconstruct") for s in ((0.5, 0.5), ()))
    for weights, whole in zip(got, want):
      self.assertTrue((weights > 0).all())
      _close(weights, whole)

  @parameterized.parameters(((0.5,),), ((0.5, 0.7),), ((1.0, 0.0),))
  def test_shares_fall(self, shares):
    with self.assertRaisesRegex(ValueError, "shares = .*each of 2 blocks"):
      self._weights(shares)


if __name__ == "__main__":
  absltest.main()
