"""The GPU kernels on scores of any magnitude, and on NaN that nobody sees."""

# ruff: noqa: E402, I001
from tests import simulate  # first: sets TRITON_INTERPRET

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import softmax
from pallas_kernels.flash import triton_gpu
from pallas_kernels.flash.triton_gpu import Tile, Tiles
from tests import definition as exactly, precision
from tests.flash import triton_gpu_test as kernels

TILES = Tiles(Tile(16, 32, 4, 2, 16), Tile(16, 32, 4, 2, 16), Tile(16, 32, 4, 2, 16))
LEAST, GREATEST = (float(f(jnp.finfo(jnp.float32))) for f in (
  lambda x: x.min, lambda x: x.max))  # fmt: skip


def add(x, t, s, bias):
  return x + bias


def definition(q, k, v, g, score_of, sinks=None):
  """Attention of one head in float64, its derivatives, and lse.

  score_of: the scores (T, S) of the raw ones, float64.
  """
  q, k, v, g = (np.asarray(x, np.float64)[0, :, 0] for x in (q, k, v, g))
  score = score_of(q @ k.T)
  top = score.max(1, keepdims=True)
  more = 0.0
  if sinks is not None:
    sink = np.float64(sinks[0])
    top = np.maximum(top, sink)
    more = np.exp(sink - top)
  weight = np.exp(score - top)
  total = weight.sum(1, keepdims=True) + more
  weight /= total
  out = weight @ v
  dscore = weight * (g @ v.T - (g * out).sum(1, keepdims=True))
  lse = (top + np.log(total))[:, 0]
  return out, lse, dscore, weight.T @ g


class MagnitudeTest(parameterized.TestCase):
  def check(self, got, want, scale, q, k):
    out, lse, dq, dk, dv, _ = got
    want_out, want_lse, dscore, want_dv = want
    near = dict(rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(out[0, :, 0], want_out, **near)
    np.testing.assert_allclose(lse[0, :, 0], want_lse, rtol=3e-7, atol=1e-6)
    np.testing.assert_allclose(dv[0, :, 0], want_dv, **near)
    for have, want, other in ((dq, dscore, k), (dk, dscore.T, q)):
      want = scale * want @ np.asarray(other, np.float64)[0, :, 0]
      size = max(1.0, np.abs(want).max())
      np.testing.assert_allclose(have[0, :, 0] / size, want / size, **near)

  @parameterized.parameters(
    (-1e4, False), (-1e9, True), (-1e20, False), (LEAST, False), (LEAST, True),
    (GREATEST, False),
  )  # fmt: skip
  def test_a_row_of_one_bias_has_the_mean(self, value, sinks):
    """The bias hides what q.k adds, from some 1e9 on."""
    q, k, v, g, dlse = kernels.draw((1, 12, 40, 1, 1, 16, 16))
    bias = kernels.normal(1, 1, 12, 40).at[:, :, 3:5].set(value)
    bias = bias.at[:, :, 4, 20:].set(-jnp.inf)
    p = kernels.program([bias], score=add)
    sink = jnp.array([0.5]) if sinks else None
    got = kernels.run(q, k, v, g, 0 * dlse, sink, p, 0.25, TILES)

    def score(raw):
      # A float32 sum, as the score is; beyond the greatest number nothing is.
      with np.errstate(over="ignore"):
        return np.float64(np.float32(0.25 * raw) + np.asarray(bias)[0, 0])

    want = definition(q, k, v, g, score, sink)
    if abs(value) >= 1e9:
      self.assertLess(np.ptp(score(np.ones((12, 40)))[3]), 1e-6)
    self.check(got, want, 0.25, q, k)
    for x in (*got[2:5], *got[5]):
      self.assertTrue(jnp.isfinite(x).all())

  @parameterized.parameters((0.25, 12), (0.3, 20), (0.3, 28), (0.25, 60))
  def test_large_products(self, scale, power):
    """Keys whose scores are the next numbers below, or equal, or far below."""
    q, k, v, g, dlse = kernels.draw((1, 12, 40, 1, 1, 16, 16))
    step = 2.0**-24 if power > 12 else 2.0 ** (-power - 2)
    near = 1.0 - step * jnp.array([0, 0, 1, 2, 0])
    q = jnp.zeros_like(q).at[..., 0].set(2.0**power)
    k = jnp.zeros_like(k).at[0, 10:15, 0, 0].set(near).at[0, 30:, 0, 0].set(-1.0)
    if power == 60:  # beyond where the next number below counts
      near = near.at[2:4].set(0.5)
      k = k.at[0, 10:15, 0, 0].set(near)
    got = kernels.run(q, k, v, g, 0 * dlse, None, kernels.program(), scale, TILES)
    want = definition(q, k, v, g, lambda raw: np.float64(np.float32(scale)) * raw)
    self.check(got, want, scale, q, k)

  def test_products_that_other_tiles_round_up_do_not_explode(self):
    q, k, v, g, dlse = kernels.draw((1, 16, 32, 1, 1, 16, 16))
    out, top, total = self.forward(q, k, v)
    delta = jnp.sum(g * out, -1)
    lists = kernels.schedule(np.ones((1, 1, 16, 32), bool), TILES.backward_blocks)
    with simulate.accelerators():
      # As if each score were 50 above the greatest that was found.
      *d, _ = triton_gpu.backward(
        q, k, v, g, top - 50, total, delta, kernels.program(), lists,
        scale=0.25, tiles=TILES,
      )  # fmt: skip
    weight = 1 / total[0, :, 0]
    np.testing.assert_allclose(
      d[2][0, :, 0], jnp.broadcast_to(weight @ g[0, :, 0], (32, 16)), rtol=1e-5
    )

  def forward(self, q, k, v, scale=0.25):
    T, S = q.shape[1], k.shape[1]
    lists = kernels.schedule(np.ones((1, 1, T, S), bool), TILES.forward_blocks)
    with simulate.accelerators():
      return triton_gpu.forward(
        q, k, v, None, kernels.program(), lists, scale=scale, tiles=TILES
      )

  def test_weights_are_of_the_scores_less_top(self):
    """The total is what exp(score - top) sums to, to float32's digits."""
    q, k, v, *_ = kernels.draw((1, 12, 40, 1, 1, 16, 16))
    q, k = jnp.round(8 * q) / 8, jnp.round(8 * k) / 8  # whose products are exact
    for scale in (3.0, 300.0):
      _, top, total = self.forward(q, k, v, scale)
      raw = jnp.einsum("btnh,bsnh->bts", q, k, precision="highest")
      score = np.float64(np.float32(scale)) * np.float64(raw[0])
      top = np.float64(top[0, :, 0])
      self.assertTrue((score.max(1) <= top).all())
      want = np.exp(score - top[:, None]).sum(1)
      bound = 1e-6 + 3e-7 * np.abs(score).max()
      np.testing.assert_allclose(total[0, :, 0], want, rtol=bound)

  def test_float16(self):
    q, k, v, g, dlse = kernels.draw((1, 12, 40, 1, 1, 16, 16), "float16")
    bias = 8.0 * jnp.arange(40.0) % 24 + jnp.array([[9e7], [-9e7]] * 6)
    p = kernels.program([bias[None, None]], score=add)
    out, lse, *d, _ = kernels.run(
      q, k, v, g, 0 * dlse.astype(jnp.float32), None, p, 0.25, TILES
    )
    score = lambda raw: np.float64(np.float32(0.25 * raw) + np.asarray(bias))  # noqa: E731
    want = definition(q, k, v, g, score)
    np.testing.assert_allclose(lse[0, :, 0], want[1], rtol=3e-7)
    problem = {n: np.asarray(x, np.float64) for n, x in zip("qkvg", (q, k, v, g))}
    # The plain formula cannot have such scores in float16, but what they differ by.
    scores = score(0.25 * np.einsum("tx,sx->ts", *(problem[n][0, :, 0] for n in "qk")))
    problem |= {"bias": scores - scores.max(1, keepdims=True), "scale": 0.0}
    problem["bias"] = problem["bias"][None, None]
    plain = exactly.plain(problem | {"g_lse": np.zeros((1, 12, 1))}, "float16")
    found = {"out": out[0, :, 0], "dv": d[2][0, :, 0]}
    rough = {n: plain[n][0, :, 0] for n in found}
    wanted = {"out": want[0], "dv": want[3]}
    for name, part in precision.excess(found, wanted, rough, "float16").items():
      self.assertLessEqual(part, 1.0, name)


class UnseenTest(parameterized.TestCase):
  """What nobody sees is NaN or infinite; the result is that of zeros there."""

  def lengths(self, bad, dtype, biased):
    """Keys from 25 on are seen by nobody, and their bias is as bad as they are."""
    q, k, v, g, dlse = kernels.draw((1, 20, 50, 1, 1, 24, 16), dtype)
    bias = kernels.normal(1, 1, 1, 50)
    k, v = k.at[:, 25:].set(bad), v.at[:, 25:].set(bad)
    bias = bias.at[..., 25:].set(bad)
    last = jnp.array([25], jnp.int32)[:, None, None, None]
    p = kernels.program(
      [bias, last],
      score=(lambda x, t, s, b, n: x + b) if biased else None,
      seen=lambda t, s, b, n: (s < n) & (t >= 0),
    )
    return kernels.run(
      q, k, v, g, dlse.astype(jnp.float32), None, p, 0.25, kernels.SMALL
    )

  @parameterized.parameters((np.nan, "float32", True), (np.inf, "bfloat16", False))
  def test_keys_values_and_biases(self, bad, *how):
    found, want = self.lengths(bad, *how), self.lengths(0.0, *how)
    jax.tree.map(np.testing.assert_array_equal, found, want)

  @parameterized.parameters("k", "v")
  def test_who_sees_it_has_nan_and_others_do_not(self, which):
    q, k, v, g, dlse = kernels.draw((1, 40, 40, 1, 1, 16, 16))
    given = dict(k=k, v=v)
    bad = given | {which: given[which].at[0, 20, 0, 3].set(jnp.nan)}
    p = kernels.program(seen=kernels.causal)
    fine, found = (
      kernels.run(q, x["k"], x["v"], g, dlse, None, p, 0.25, kernels.SMALL)
      for x in (given, bad)
    )
    for x, y in zip(fine[:3], found[:3]):  # out, lse, dq
      np.testing.assert_array_equal(x[:, :20], y[:, :20])
    self.assertTrue(jnp.isnan(found[0][:, 20:]).any(-1).all())
    self.assertTrue(jnp.isnan(found[2][:, 20:]).all())

  def test_a_document_of_nan(self):
    """Its queries, keys and values are NaN; the other document has none of it."""
    q, k, v, g, dlse = kernels.draw((1, 40, 40, 1, 1, 16, 16))
    ids = (jnp.arange(40, dtype=jnp.int32) >= 21).astype(jnp.int32)
    p = kernels.program(
      [ids[None, None, :, None], ids[None, None, None]], seen=lambda t, s, a, b: a == b
    )

    def run(bad):
      arrays = (x.at[:, 21:].set(bad) for x in (q, k, v, g))
      return kernels.run(*arrays, dlse, None, p, 0.25, kernels.SMALL)

    for x, y in zip(run(0.0)[:5], run(jnp.nan)[:5]):
      np.testing.assert_array_equal(x[:, :21], y[:, :21])
      self.assertTrue(jnp.isfinite(x).all())

  def test_an_empty_row_gives_nothing(self):
    q, k, v, *_ = kernels.draw((1, 12, 40, 1, 1, 16, 16))
    p = kernels.program(seen=lambda t, s: (t > 4) & (s >= 0))
    lists = kernels.schedule(kernels.dense_seen(p, 1, 1, 12, 40), TILES.forward_blocks)
    with simulate.accelerators():
      out, top, total = triton_gpu.forward(
        q, k, v, None, p, lists, scale=0.25, tiles=TILES
      )
    np.testing.assert_array_equal(out[:, :5], 0.0)
    np.testing.assert_array_equal(top[:, :5], -np.inf)
    np.testing.assert_array_equal(total[:, :5], 0.0)
    np.testing.assert_array_equal(softmax.logarithm(top, total)[:, :5], -np.inf)


if __name__ == "__main__":
  absltest.main()
