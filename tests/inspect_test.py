"""Statistics of layers and hosts against the matrix of their weights."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

import attnjax
from attnjax import contract, inspect
from attnjax.models import language, vision
from attnjax.variants.local import davit


def _layer(slug, form, **options):
  make = contract.load(slug).Layer
  return make(16, form=form, rngs=nnx.Rngs(0), **options)


def _expected(weights):
  """Returns the statistics of weights (B, N, T, S), by the definitions."""
  share = np.maximum(np.asarray(weights, np.float64), 0)
  argmax = np.where(share.max(-1) > 0, share.argmax(-1), -1)
  with np.errstate(divide="ignore", invalid="ignore"):
    entropy = -np.nansum(share * np.log(share), axis=-1)
  own = np.einsum("bntt->btn", weights)
  return weights.sum(2), argmax.swapaxes(1, 2), entropy.swapaxes(1, 2), own


class InspectTest(parameterized.TestCase):
  @parameterized.parameters(
    ("dot_product", "causal", {"heads": 4, "kv_heads": 2}, 5),
    ("gated_attention", "sequence", {"heads": 2, "gate": "headwise"}, 128),
    ("lightning2", "causal", {"heads": 2}, 7),
    ("neighborhood", "image", {"heads": 2, "window": 3}, 9),
  )
  def test_every_mechanism(self, slug, form, options, chunk):
    layer = _layer(slug, form, **options)
    shape = (2, 3, 6, 16) if form == "image" else (2, 18, 16)
    x = 3 * jax.random.normal(jax.random.key(0), shape)

    @jax.jit
    def run(layer, x):
      heads = layer.project(x)
      found = inspect.statistics(layer, heads, chunk=chunk)
      return found, inspect.column_sums(layer, heads), contract.shares(layer, heads)

    found, sums, weights = run(layer, x)
    columns, argmax, entropy, own = _expected(weights)
    _close(found.columns, columns)
    _close(sums, columns)
    np.testing.assert_array_equal(found.argmax, argmax)
    _close(found.entropy, entropy)
    _close(found.own, own)

  def test_equals_the_engine(self):
    layer = _layer("dot_product", "causal", heads=4, kv_heads=2)
    heads = layer.project(jax.random.normal(jax.random.key(0), (2, 18, 16)))
    found = inspect.statistics(layer, heads)
    given = {"is_causal": True}
    _, lse = attnjax.dot_product_attention(
      heads.q, heads.k, heads.v, return_lse=True, **given
    )
    rows = attnjax.attention_rows(heads.q, heads.k, lse, **given)
    _close(found.entropy, rows.entropy)
    np.testing.assert_array_equal(found.argmax, rows.argmax)

  def test_hosts(self):
    build = contract.constructor("dot_product", {"heads": 2}, language.FORMS)
    model = language.Model([build], vocab=9, dim=16, depth=2, rngs=nnx.Rngs(0))
    tokens = jax.random.randint(jax.random.key(0), (2, 12), 0, 9)
    real = jnp.arange(12) < jnp.array([[12], [9]])
    found = inspect.of_model(model, tokens, valid=real)
    weights = model.weights(tokens, valid=real)
    for own, weight in zip(found, weights, strict=True):
      _close(own.columns, weight.sum(axis=2))
      behind = [weight[1, :, j + 1 : 9, j].mean(1) for j in range(8)]
      got = own.sink_scores(ids=jnp.where(real, 0, -1))[1]
      _close(got[:, :8], jnp.stack(behind, axis=1))
      np.testing.assert_array_equal(got[:, 8:], 0)
      whole = [weight[0, :, j + 1 :, j].mean(1) for j in range(9)]
      _close(own.sink_scores(least=3)[0, :, :9], jnp.stack(whole, axis=1))
      np.testing.assert_array_equal(own.sink_scores(least=3)[:, :, 9:], 0)
    images = vision.Model(
      [contract.constructor("dot_product", {"heads": 2}, vision.FORMS)],
      channels=1, classes=3, dim=8, depth=2, rngs=nnx.Rngs(0),
    )  # fmt: skip
    found = inspect.of_model(images, jnp.ones((1, 12, 8, 1)))
    self.assertEqual([own.entropy.shape for own in found], [(1, 6, 2)] * 2)

  def test_networks_that_show_no_heads(self):
    model = davit.Model(1, 3, **davit.SIZES["mini"], rngs=nnx.Rngs(0))
    self.assertEqual(set(inspect.layers_of(model)), {None})

  def test_errors_name_value_and_rule(self):
    layer = _layer("dot_product", "causal", heads=2)
    heads = layer.project(jnp.ones((1, 3, 16)))
    with self.assertRaisesRegex(ValueError, "chunk = 0; it must be 1"):
      inspect.statistics(layer, heads, chunk=0)
    with self.assertRaisesRegex(ValueError, "Linear is no host"):
      list(inspect.layers_of(nnx.Linear(2, 2, rngs=nnx.Rngs(0))))


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
