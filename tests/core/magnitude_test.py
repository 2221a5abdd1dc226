"""Scores of any magnitude, and NaN where nobody looks: against NumPy in float64.

A whole row under one large bias has the weights of a row without: what the bias says is
the same of all its keys. NaN and infinity in keys, values, queries and biases that are
not seen change nothing that is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import masks, score_function, softmax
from attnjax.core.scores import Scores
from attnjax.core.softmax.tiling import Tiles

LEAST = float(np.finfo(np.float32).min)
B, T, S, N, K, H = 2, 19, 23, 4, 2, 8
_TILES = Tiles(8, 16), Tiles(16, 8)
_FORMS = {
  "reference": softmax.reference,
  "whole": softmax.chunked,
  "tiles": functools.partial(softmax.chunked, tiles=_TILES),
}
_FORM = parameterized.named_parameters((name, name) for name in _FORMS)


def _drawn():
  draw = np.random.default_rng(3).standard_normal
  shapes = (B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H), (B, T, N)
  return [draw(shape).astype(np.float32) for shape in shapes]


@functools.cache
def _run(name):
  """(out, lse) and the gradients by q, k, v, bias and sinks, compiled once a form."""

  def run(q, k, v, g, dlse, bias, lengths, sinks):
    def loss(q, k, v, bias, sinks):
      mask = masks.Lengths(lengths)
      what = Scores(mask, bias=bias)
      out, lse = _FORMS[name](q, k, v, what, sinks=sinks)
      kept = jnp.where(jnp.isfinite(lse), lse, 0)
      return (out * g).sum() + (kept * dlse).sum(), (out, lse)

    which = tuple(range(5))
    run = jax.value_and_grad(loss, which, has_aux=True)
    (_, out), slopes = run(q, k, v, bias, sinks)
    return (*out, *slopes)

  return jax.jit(run)


def _definition(q, k, v, g, dlse, bias, lengths, sinks):
  """The same for scores rounded to float32, as the sum with the bias is."""
  q, k, v, g, dlse, sinks = (x.astype(np.float64) for x in (q, k, v, g, dlse, sinks))
  keys, values = (np.repeat(x, N // K, axis=2) for x in (k, v))
  raw = np.einsum("btnh,bsnh->bnts", q, keys) * H**-0.5
  with np.errstate(over="ignore"):
    score = (raw.astype(np.float32) + bias).astype(np.float64)
  score[
    ~np.broadcast_to(np.arange(S) < lengths[:, None, None, None], score.shape)
  ] = -np.inf
  top = np.maximum(score.max(-1), sinks[:, None])
  power = np.exp(score - top[..., None])
  total = power.sum(-1) + np.exp(sinks[:, None] - top)
  weight = power / total[..., None]
  out = np.einsum("bnts,bsnv->btnv", weight, values)
  slope = np.einsum("btnv,bsnv->bnts", g, values)
  delta = (g * out).sum(-1).swapaxes(1, 2) - dlse.swapaxes(1, 2)
  slope = weight * (slope - delta[..., None])
  dq = np.einsum("bnts,bsnh->btnh", slope, keys) * H**-0.5
  dk = np.einsum("bnts,btnh->bsnh", slope, q) * H**-0.5
  dv = np.einsum("bnts,btnv->bsnv", weight, g)
  dk, dv = (x.reshape(B, S, K, N // K, H).sum(3) for x in (dk, dv))
  dsinks = -(np.exp(sinks[:, None] - top) / total * delta).sum((0, 2))
  lse = (top + np.log(total)).swapaxes(1, 2)
  return out, lse, dq, dk, dv, slope, dsinks


class MagnitudeTest(parameterized.TestCase):
  @_FORM
  def test_a_whole_row_at_any_score(self, name):
    q, k, v, g, dlse = _drawn()
    lengths = np.array([S - 2, S], np.int32)
    for sink in (0.0, LEAST):
      sinks = np.full((N,), sink, np.float32)
      for value in (-1e4, -1e9, -1e20, LEAST, LEAST / 2, 1e9, 1e30, -LEAST / 2):
        bias = np.zeros((B, N, T, S), np.float32)
        bias[1] = value
        bias[0, :, 3] = value
        want = _definition(q, k, v, g, dlse, bias, lengths, sinks)
        got = _run(name)(q, k, v, g, dlse, bias, lengths, sinks)
        # Near 1e4 a score has three decimals, whose last depends on sums' order.
        far = 2e-3 if abs(value) == 1e4 else 2e-5
        for a, b in zip(got, want):
          np.testing.assert_allclose(a, b, rtol=far, atol=far, err_msg=f"{value}")

  @_FORM
  def test_queries_and_keys_of_any_size(self, name):
    q, k, v, g, dlse = _drawn()
    lengths, sinks = np.array([S, 5], np.int32), np.zeros((N,), np.float32)
    bias = np.zeros((B, N, T, S), np.float32)
    for size in (1e-6, 30.0, 1e4, 1e8):
      # Powers of two, of which products are exact.
      near = np.exp2(np.round(np.log2(np.abs(q) * size))) * np.sign(q)
      near[..., 1:] = 0
      want = _definition(near, k, v, g, dlse, bias, lengths, sinks)
      got = _run(name)(near, k, v, g, dlse, bias, lengths, sinks)
      for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5 * max(1, size * 1e-3))

  @_FORM
  def test_what_nobody_sees(self, name):
    q, k, v, g, dlse = _drawn()
    lengths, sinks = np.array([S - 3, 0], np.int32), np.full((N,), -1.0, np.float32)
    bias = np.zeros((B, N, T, S), np.float32)
    want = _run(name)(q, k, v, g, dlse, bias, lengths, sinks)
    for bad in (np.nan, np.inf, -np.inf):
      for which in ("k", "v", "bias"):
        arrays = {"k": k.copy(), "v": v.copy(), "bias": bias.copy()}
        if which == "bias":
          arrays[which][0, ..., S - 3 :] = bad
          arrays[which][1] = bad
        else:
          arrays[which][0, S - 3 :] = bad
          arrays[which][1] = bad
        given = arrays["k"], arrays["v"], g, dlse, arrays["bias"]
        got = _run(name)(q, *given, lengths, sinks)
        for a, b in zip(got, want):
          np.testing.assert_array_equal(a, b, err_msg=f"{which} {bad}")

  @_FORM
  def test_a_hidden_bias_under_a_function_that_multiplies(self, name):
    q, k, v, *_ = map(jnp.asarray, _drawn())
    seen = np.broadcast_to(np.arange(S) < S - 3, (B, N, T, S))

    @jax.jit
    def slopes(gain, bias):
      def loss(gain, bias):
        function = lambda score, b, n, q, k: score * gain[n]  # noqa: E731
        traced, consts = score_function.trace(function)
        mask = masks.Lengths(jnp.full((B,), S - 3))
        what = Scores(mask, bias=bias, function=traced, consts=tuple(consts))
        return jnp.sin(_FORMS[name](q, k, v, what)[0]).sum()

      return jax.grad(loss, (0, 1))(gain, bias)

    gain = jnp.arange(1.0, N + 1)
    bias = np.random.default_rng(5).standard_normal((B, N, T, S)).astype(np.float32)
    want = slopes(gain, np.where(seen, bias, 0))
    for bad in (np.nan, np.inf, -np.inf):
      got = slopes(gain, np.where(seen, bias, bad).astype(np.float32))
      for a, b in zip(got, want):
        np.testing.assert_array_equal(a, b)

  @_FORM
  def test_what_is_seen_is_not_hidden(self, name):
    q, k, v, g, dlse = _drawn()
    lengths, sinks = np.array([S, S], np.int32), np.zeros((N,), np.float32)
    bias = np.zeros((B, N, T, S), np.float32)
    for which in ("k", "v"):
      arrays = {"k": k.copy(), "v": v.copy()}
      arrays[which][0, 2, 1] = np.nan
      given = arrays["k"], arrays["v"], g, dlse, bias
      out = np.asarray(_run(name)(q, *given, lengths, sinks)[0])
      heads = np.isnan(out).all(axis=(1, 3))
      self.assertEqual(heads.tolist(), [[False, False, True, True], [False] * 4])
      self.assertFalse(np.isnan(out[:, :, :2]).any())


class CheckpointTest(absltest.TestCase):
  def test_a_saved_pass_is_not_made_again(self):
    """The backward pass of a checkpointed block has no second forward pass."""
    q, k, v, *_ = map(jnp.asarray, _drawn())
    policy = jax.checkpoint_policies.save_only_these_names(*softmax.SAVED)

    def passes(policy):
      def loss(q):
        block = jax.checkpoint(lambda q: softmax.chunked(q, k, v)[0], policy=policy)
        return jnp.sin(block(q)).sum()

      return jax.jit(jax.grad(loss)).lower(q).compile().as_text().count(" dot(")

    self.assertLess(passes(policy), passes(None))


class CombineTest(absltest.TestCase):
  def test_parts_at_any_score(self):
    outs, lses = jnp.eye(3)[:, None, None, None], jnp.zeros((3, 1, 1, 1))
    for value in (0.0, -1e9, LEAST / 2):
      out, lse = softmax.combine(outs, lses + np.float32(value))
      np.testing.assert_allclose(out[0, 0, 0], [1 / 3] * 3, rtol=1e-6)
      np.testing.assert_allclose(lse[0, 0, 0], value + np.log(3), rtol=1e-6)


if __name__ == "__main__":
  absltest.main()
