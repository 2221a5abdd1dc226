"""Few queries on GPUs: keys split among programs, a group's heads folded into rows."""

# ruff: noqa: E402, I001
from tests import simulate  # first: sets TRITON_INTERPRET

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from pallas_kernels.flash.triton_gpu import Tile, decode
from pallas_kernels.flash.triton_gpu.codegen import write
from tests import definition as formula, precision
from tests.flash import triton_gpu_test as problems

TILE = Tile(16, 16, 4, 2, 16)


def definition(q, k, v, sinks, p, scale):
  """(out, top, total) in float64, dense."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  (B, T, N, _), (S, K) = q.shape, k.shape[1:3]
  k, v = np.repeat(k, N // K, 2), np.repeat(v, N // K, 2)
  score = scale * np.einsum("btnh,bsnh->bnts", q, k)
  if p.score is not None:
    score = problems.apply(p.score, p.operands, [jnp.float32(score)], T, S)
    score = np.asarray(score, np.float64)
  seen = np.broadcast_to(problems.dense_seen(p, B, N, T, S), score.shape)
  score = np.where(seen, score, -np.inf)
  top = score.max(-1)
  if sinks is not None:
    top = np.maximum(top, np.asarray(sinks)[:, None])
  pivot = np.where(np.isneginf(top), 0, top)
  weight = np.exp(score - pivot[..., None])
  total = weight.sum(-1)
  if sinks is not None:
    total += np.exp(np.asarray(sinks)[:, None] - pivot)
  if p.keep is not None:
    weight = weight * np.asarray(problems.apply(p.keep, p.operands, [], T, S))
  out = np.einsum("bnts,bsnv->btnv", weight, v)
  out /= np.where(total == 0, 1, total).swapaxes(1, 2)[..., None]
  return out, top.swapaxes(1, 2), total.swapaxes(1, 2)


def run(q, k, v, sinks, p, scale, parts=None, tile=TILE):
  """(what the kernel gives, how it was split)."""
  (B, T, N, _), S = q.shape, k.shape[1]
  seen = problems.dense_seen(p, B, N, T, S)
  lists = problems.schedule(seen, (16, tile.block_k))
  split = decode.Split.of(q, k, v, lists, tile, (90, 0))
  if parts is not None:
    split = dataclasses.replace(split, parts=parts)
  source = write(p)
  with simulate.accelerators():
    return decode.forward(q, k, v, sinks, p, source, lists, split, scale), split


def ragged(B, N, T, S):
  """Each example has its own number of keys, the first of them none."""
  lengths = (jnp.arange(B, dtype=jnp.int32) * S // max(B - 1, 1))[:, None, None, None]
  return problems.program([lengths], seen=lambda t, s, length: s < length)


def window(B, N, T, S):
  return problems.program(seen=lambda t, s: (s <= t + S - T) & (s > t + S - T - 20))


def slopes(B, N, T, S):
  """A bias of each head that a row finds by its head."""
  return problems.program(
    [0.1 * problems.normal(1, N, 1, 1), problems.normal(B, N, T, S, seed=3)],
    score=lambda x, t, s, m, bias: x - m * (s - t) + bias,
    seen=lambda t, s, *_: s % 5 != t % 2,
  )


MADE = {
  f.__name__: f for f in (ragged, window, slopes, problems.documents, problems.dropout)
}


class DecodeTest(parameterized.TestCase):
  def compare(self, shape, p, sinks=None, dtype="float32", parts=None, tile=TILE):
    q, k, v, *_ = problems.draw(shape, dtype)
    scale = q.shape[3] ** -0.5
    got, split = run(q, k, v, sinks, p, scale, parts, tile)
    want = definition(q, k, v, sinks, p, scale)
    self.assertEqual([x.dtype for x in got], [v.dtype, np.float32, np.float32])
    for name, a, b in zip(("out", "top", "total"), got, want, strict=True):
      if name != "out" or dtype == "float32":
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5, err_msg=name)
    return split, got

  @parameterized.parameters(
    (1, 1, 1, 1), (1, 63, 8, 2), (1, 300, 8, 2), (3, 65, 2, 2), (16, 65, 3, 1),
    (16, 300, 8, 2),
  )  # fmt: skip
  def test_lengths_and_groups(self, T, S, N, K):
    p = problems.program(seen=lambda t, s: s <= t + S - T)
    split, _ = self.compare((1, T, S, N, K, 16, 24), p)
    self.assertEqual(split.parts, min(-(-264 // K), max(1, -(-S // 32))))

  @parameterized.named_parameters(*MADE.items())
  def test_programs(self, make):
    sinks = jnp.array([0.5, -1.0, 3.0, -30.0]) if make in (window, ragged) else None
    self.compare((2, 3, 70, 4, 2, 16, 16), make(2, 4, 3, 70), sinks, parts=3)

  def test_empty_rows(self):
    q, k, v, *_ = problems.draw((2, 2, 40, 2, 1, 16, 16))
    p = problems.program(seen=lambda t, s: (t != 1) & (s < 20))
    (out, top, total), _ = run(q, k, v, None, p, 0.25)
    np.testing.assert_array_equal(out[:, 1], 0.0)
    np.testing.assert_array_equal(top[:, 1], -np.inf)
    np.testing.assert_array_equal(total[:, 1], 0.0)
    self.assertTrue((total[:, 0] >= 1).all())

  def test_half_precision(self):
    """As exact as the plain formula in this type."""
    shape, tile = (1, 2, 100, 4, 1, 80, 40), Tile(16, 32, 4, 2, 32)
    p = problems.program()
    got = self.compare(shape, p, None, "bfloat16", 2, tile)[1]
    q, k, v, g, g_lse = problems.draw(shape, "bfloat16")
    arrays = {"q": q, "k": k, "v": v, "g": g, "g_lse": g_lse}
    words = {n: np.asarray(x, np.float64) for n, x in arrays.items()}
    words["scale"] = 80**-0.5
    want = {"out": formula.exact(words, "bfloat16")["out"]}
    plain = formula.plain(words, "bfloat16")
    part = precision.excess({"out": got[0]}, want, plain, "bfloat16")["out"]
    self.assertLessEqual(part, 1.0)

  @parameterized.parameters(1, 9)
  def test_any_number_of_parts(self, parts):
    """More parts than blocks leave some with nothing to do."""
    self.compare((1, 2, 90, 2, 2, 16, 16), window(1, 2, 2, 90), parts=parts)

  def test_two_runs_are_bit_equal(self):
    q, k, v, *_ = problems.draw((1, 2, 90, 4, 2, 16, 16))
    p = slopes(1, 4, 2, 90)
    first, second = (run(q, k, v, None, p, 0.25)[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)

  def test_what_is_not_split(self):
    def split(T=1, heads=1, lines=1):
      q, k = (jnp.zeros((1, n, 4, 16)) for n in (T, 300))
      index = jnp.zeros((1, heads, lines, 19), jnp.int32)
      lists = problems.schedule(np.ones((1, 1, T, 300), bool), (16, 16))
      lists = dataclasses.replace(lists, index=index)
      return decode.Split.of(q, k, k, lists, TILE, (90, 0))

    self.assertIsNotNone(split(16))
    self.assertIsNone(split(17, lines=2))
    self.assertIsNone(split(17))
    self.assertIsNone(split(heads=4))

  def test_rows_fit_the_device(self):
    """All heads of a group where memory allows, fewer at a time where not."""
    lists = problems.schedule(np.ones((1, 1, 4, 4096), bool), (16, 32))
    for dtype, chip, rows in (
      ("bfloat16", (90, 4), 64),
      ("bfloat16", (89, 0), 64),
      ("bfloat16", (89, 4), 32),
      ("float32", (90, 0), 16),
    ):
      q = jax.ShapeDtypeStruct((1, 4, 32, 256), dtype)
      k = jax.ShapeDtypeStruct((1, 4096, 2, 256), dtype)
      tile = Tile(16, 32, 4, 2, 32)
      split = decode.Split.of(q, k, k, lists, tile, chip)
      self.assertEqual((split.tile.block_q, split.blocks), (rows, 64 // rows))


if __name__ == "__main__":
  absltest.main()
