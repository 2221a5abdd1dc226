"""The Sparse Frontier: costs counted another way, safe sparsities, and the law."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from attnjax.variants.decode.sparse_frontier import costs, statistics

_SIZE = costs.Size(
  layers=3, width=24, heads=6, kv_heads=2, head_size=5, mlp=40, vocab=70
)


def _by_matrices(size, L):
  """Returns the FLOPs of one row's prompt, product after product."""
  n, d, h, kv, d_h, f, V = size
  layer = 2 * L * d * d * 2  # queries, and the outputs of all heads
  layer += 2 * L * d * d_h * kv * 2  # keys and values
  for _ in range(h):
    layer += 2 * L * d_h * L + 3 * L * L + 2 * L * L * d_h  # scores, softmax, values
  layer += 2 * L * d * f * 3 + 2 * L * f  # two matrices in, the gate, one out
  return 2 * L * d + n * layer + 2 * L * d * V  # and the embedding and its transpose


class CostsTest(parameterized.TestCase):
  @parameterized.parameters(1, 64, 1000)
  def test_a_dense_prompt_is_counted_by_its_products(self, L):
    got = costs.isoflops(_SIZE, L, batch=7)
    np.testing.assert_allclose(got, 7 * _by_matrices(_SIZE, L))

  def test_sparsity_saves_attention_alone(self):
    dense, half = (costs.isoflops(_SIZE, 512, s, batch=1) for s in (0.0, 0.5))
    attention = 3 * 6 * 512**2 * (4 * 5 + 3)
    np.testing.assert_allclose(dense - half, attention / 2)
    more = costs.isoflops(_SIZE, 512, 0.5, batch=1, indexing=123.0)
    np.testing.assert_allclose(more - half, 123)

  def test_a_step_reads_the_weights_once_and_every_cache(self):
    weights = 3 * (4 * 24**2 + 3 * 24 * 40) + 24 * 71
    cache = 2 * 3 * 512 * 5 * 2
    got = costs.isoflops(_SIZE, 512, [0.0, 0.75], "decode", batch=64)
    np.testing.assert_allclose(got, [weights + 64 * cache, weights + 16 * cache])

  def test_share_of_attention_grows(self):
    # Llama 3.1 8B: 0.36, 0.70 and 0.82 of a prompt; the paper's means 0.40, 0.68, 0.80.
    size = costs.Size(32, 4096, 32, 8, 128, 14336, 128256)
    length = np.array([16, 64, 128]) * 1024
    dense, none = (costs.isoflops(size, length, s) for s in (0.0, 1.0))
    np.testing.assert_allclose(1 - none / dense, [0.365, 0.697, 0.821], atol=2e-3)

  def test_indexing(self):
    got = costs.vertical_slash_flops(
      _SIZE, 256, window=16, verticals=8, slashes=12, batch=2
    )
    one = 2 * 5 * 256 * 16 + 5 * 256 * 16 + 2 * 256 * 8 + 64 * 256 * 20
    self.assertEqual(got, 2 * 3 * 6 * one)
    self.assertEqual(costs.quest_reads(_SIZE, 256, batch=2), 2 * 2 * 3 * 2 * 5 * 16)

  def test_what_is_refused(self):
    with self.assertRaisesRegex(ValueError, "phase 'decoding'.*decode"):
      costs.isoflops(_SIZE, 5, phase="decoding")
    with self.assertRaisesRegex(ValueError, "sparsity = 1.5"):
      costs.isoflops(_SIZE, 5, 1.5)

  def test_sparsity_of_blocks(self):
    for blocks in (3, 4, 10, 12):
      listed = sum(min(i + 1, blocks) for i in range(10))
      got = costs.block_sparsity(157, block=16, blocks=blocks)
      self.assertAlmostEqual(got, 1 - listed / 55)
    for wanted in np.linspace(0, 1, 41):
      found = costs.blocks_of_sparsity(157, wanted, block=16)
      off = {
        b: abs(costs.block_sparsity(157, block=16, blocks=b) - wanted)
        for b in range(3, 11)
      }
      self.assertAlmostEqual(off[found], min(off.values()))
    self.assertEqual(costs.blocks_of_sparsity(20, 0.5, block=16), 3)

  def test_sparsity_of_pairs(self):
    seen = np.tri(6, dtype=bool)[None, None].repeat(2, axis=0)
    seen[1, 0, 4, :2] = False
    np.testing.assert_allclose(costs.crossed_sparsity(seen), [[0], [2 / 21]])
    got = costs.crossed_sparsity(seen, [6, 5])
    np.testing.assert_allclose(got, [[0], [2 / 15]])

  def test_front(self):
    cost, score = [1, 2, 3, 3, 4, 2], [0.1, 0.5, 0.4, 0.9, 0.9, 0.5]
    want = [True, True, False, True, False, True]
    self.assertEqual(costs.pareto(cost, score).tolist(), want)


class SafetyTest(absltest.TestCase):
  def test_bound_is_that_of_the_normal_law(self):
    draw = np.random.default_rng(1)
    dense = (draw.random(900) < 0.9).astype(float)
    sparse = np.where(draw.random(900) < 0.06, 1 - dense, dense)
    loss = dense - sparse
    want = loss.mean() + 1.645 * loss.std() / math.sqrt(900)
    got = statistics.loss_bound(dense, sparse, draws=4000)
    self.assertAlmostEqual(got, want, delta=1.5e-3)
    self.assertLess(statistics.loss_bound(dense, sparse, level=0.5), got)

  def test_largest_that_is_safe(self):
    dense = np.ones(2000)
    lost = {0.5: 0, 0.75: 6, 0.9: 14, 0.95: 30}  # the margin is 20
    sparse = {s: np.arange(2000) >= n for s, n in lost.items()}
    options = {"draws": 2000}
    self.assertEqual(statistics.max_safe_sparsity(dense, sparse, **options), 0.9)
    tight = statistics.max_safe_sparsity(dense, sparse, margin=0.005, **options)
    self.assertEqual(tight, 0.75)
    none = statistics.max_safe_sparsity(dense, {0.95: sparse[0.95]}, **options)
    self.assertEqual(none, 0.0)

  def test_samples_are_paired_and_enough(self):
    dense = np.random.default_rng(0).integers(0, 2, 60).astype(float)
    options = {"draws": 500}
    self.assertEqual(statistics.max_safe_sparsity(dense, {0.9: dense}, **options), 0.9)
    # As good in the mean, but other samples are right: sixty of them prove nothing.
    other = {0.9: dense[::-1]}
    self.assertEqual(statistics.max_safe_sparsity(dense, other, **options), 0.0)
    with self.assertRaisesRegex(ValueError, r"\(60,\) and \(9,\)"):
      statistics.max_safe_sparsity(dense, {0.9: dense[:9]})


class LawTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    grid = np.meshgrid([1e5, 1e6, 1e7], [128, 256, 512], [0.0, 0.5, 0.9], [0, 1])
    self.P, self.L, self.s, task = (x.ravel() for x in grid)
    self.task = np.array(["needle", "chains"])[task.astype(int)]
    self.logs = np.log(self.P), np.log(self.L), -np.log(1 - self.s)

  @parameterized.parameters(False, True)
  def test_finds_what_it_is_made_of(self, interactions):
    P, L, s = self.logs
    logit = np.where(self.task == "needle", 1.5, 0.5) + 0.2 * P - 0.6 * L - 0.7 * s
    if interactions:
      logit = logit + 0.02 * P * L + 0.01 * P * s - 0.03 * L * s
    accuracy = 1 / (1 + np.exp(-logit))
    out = statistics.held_out(self.P, self.L, self.s)
    given = self.task, self.P, self.L, self.s
    task, P, L, s = (x[~out] for x in given)
    law = statistics.fit_logit_linear(
      task, P, L, s, accuracy[~out], interactions=interactions
    )
    if not interactions:  # with so few points the products' factors are not unique
      np.testing.assert_allclose(law.factors, [0.2, -0.6, -0.7], rtol=1e-6)
      self.assertEqual(law.tasks, ("chains", "needle"))
      np.testing.assert_allclose(law.constants, [0.5, 1.5], rtol=1e-6)
    found = law.predict(*(x[out] for x in given))
    np.testing.assert_allclose(found, accuracy[out], rtol=1e-4)
    r2, mae = statistics.errors(found, accuracy[out])
    self.assertGreater(r2, 0.999)
    self.assertLess(mae, 1e-4)

  def test_accuracies_at_the_ends(self):
    law = statistics.fit_logit_linear(
      ["a", "b"], [1e6, 1e6], [128, 128], [0.0, 0.0], [1.0, 0.0]
    )
    found = law.predict(["a", "b"], [1e6, 1e6], [128, 128], [0.0, 0.0])
    np.testing.assert_allclose(found, [0.99, 0.01], rtol=1e-6)
    with self.assertRaisesRegex(ValueError, "tasks .'c'. were not fitted.*a, b"):
      law.predict(["c"], [1e6], [128], [0.0])
    with self.assertRaisesRegex(ValueError, "sparsity = 1.0"):
      law.predict(["a"], [1e6], [128], [1.0])

  def test_errors_by_hand(self):
    r2, mae = statistics.errors([0.5, 0.5, 0.8], [0.4, 0.6, 0.8])
    self.assertAlmostEqual(r2, 1 - 0.02 / 0.08)
    self.assertAlmostEqual(mae, 0.2 / 3)

  def test_what_is_held_out(self):
    got = statistics.held_out([1, 2, 1, 1], [5, 5, 6, 5], [0.0, 0.0, 0.0, 0.5])
    self.assertEqual(got.tolist(), [False, True, True, True])


if __name__ == "__main__":
  absltest.main()
