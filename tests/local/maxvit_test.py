"""MaxViT: what the paper and its code promise."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.variants.local import maxvit
from attnjax.variants.local.maxvit.blocks import strided
from attnjax.variants.softmax import dot_product


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _layer(**options):
  return maxvit.Layer(8, head_dim=4, window=3, **options, rngs=nnx.Rngs(0))


_run = jax.jit(lambda layer, x, index: layer(x, index=index))
_weights = jax.jit(lambda layer, x: contract.weights(layer, x))


class AttendTest(absltest.TestCase):
  def test_groups_of_the_whole_map_are_global(self):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(key, (1, 3, 5, 2, 4)) for key in keys[:3])
    bias_table = jnp.full((5, 9, 2), 3.0)  # the same everywhere, it changes nothing
    flat = (x.reshape(1, 15, 2, 4) for x in (q, k, v))
    want = dot_product.attend(*flat).reshape(v.shape)
    for kind in ("window", "grid"):
      got = maxvit.attend(q, k, v, bias_table=bias_table, kind=kind, window=(3, 5))
      _close(got, want)

  def test_errors(self):
    x = jnp.zeros((1, 3, 5, 2, 4))
    with self.assertRaisesRegex(ValueError, "unknown kind 'block'"):
      maxvit.attend(x, x, x, kind="block")
    with self.assertRaisesRegex(ValueError, r"table \(5, 5, 2\) must be \(5, 7, 2\)"):
      maxvit.attend(x, x, x, bias_table=jnp.zeros((5, 5, 2)), window=(3, 4))


class LayerTest(absltest.TestCase):
  def test_windows_and_grids_together_reach_everything(self):
    x = jax.random.normal(jax.random.key(1), (1, 9, 6, 8))
    weights = [
      np.asarray(_weights(_layer(kind=kind), x))[0, 0] for kind in ("window", "grid")
    ]
    row, column = np.indices((9, 6)).reshape(2, -1)
    for found, cells in zip(weights, ((row // 3, column // 3), (row % 3, column % 2))):
      same = [cell[:, None] == cell for cell in cells]
      np.testing.assert_array_equal(found > 0, same[0] & same[1])
      _close(found.sum(-1), np.ones(54))
    self.assertGreater((weights[1] @ weights[0]).min(), 0)

  def test_layers_take_turns(self):
    x = jax.random.normal(jax.random.key(1), (1, 5, 7, 8))
    both, one, other = (_layer(kind=k) for k in ("alternate", "window", "grid"))
    want = _run(one, x, 0), _run(other, x, 0)
    for index in range(3):
      _close(_run(both, x, index), want[index % 2])
    _close(both(x, index=1), want[1])
    self.assertGreater(float(abs(want[0] - want[1]).max()), 1e-5)

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "dim = 8 does not divide by head_dim = 3"):
      maxvit.Layer(8, head_dim=3, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(NotImplementedError, "form .image. takes no valid"):
      _layer()(jnp.zeros((1, 2, 2, 8)), valid=jnp.ones((1, 4), bool))


class ConvolutionTest(parameterized.TestCase):
  @parameterized.parameters((6, 7, 2), (5, 4, 1), (1, 2, 2))
  def test_strides_pad_as_xla_does(self, rows, columns, stride):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (1, rows, columns, 3))
    kernel = jax.random.normal(keys[1], (3, 3, 3))
    want = jax.lax.conv_general_dilated(
      x,
      kernel[:, :, None],
      (stride, stride),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=3,
    )
    got = jax.jit(strided, static_argnums=2)(x, kernel, stride)
    _close(got, want)


if __name__ == "__main__":
  absltest.main()
