"""DaViT: what the paper and its code promise."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.local import davit
from tests import dense


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _heads():
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, (1, 12, 2, 4)) for key in keys]


def _layer(**options):
  return davit.Layer(
    8, heads=2, window=3, **{"form": "image"} | options, rngs=nnx.Rngs(0)
  )


_attend = jax.jit(davit.attend)
_run = jax.jit(lambda layer, x, **given: layer(x, **given))


class AttendTest(absltest.TestCase):
  def test_tokens_have_no_order(self):
    heads = _heads()
    order = jax.random.permutation(jax.random.key(1), 12)
    got = _attend(*(x[:, order] for x in heads))
    _close(got, _attend(*heads)[:, order])

  def test_without_keys_all_channels_are_the_mean_of_their_group(self):
    q, k, v = _heads()
    got = _attend(q, jnp.zeros_like(k), v)
    _close(got, jnp.broadcast_to(q.mean(-1, keepdims=True), q.shape))

  def test_large_products_choose_a_channel(self):
    q, _, _ = _heads()
    # Key channel a is value channel a + 1.
    v = 50 * jnp.eye(4)[jnp.arange(12) % 4][None, :, None] * jnp.ones((2, 1))
    got = _attend(q, jnp.roll(v, -1, axis=-1), v)
    _close(got, jnp.roll(q, -1, axis=-1))

  def test_errors(self):
    q, k, v = _heads()
    with self.assertRaisesRegex(ValueError, "unknown scale_by 'token'"):
      davit.attend(q, k, v, scale_by="token")
    with self.assertRaisesRegex(ValueError, "padding_k and padding_v: give both"):
      davit.attend_windows(q, k, v, jnp.zeros((2, 4)))


class LayerTest(parameterized.TestCase):
  def test_layers_take_turns(self):
    x = jax.random.normal(jax.random.key(1), (1, 5, 7, 8))
    both, one, other = (_layer(kind=k) for k in ("alternate", "window", "channel"))
    want = _run(one, x), _run(other, x)
    for index in range(4):
      _close(_run(both, x, index=jnp.int32(index)), want[index % 2])
    _close(both(x, index=3), want[1])
    self.assertGreater(float(abs(want[0] - want[1]).max()), 1e-4)

  def test_padding_is_seen_unless_masked(self):
    x = jax.random.normal(jax.random.key(1), (1, 4, 3, 8))
    for masked in (False, True):
      layer = _layer(kind="window", mask_padding=masked)
      weights = np.asarray(jax.jit(lambda layer, x: layer.weights(x))(layer, x))[0]
      row = np.arange(12) // 3
      same = row[:, None] // 3 == row // 3
      for head in weights:
        np.testing.assert_array_equal(head > 0, same)
      total = weights.sum(-1)
      _close(total[:, :9], np.ones((2, 9)))
      if masked:
        _close(total[:, 9:], np.ones((2, 3)))
      else:
        self.assertLess(total[:, 9:].max(), 0.5)

  @parameterized.parameters((False, "pallas"), (True, "triton"))
  def test_kernels_compute_windows_and_leave_channels(self, masked, impl):
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 8))
    layer, fused = (_layer(mask_padding=masked, impl=name) for name in ("auto", impl))

    @jax.jit
    def run(layer, x):
      def loss(layer, x):
        y = layer(x, index=0)
        return jnp.sin(y).sum(), y

      return jax.grad(loss, argnums=(0, 1), has_aux=True)(layer, x), layer(x, index=1)

    with dense.replacing_kernels():
      got = run(fused, x)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(run(layer, x))):
      _close(one, other, 1e-4)
    if impl == "pallas":
      program = jax.make_jaxpr(lambda x: fused(x, index=0))(x)
      self.assertEqual(simulate.calls(program, "flash_forward"), 1)
      program = jax.make_jaxpr(lambda x: fused(x, index=1))(x)
      self.assertEqual(simulate.calls(program, ""), 0)

  def test_padding_of_a_sequence_is_as_if_not_there(self):
    layer = _layer(kind="channel", form="sequence", scale_by="tokens")
    x = jax.random.normal(jax.random.key(1), (1, 9, 8))
    real = jnp.array([[0, 1, 1, 0, 1, 1, 1, 0, 0]], bool)
    _close(_run(layer, x, valid=real)[real], _run(layer, x[real][None])[0])

  def test_what_cannot_be_honoured_is_refused(self):
    x = jnp.zeros((1, 6, 8))
    with self.assertRaisesRegex(NotImplementedError, "segment_ids: channels"):
      _layer(form="sequence")(x, segment_ids=jnp.zeros((1, 6), jnp.int32))
    with self.assertRaisesRegex(NotImplementedError, "valid: windows have none"):
      _layer(form="sequence")(x, valid=jnp.ones((1, 6), bool))
    with self.assertRaisesRegex(NotImplementedError, "no weights of tokens"):
      _layer(form="sequence").weights(x, index=1)
    with self.assertRaisesRegex(ValueError, r"\(1, 6, 8\); form 'image'"):
      _layer()(x)
    with self.assertRaisesRegex(ValueError, "window = 0"):
      davit.Layer(8, form="image", heads=2, window=0, rngs=nnx.Rngs(0))


class ModelTest(parameterized.TestCase):
  @parameterized.parameters((True, 3), (False, 2))
  def test_convolutions_between_stages_overlap_if_asked_to(self, overlap, side):
    """A map of 5 x 6 is padded to 6 x 6, and by one pixel around if they overlap."""

    def build():
      options = {"dims": (4, 6), "depths": (1, 1), "heads": (1, 1)}
      return davit.Model(3, 2, overlap=overlap, **options, rngs=nnx.Rngs(0))

    first, merge = jax.jit(lambda: build().stages.merges)()
    self.assertEqual(first.project.kernel.shape, (7, 7, 3, 4))
    self.assertEqual(merge.project.kernel.shape, (side, side, 4, 6))
    x = 3 + jax.random.normal(jax.random.key(1), (5, 6, 4))
    got = jax.jit(lambda merge, x: merge(x[None])[0])(merge, x)
    deviation = np.sqrt(np.var(x, -1, keepdims=True) + 1e-5)
    pad = int(overlap)
    around = ((pad, pad + 1), (pad, pad), (0, 0))
    y = np.pad((x - np.mean(x, -1, keepdims=True)) / deviation, around)
    for i in range(3):
      for j in range(3):
        patch = y[2 * i : 2 * i + side, 2 * j : 2 * j + side]
        want = np.einsum("abc,abcd->d", patch, merge.project.kernel[...])
        _close(got[i, j], want, 1e-5)


if __name__ == "__main__":
  absltest.main()
