"""X-Pool: what the paper and the authors' code promise, pair by pair in NumPy."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.cross import xpool

Q, I, F, D, N = 3, 4, 5, 6, 2


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _noisy(scorer):
  """Returns a scorer with parameters of which none is 0 or 1."""
  leaves, tree = jax.tree.flatten(scorer)
  moved = [x + 0.3 * _draw(*x.shape, seed=i) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(tree, moved)


TEXT, FRAMES = jnp.asarray(_draw(Q, D)), jnp.asarray(_draw(I, F, D, seed=1))
SCORER = _noisy(xpool.Scorer({"queries": D, "items": D}, heads=N, rngs=nnx.Rngs(0)))
WEIGHTS = SCORER.weights
_pool: Any = jax.jit(xpool.pool, static_argnames=("heads", "drop_rate"))
_search: Any = jax.jit(xpool.similarity, static_argnames=("heads", "drop_rate", "tile"))


def _ln(x, number):
  own = {
    n: np.asarray(getattr(WEIGHTS, f"norm_{n}"))[number] for n in ("scale", "bias")
  }
  return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * own["scale"] + own["bias"]


def _linear(x, name):
  matrix, bias = (np.asarray(getattr(WEIGHTS, n)) for n in (name, f"{name}_bias"))
  return x @ matrix + bias


def _pair(text, frames):
  """One text and the frames of one video, in float64, head by head."""
  text, frames = np.asarray(text, np.float64), np.asarray(frames, np.float64)
  q = _linear(_ln(text, 0), "query").reshape(N, -1)
  heads = []
  for n in range(N):
    own = slice(n * D // N, (n + 1) * D // N)
    keys = [_linear(_ln(f, 0), "key")[own] for f in frames]
    power = np.exp([k @ q[n] / math.sqrt(D // N) for k in keys])
    values = np.array([_linear(_ln(f, 0), "value")[own] for f in frames])
    heads.append(power / power.sum() @ values)
  o = _ln(_linear(np.concatenate(heads), "out"), 1)
  return _ln(o + _linear(o, "linear"), 2)


class PoolTest(parameterized.TestCase):
  def test_every_pair_by_hand(self):
    want = [[_pair(text, frames) for text in TEXT] for frames in FRAMES]
    _close(_pool(TEXT, FRAMES, WEIGHTS, heads=N), want)
    cosines = [
      [
        text @ pair / np.linalg.norm(text) / np.linalg.norm(pair)
        for pair in (want[i][q] for i in range(I))
      ]
      for q, text in enumerate(np.asarray(TEXT))
    ]
    for tile in (0, 2):
      _close(_search(TEXT, FRAMES, WEIGHTS, heads=N, tile=tile), cosines)

  def test_it_begins_as_the_pooling_of_normalised_vectors(self):
    fresh = _made()
    t, f = (
      (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
      for x in map(np.asarray, (TEXT, FRAMES))
    )
    share = np.exp(np.einsum("ifd,qd->iqf", f, t) / math.sqrt(D))
    share /= share.sum(-1, keepdims=True)
    weigh = jax.jit(lambda s: s.weigh(TEXT, FRAMES))
    _close(weigh(fresh)[:, 0], share)
    o = np.einsum("iqf,ifd->iqd", share, f)
    for factor in (1, 2):  # LN2, then LN3 of the identity's residual sum
      o = factor * o - (factor * o).mean(-1, keepdims=True)
      o = o / np.sqrt(o.var(-1, keepdims=True) + 1e-5)
    _close(_pool(TEXT, FRAMES, fresh.weights), o, 1e-4)
    self.assertEqual((fresh.heads, fresh.drop_rate, fresh.impl), (1, 0.3, "auto"))
    self.assertEqual(sum(x.size for x in jax.tree.leaves(fresh)), 5 * D * D + 11 * D)

  def test_equal_frames_leave_nothing_to_weigh(self):
    same = jnp.repeat(FRAMES[:, :1], F, axis=1)
    pooled = np.asarray(_pool(TEXT, same, WEIGHTS, heads=N))
    _close(pooled, np.repeat(pooled[:, :1], Q, axis=1))
    _close(pooled, _pool(TEXT, FRAMES[:, :1], WEIGHTS, heads=N))

  def test_frames_have_no_order_and_padding_is_none(self):
    want = _pool(TEXT, FRAMES, WEIGHTS, heads=N)
    _close(_pool(TEXT, FRAMES[:, ::-1], WEIGHTS, heads=N), want)
    valid = jnp.arange(F) < 3
    masked = _pool(TEXT, jnp.where(valid[:, None], FRAMES, jnp.nan), WEIGHTS,
      heads=N, valid=jnp.broadcast_to(valid, (I, F)))  # fmt: skip
    _close(masked, _pool(TEXT, FRAMES[:, :3], WEIGHTS, heads=N))

  def test_a_video_without_frames_has_the_vector_of_the_bias(self):
    o = _ln(np.asarray(WEIGHTS.out_bias), 1)
    want = _ln(o + _linear(o, "linear"), 2)
    none = np.zeros((I, F), bool)
    pooled = _pool(TEXT, FRAMES, WEIGHTS, heads=N, valid=none)
    _close(pooled, np.broadcast_to(want, pooled.shape))

  def test_a_zero_has_the_cosine_0(self):
    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(text):
      found = xpool.similarity(text, FRAMES, WEIGHTS, heads=N)
      return jnp.sum(found), found

    slope, found = run(TEXT.at[1].set(0))
    self.assertEqual(found[1].tolist(), [0] * I)
    self.assertLessEqual(float(jnp.abs(found).max()), 1.0)
    self.assertTrue(jnp.isfinite(slope).all())

  def test_dropout_is_of_the_branch_and_of_no_tile(self):
    key = jax.random.key(3)
    given = {"heads": N, "drop_rate": 0.6, "key": key}
    whole = _search(TEXT, FRAMES, WEIGHTS, **given)
    _close(_search(TEXT, FRAMES, WEIGHTS, tile=2, **given), whole)
    self.assertGreater(
      np.abs(whole - _search(TEXT, FRAMES, WEIGHTS, heads=N)).max(), 0.01
    )
    _close(
      _search(TEXT, FRAMES, WEIGHTS, heads=N, drop_rate=0.0, key=key),
      _search(TEXT, FRAMES, WEIGHTS, heads=N),
    )
    # A branch of ones under an LN3 that shows it: 0 or 1 / (1 - rate).
    plain = dataclasses.replace(
      WEIGHTS,
      out=jnp.zeros((D, D)), out_bias=jnp.zeros(D),
      linear=jnp.zeros((D, D)), linear_bias=jnp.ones(D),
      norm_scale=jnp.ones((3, D)), norm_bias=jnp.zeros((3, D)),
    )  # fmt: skip
    text, frames = _draw(40, D), _draw(30, 1, D)
    pooled = np.asarray(_pool(text, frames, plain, key=key, drop_rate=0.25))
    kept = (pooled > 0).mean()  # where all or none are kept, 0
    share = 0.75 - 0.75**D
    self.assertAlmostEqual(kept, share, delta=0.02)
    self.assertGreater(np.unique(pooled.round(3), axis=0).shape[0], 25)

  def test_videos_are_encoded_once(self):
    valid = jnp.arange(F) < jnp.array([[5], [1], [3], [2]])
    videos = jax.jit(lambda s, f: s.encode(f, valid))(SCORER, FRAMES)
    want = jax.jit(lambda s, t, f: s(t, f, item_valid=valid))(SCORER, TEXT, FRAMES)
    for tile in (0, 3):
      search = jax.jit(lambda s, t, v, tile=tile: s.search(t, v, tile=tile))
      _close(search(SCORER, TEXT, videos), want)
    self.assertEqual(videos.key.shape, (I, F, N, D // N))
    self.assertEqual(videos.value.shape, (I, F, N, D))

  def test_errors_name_value_and_rule(self):
    for call, message in (
      (lambda: xpool.pool(TEXT, FRAMES, WEIGHTS, heads=4), "heads = 4; it must divide"),
      (lambda: xpool.pool(TEXT[:, :5], FRAMES[..., :5], WEIGHTS), "vectors of 5 and"),
      (lambda: xpool.top_k_pool(TEXT, FRAMES, 0), "keep_frames = 0; it must be at"),
      (lambda: xpool.attention_pool(TEXT, FRAMES, temperature=0.0), "temperature = 0"),
      (lambda: xpool.clip_loss(jnp.ones((2, 3)), jnp.ones(())), "2 texts and 3 videos"),
      (lambda: _search(TEXT, FRAMES, WEIGHTS, tile=-1), "tile = -1; it must be at"),
      (lambda: _made(queries=8), "dims = .*8.* share a layer norm"),
      (lambda: _made(heads=4), "heads = 4; it must divide D = 6"),
      (lambda: _made(drop_rate=1.0), "drop_rate = 1.0; it must be from 0"),
    ):
      with self.subTest(message), self.assertRaisesRegex(ValueError, message):
        call()
    given: Any
    for given in ({"tile": 2}, {"key": jax.random.key(0)}):
      with self.assertRaisesRegex(NotImplementedError, "reference has no"):
        xpool.similarity(TEXT, FRAMES, WEIGHTS, impl="reference", **given)


def _made(queries=D, **options):
  return xpool.Scorer({"queries": queries, "items": D}, rngs=nnx.Rngs(0), **options)


class BaselineTest(absltest.TestCase):
  def test_by_hand(self):
    text = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    frames = jnp.array([[[1.0, 5.0], [2.0, 3.0], [4.0, 1.0]]])
    valid = jnp.array([[True, False, True]])
    near = jnp.array([[[0.01, 0.0], [0.02, 0.0]]])

    @jax.jit
    def run():
      return {
        "mean": xpool.mean_pool(frames),
        "mean of two": xpool.mean_pool(frames, valid=valid),
        "mean of none": xpool.mean_pool(frames, valid=jnp.zeros((1, 3), bool)),
        "best": xpool.top_k_pool(text, frames, 2),
        "best of two": xpool.top_k_pool(text, frames, 2, valid=valid),
        "all": xpool.top_k_pool(text, frames, 9),
        "soft": xpool.attention_pool(text, frames, temperature=1.0)[0, 0],
        "sharp": xpool.attention_pool(text, frames),
        "near": xpool.attention_pool(text[:1], near)[0, 0, 0],
      }

    share, even = (np.exp(x) / np.exp(x).sum() for x in ([1.0, 2, 4], [1.0, 2]))
    want = {
      "mean": [[7 / 3, 3]],
      "mean of two": [[2.5, 3]],
      "mean of none": [[0, 0]],
      "best": [[[6, 4], [3, 8]]],  # a sum, not a mean, and of raw products
      "best of two": [[[5, 6], [5, 6]]],
      "all": [[[7, 9], [7, 9]]],
      "soft": share @ np.array([[1.0, 5], [2, 3], [4, 1]]),
      "sharp": [[[4, 1], [1, 5]]],  # a temperature of 0.01
      "near": even @ [0.01, 0.02],
    }
    for name, value in run().items():
      _close(value, want[name])


class LossTest(absltest.TestCase):
  def test_by_hand(self):
    similarity = jnp.array([[0.5, 0.1], [-0.2, 0.4]])
    scale = math.log(3.0)

    def log(own, other):
      return -math.log(math.exp(3 * own) / (math.exp(3 * own) + math.exp(3 * other)))

    rows = log(0.5, 0.1) + log(0.4, -0.2)
    columns = log(0.5, -0.2) + log(0.4, 0.1)
    loss = xpool.clip_loss(similarity, jnp.asarray(scale))
    self.assertAlmostEqual(float(loss), (rows + columns) / 4, places=5)
    perfect = xpool.clip_loss(jnp.eye(4), jnp.asarray(math.log(100.0)))
    self.assertAlmostEqual(float(perfect), 0.0, places=5)
    even = xpool.clip_loss(jnp.zeros((4, 4)), jnp.asarray(2.0))
    self.assertAlmostEqual(float(even), math.log(4), places=5)


if __name__ == "__main__":
  absltest.main()
