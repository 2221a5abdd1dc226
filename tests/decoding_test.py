"""Token by token = chunk by chunk = the whole sequence, for every causal layer."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from tests import listing

_T = 23  # longer than any window of the tiny layers: rings wrap around


def _causal(module):
  return [("",)] if "causal" in module.FORMS else []


class DecodingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.key = jax.random.key(3)

  def _layer(self, module):
    layer = module.Layer(**module.LAYER, form="causal", rngs=nnx.Rngs(0))
    self.x = jax.random.normal(self.key, (2, _T, module.LAYER["dim"]))
    self.whole = jax.jit(lambda x, **context: layer(x, **context))
    self.step = jax.jit(lambda x, cache, **context: layer.step(x, cache, **context))
    return layer

  def _decode(self, layer, cuts, **context):
    cache, out = layer.init_cache(2, _T, jnp.float32), []
    for a, b in zip(cuts, cuts[1:]):
      part = {name: value[:, a:b] for name, value in context.items()}
      y, cache = self.step(self.x[:, a:b], cache, **part)
      out.append(y)
    return jnp.concatenate(out, axis=1)

  @parameterized.named_parameters(*listing.each(_causal))
  def test_any_cut_gives_the_whole(self, module, error):
    listing.check(error)
    layer = self._layer(module)
    whole = self.whole(self.x)
    for cuts in (list(range(_T + 1)), [0, 7, 8, _T], [0, 15, *range(16, _T + 1)]):
      _close(self._decode(layer, cuts), whole)

  @parameterized.named_parameters(*listing.each(_causal))
  def test_left_padding(self, module, error):
    listing.check(error)
    layer = self._layer(module)
    pads = jnp.array([0, 6])
    padding = jnp.arange(_T) >= pads[:, None]
    # Nobody sees it, so that it may be anything.
    self.x = jnp.where(padding[..., None], self.x, jnp.nan)
    got = self._decode(layer, [0, 10, *range(11, _T + 1)], padding=padding)
    for row, pad in enumerate(pads):
      _close(got[row, pad:], self.whole(self.x[row : row + 1, pad:])[0])

  @parameterized.named_parameters(*listing.each(_causal))
  def test_packed_documents(self, module, error):
    listing.check(error)
    layer = self._layer(module)
    ids = jnp.stack([jnp.repeat(jnp.arange(2), jnp.array([12, 11])), jnp.full(_T, 3)])
    got = self._decode(layer, [0, 9, 13, 14, _T], segment_ids=ids)
    _close(got, self.whole(self.x, segment_ids=ids))

  @parameterized.named_parameters(*listing.each(_causal))
  def test_a_cache_is_floats_and_integers_in_arrays(self, module, error):
    listing.check(error)
    layer = self._layer(module)
    cache = layer.init_cache(2, _T, jnp.bfloat16)
    self.assertNotEmpty(jax.tree.leaves(cache))
    _, after = self.step(self.x[:, :3], cache)
    self.assertEqual(jax.tree.map(jax.typeof, after), jax.tree.map(jax.typeof, cache))


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
