"""SOFT and SOFT++: what the papers and their code promise."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.variants.linear import soft


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _arrays(B, T, M, N, H):
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = (B, T, N, H), (B, T, N, H), (B, M, N, H)
  return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes))


@functools.partial(jax.jit, static_argnames="normalise")
def _matrix(q, landmarks, normalise=False):
  """(B, N, T, T): what multiplies the values."""
  B, T, N, _ = q.shape
  eye = jnp.broadcast_to(jnp.eye(T)[:, None], (B, T, N, T))
  return soft.attend(q, eye, landmarks, normalise=normalise).swapaxes(1, 2)


class AttendTest(parameterized.TestCase):
  def test_all_tokens_as_landmarks_give_the_kernel_itself(self):
    q, v, _ = _arrays(2, 9, 1, 2, 6)
    kernel = soft.gaussian(*[q.swapaxes(1, 2)] * 2)
    got = soft.attend(q, v, q, jitter=1e-5)
    _close(got, (kernel @ v.swapaxes(1, 2)).swapaxes(1, 2), 1e-3)

  @parameterized.parameters(False, True)
  def test_the_matrix_is_a_kernel_without_softmax(self, normalise):
    q, _, landmarks = _arrays(1, 20, 5, 2, 6)
    matrix = _matrix(q, landmarks, normalise=normalise)
    _close(matrix, matrix.mT, 1e-4)
    values = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    self.assertGreater(values.min(), -1e-4 * values.max())
    self.assertEqual(int((values > 1e-4 * values.max()).sum(-1).max()), 5)  # rank
    self.assertGreater(float(abs(matrix.sum(-1) - 1).max()), 0.1)

  @parameterized.parameters(16, 196)
  def test_landmarks_that_are_alike(self, M):
    q, v, landmarks = _arrays(1, 30, M, 1, 4)
    alike = jnp.broadcast_to(landmarks[:, :1], landmarks.shape)
    near = 0.1 * landmarks  # a smooth image

    def truth(q, v, landmarks):
      q, v, landmarks = (np.asarray(x, np.float64)[0, :, 0] for x in (q, v, landmarks))
      kernel, among = (
        np.exp(-np.square(x[:, None] - landmarks[None]).sum(-1) / 2)
        for x in (q, landmarks)
      )
      return kernel @ np.linalg.solve(among + 0.01 * np.eye(M), kernel.T @ v)

    for points in (alike, near):
      wanted = truth(q, v, points)
      found = jax.jit(soft.attend)(q, v, points)[0, :, 0]
      np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3 * abs(wanted).max())
    published = soft.attend(q, v, near, **soft.PUBLISHED)[0, :, 0]
    self.assertGreater(abs(published - wanted).max(), 5e-3 * abs(wanted).max())

  def test_only_distances_count(self):
    q, v, landmarks = _arrays(1, 20, 5, 2, 6)
    shift = jnp.array([0.3, -2.0, 1.0, 0.0, 0.5, 1.5])
    run = jax.jit(soft.attend)
    _close(run(q + shift, v, landmarks + shift), run(q, v, landmarks), 1e-4)

  def test_the_normalisation_is_of_the_inverse(self):
    q, v, landmarks = (x.swapaxes(1, 2) for x in _arrays(1, 20, 5, 2, 6))
    kernel = soft.gaussian(q, landmarks)
    among = soft.gaussian(landmarks, landmarks)
    root = 1 / jnp.sqrt(among.sum(-1))
    middle = jnp.linalg.inv(among + 0.01 * jnp.eye(5))
    middle = root[..., :, None] * middle * root[..., None, :]
    wanted = (kernel @ middle @ kernel.mT @ v).swapaxes(1, 2)
    _close(soft.attend(*_arrays(1, 20, 5, 2, 6), normalise=True), wanted, 1e-4)

  def test_memory_does_not_grow_with_the_landmarks_of_a_token(self):
    def temporaries(impl, T):
      shapes = {"q": (1, T, 2, 8), "v": (1, T, 2, 8), "landmarks": (1, 32, 2, 8)}
      arrays = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}

      def loss(arrays):
        return jnp.sin(soft.attend(**arrays, impl=impl)).sum()

      compiled = jax.jit(jax.grad(loss)).lower(arrays).compile()
      memory: Any = compiled.memory_analysis()
      return memory.temp_size_in_bytes

    self.assertLess(temporaries("xla", 8192), 0.25 * temporaries("reference", 8192))

  def test_errors(self):
    q, v, landmarks = _arrays(1, 5, 2, 2, 4)
    with self.assertRaisesRegex(ValueError, "gradient 'exact' is none of"):
      soft.attend(q, v, landmarks, gradient="exact")


class LayerTest(parameterized.TestCase):
  def _layer(self, **options):
    return soft.Layer(
      16, heads=2, kernel=3, **{"form": "image"} | options, rngs=nnx.Rngs(0)
    )

  @parameterized.parameters(
    ("image", (5, 7), 6), ("image", (1, 4), 2), ("sequence", (9,), 4)
  )
  def test_a_landmark_is_a_whole_window(self, form, grid, number):
    layer = self._layer(form=form)
    q = jax.random.normal(jax.random.key(1), (2, *grid, 2, 8))
    run = jax.jit(lambda layer, q: layer._landmarks(q))
    points = run(layer, q)
    self.assertEqual(points.shape, (2, number, 2, 8))
    cut = jnp.zeros_like(q).at[:, : grid[0] // 2 * 2 or 1].set(1)
    if form == "image":
      cut = cut.at[:, :, grid[1] // 2 * 2 :].set(0)
    _close(run(layer, q * cut), points)
    if number > 2:
      self.assertGreater(float(abs(run(layer, q.at[:, 0].add(1)) - points).max()), 0.1)

  @parameterized.parameters("image", "sequence")
  def test_weights_give_the_layer(self, form):
    layer = self._layer(form=form, normalise=True)
    x = jax.random.normal(jax.random.key(1), (2, 12, 16))
    valid = jnp.arange(12) >= jnp.array([[0], [5]])
    given = {"valid": valid} if form == "sequence" else {}
    x = x.reshape(2, 3, 4, 16) if form == "image" else x

    @jax.jit
    def run(layer, x):
      v = layer.value(x).reshape(2, 12, 2, 8)
      weights = contract.weights(layer, x, **given)
      out = layer.out(jnp.einsum("bnts,bsnv->btnv", weights, v))
      return layer(x, **given).reshape(2, 12, 16), out

    got, wanted = run(layer, x)
    if given:
      wanted = jnp.where(valid[..., None], wanted, 0)
    _close(got, wanted, 1e-4)

  def test_padding_inside_is_as_if_not_there(self):
    layer = self._layer(form="sequence")
    x = jax.random.normal(jax.random.key(1), (1, 14, 16))
    real = jnp.array([0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1], bool)
    run = jax.jit(lambda layer, x, **given: layer(x, **given))
    got = run(layer, x, valid=real[None])
    _close(got[:, real], run(layer, x[:, real]), 1e-4)
    _close(got[:, ~real], jnp.zeros((1, 5, 16)), 0)
    nothing = run(layer, x, valid=jnp.zeros((1, 14), bool))
    _close(nothing, jnp.zeros_like(x), 0)

  @parameterized.parameters(
    ({"form": "causal"}, "unknown form 'causal'"),
    ({"ratio": 0}, "ratio = 0"),
    ({"gradient": "exact"}, "unknown gradient 'exact'"),
    ({"impl": "triton"}, "unknown impl 'triton'"),
  )
  def test_errors_name_the_option(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      self._layer(**options)

  def test_what_cannot_be_honoured_is_refused(self):
    x = jnp.zeros((1, 4, 16))
    with self.assertRaisesRegex(NotImplementedError, "segment_ids: landmarks are"):
      self._layer(form="sequence")(x, segment_ids=jnp.zeros((1, 4), jnp.int32))
    with self.assertRaisesRegex(NotImplementedError, "positions: only who is next"):
      self._layer(form="sequence")(x, positions=jnp.arange(4))
    with self.assertRaisesRegex(NotImplementedError, "form 'image' takes no valid"):
      self._layer()(x.reshape(1, 2, 2, 16), valid=jnp.ones((1, 4), bool))


if __name__ == "__main__":
  absltest.main()
