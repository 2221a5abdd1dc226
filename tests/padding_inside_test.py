"""Padding inside a row: what it is to layers with places, and to those without."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract

_REAL = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1], bool)


def _run(slug, form):
  """(the layer as a function of x, x with padding inside)."""
  module = contract.load(slug)
  layer = module.Layer(**module.LAYER, form=form, rngs=nnx.Rngs(0))
  layer = jax.tree.map(lambda p: 3 * p + 0.05, layer)
  x = jax.random.normal(jax.random.key(1), (1, 12, module.LAYER["dim"]))
  return jax.jit(lambda x, **seen: layer(x, **seen)), x


class PaddingInsideTest(parameterized.TestCase):
  @parameterized.parameters(
    ("aaren", "causal"), ("lightning2", "causal"), ("agent_attention", "sequence")
  )
  def test_is_not_there_for_layers_without_places(self, slug, form):
    run, x = _run(slug, form)
    got = run(x, valid=_REAL[None])[:, _REAL]
    np.testing.assert_allclose(got, run(x[:, _REAL]), rtol=1e-4, atol=1e-5)

  @parameterized.parameters("dot_product", "gated_attention")
  def test_keeps_its_place_where_positions_count(self, slug):
    run, x = _run(slug, "causal")
    got = run(x, valid=_REAL[None])[:, _REAL]
    placed = run(x[:, _REAL], positions=np.flatnonzero(_REAL))
    np.testing.assert_allclose(got, placed, rtol=1e-4, atol=1e-5)
    self.assertGreater(float(abs(got - run(x[:, _REAL])).max()), 1e-3)

  def test_keeps_its_place_in_windows(self):
    run, x = _run("neighborhood", "sequence")
    valid = np.ones((1, 12), bool)
    valid[:, 4] = False
    got = run(x, valid=valid)
    # Nobody sees it, and windows that do not reach it are as without.
    other = run(x.at[:, 4].set(7.0), valid=valid)
    np.testing.assert_array_equal(got, other)
    whole, closed = run(x), run(jnp.delete(x, 4, axis=1))
    np.testing.assert_allclose(got[:, 11], whole[:, 11], rtol=1e-4, atol=1e-5)
    self.assertGreater(float(abs(got[:, 5] - closed[:, 4]).max()), 1e-3)


if __name__ == "__main__":
  absltest.main()
