"""Kinetics: costs by hand and by brute force, the law's shift, and block top-k."""

import dataclasses
import functools
import inspect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract, policies
from attnjax.models import language
from attnjax.variants.decode import kinetics
from attnjax.variants.decode.kinetics import costs

_SIZE = costs.Size(1e9, 16, 4, 100.0)


class CostsTest(parameterized.TestCase):
  def test_reads_are_the_sum_over_queries(self):
    C, b, t = np.meshgrid(*[np.arange(61)] * 2, np.arange(1, 61), indexing="ij")
    sums = np.cumsum(np.minimum(C + t, b), axis=2)
    got = costs.reads(C, t, b, rule="sum")
    np.testing.assert_allclose(got, sums)
    # The integrand is linear between whole numbers: the middle is its mean.
    areas = np.cumsum(np.minimum(C + t - 0.5, b), axis=2)
    np.testing.assert_allclose(costs.reads(C, t, b), areas)

  def test_released_reads(self):
    # C = 10, G = 20, b = 15: five queries read less than b.
    self.assertEqual(costs.reads(10, 20, 15), 15 * 20 - 25 / 2)
    self.assertEqual(costs.reads(10, 20, 15, rule="released_topk"), 300 + 25 / 2)
    self.assertEqual(costs.reads(10, 20, 15, rule="released_block"), 300 - 25 / 2)
    self.assertEqual(costs.reads(10, 20, 50, rule="released_block"), 1000 - 800)
    with self.assertRaisesRegex(ValueError, "rule 'integrals'"):
      costs.reads(1, 2, 3, rule="integrals")

  def test_dense_by_hand(self):
    compute, memory = costs.dense(_SIZE, 200, 50, 3)
    self.assertAlmostEqual(compute * 1e12, 3 * (1e11 + 2 * 450 * 50 * 1600))
    self.assertAlmostEqual(memory * 1e12, 2 * (400 + 150) * 50 * 400)
    read = costs.dense(_SIZE, 200, 50, 3, batch=8).memory - memory
    self.assertAlmostEqual(read * 1e12, 2 * 1e9 * 50 * 3 / 8)
    self.assertAlmostEqual(costs.eflops(costs.Cost(2.0, 3.0)), 2 + 562.5 * 3)
    self.assertEqual(costs.eflops(costs.Cost(2.0, 3.0), 0), 2.0)

  def test_trials_add_up_but_for_the_prompt(self):
    one, five = (costs.dense(_SIZE, 200, 50, n) for n in (1, 5))
    self.assertAlmostEqual(five.compute, 5 * one.compute)
    shared = 4 * 200 * 50 * 400 / 1e12
    self.assertAlmostEqual(five.memory, 5 * one.memory - 4 * shared)
    one, five = (costs.topk(_SIZE, 200, 50, n, budget=64) for n in (1, 5))
    np.testing.assert_allclose(five, 5 * np.array(one))

  def test_parameters_are_read_once_for_a_batch(self):
    for options in ({}, {"rule": "released_block"}):
      free, read = (
        costs.topk(_SIZE, 200, 50, 3, budget=64, batch=batch, **options)
        for batch in (0, 8)
      )
      self.assertAlmostEqual((read.memory - free.memory) * 1e12, 2e9 * 50 * 3 / 8)
      self.assertEqual(read.compute, free.compute)

  def test_a_further_token_costs_what_it_reads(self):
    low, high = (costs.dense(_SIZE, 200, 50 + e) for e in (-0.5, 0.5))
    self.assertAlmostEqual((high.compute - low.compute) * 1e12, 2e9 + 4 * 250 * 1600, 0)
    self.assertAlmostEqual((high.memory - low.memory) * 1e12, 4 * 250 * 400, 2)

  def test_a_budget_for_everything_is_dense(self):
    want = costs.dense(_SIZE, 200, 50)
    np.testing.assert_allclose(costs.topk(_SIZE, 200, 50, budget=250), want)
    np.testing.assert_allclose(costs.topk(_SIZE, 200, 50, budget=900), want)

  def test_blocks_by_hand(self):
    sizes = {"local": 20, "block": 8, "blocks": 3}
    got = costs.block_topk(_SIZE, 100, 50, 2, **sizes)
    found = costs.topk(_SIZE, 100, 50, 2, budget=44)
    searched = 2 * 31 * 50 * 1600, 37 * 50 * 400
    np.testing.assert_allclose(got, np.add(found, np.divide(searched, 1e12)))

  def test_numbers_of_the_sweep(self):
    sizes = costs.qwen3()
    np.testing.assert_allclose(sizes["4B"], (4.02e9, 32, 8, 128 * 36))
    whole = {n: costs.eflops(costs.dense(s, 200, 4096)) for n, s in sizes.items()}
    share = [1 - 2 * s.parameters * 4096 / 1e12 / whole[n] for n, s in sizes.items()]
    np.testing.assert_allclose(share, [0.99, 0.97, 0.96, 0.92, 0.88, 0.84], atol=5e-3)
    large = sizes["32B"], 200, 32768
    self.assertAlmostEqual(costs.eflops(costs.dense(*large)), 83400, delta=50)
    self.assertAlmostEqual(costs.eflops(costs.block_topk(*large)), 10900, delta=50)

  def test_memory_moves_the_best_to_larger_models(self):
    # The success of a model in G tokens, invented.
    tokens = np.geomspace(128, 32768, 200)
    sizes = list(costs.qwen3().values())
    P = np.array([size.parameters for size in sizes])[:, None]
    right = 1 / (1 + (P / 2e9) ** -0.9)
    right = right * (1 - np.exp(-tokens / (9000 * (P / 4e9) ** -0.25)))
    dense = [costs.dense(size, 200, tokens) for size in sizes]
    sparse = [
      costs.block_topk(size, 200, tokens, local=64, blocks=16) for size in sizes
    ]
    flops, full, less = (
      np.stack([costs.eflops(cost, intensity) for cost in which])
      for which, intensity in ((dense, 0), (dense, 562.5), (sparse, 562.5))
    )
    for wanted in np.linspace(0.02, 0.7, 18):
      by_flops, by_all = (
        np.unravel_index(np.where(right >= wanted, cost, np.inf).argmin(), cost.shape)
        for cost in (flops, full)
      )
      self.assertGreaterEqual(by_all[0], by_flops[0], wanted)
    points = [list(zip(cost.ravel(), right.ravel())) for cost in (full, less)]
    dense_best, sparse_best = (costs.frontier(p, [300, 1000]) for p in points)
    np.testing.assert_allclose(dense_best, [0.23, 0.40], atol=0.01)
    self.assertTrue((sparse_best > dense_best + 0.1).all())


class SamplesTest(parameterized.TestCase):
  def test_coverage_is_that_of_all_subsets(self):
    right = [True] * 2 + [False] * 4
    for n in range(7):
      sets = list(itertools.combinations(right, n))
      want = sum(map(any, sets)) / math.comb(6, n)
      self.assertAlmostEqual(float(kinetics.coverage(2, 6, n)), want)
    np.testing.assert_allclose(kinetics.coverage([0, 3, 6], 6, 1), [0, 0.5, 1])
    for r, n in ((7, 1), (2, 7), (-1, 2)):
      with self.assertRaisesRegex(ValueError, f"r = {r}, n = {n}"):
        kinetics.coverage(r, 6, n)

  def test_frontier(self):
    points = [(1.0, 0.2), (2.0, 0.1), (3.0, 0.7)]
    got = kinetics.frontier(points, [0.5, 2.0, 3.0])
    np.testing.assert_array_equal(got, [np.nan, 0.2, 0.7])

  def test_cut_traces(self):
    traces = [[False, True, True], [False, False]]
    self.assertEqual(kinetics.truncated(traces, 1, float), (1.0, 0.0))
    self.assertEqual(kinetics.truncated(traces, 3, lambda n: 2.0 * n), (5.0, 0.5))
    with self.assertRaisesRegex(ValueError, "length = 0"):
      kinetics.truncated(traces, 0, float)


class SelectionTest(parameterized.TestCase):
  def test_defaults_are_the_papers(self):
    policy = kinetics.Policy()
    sizes = policy.blocks, policy.block, policy.local, policy.sink
    self.assertEqual((sizes, policy.dense_layers), ((64, 16, 256, 4), (0,)))

  def test_defaults_of_functions_are_the_policys(self):
    own = dataclasses.asdict(kinetics.Policy())
    for function in (kinetics.attend, kinetics.select_blocks, costs.block_topk):
      given = inspect.signature(function).parameters
      shared = [n for n in given if n in own and given[n].default is not given[n].empty]
      self.assertEqual(
        {n: given[n].default for n in shared}, {n: own[n] for n in shared}, function
      )
    self.assertIn("local", inspect.signature(kinetics.attend).parameters)

  def test_what_a_policy_reads(self):
    policy = kinetics.Policy(blocks=2, block=4, local=4, sink=3)
    # 15 tokens, rounded up to 16, are read whole; of 17 two blocks fit, of 19 three.
    self.assertEqual(policy.reads(16, 3), (48, 0))
    self.assertEqual(policy.reads(17, 3), (51, 4))
    self.assertEqual(policy.reads(22, 3), (22 + 2 * 18, 6))
    scores = jnp.arange(10.0)[None, None]
    for n in (16, 17, 19, 22):
      _, real = kinetics.select_blocks(
        scores, jnp.array([n]), blocks=2, block=4, local=4, sink=3
      )
      self.assertEqual(int(real.sum()), policy.reads(n, 2)[0] - n, n)

  @parameterized.parameters(
    ({"blocks": -1}, "blocks = -1"),
    ({"block": 0}, "block = 0"),
    ({"local": 0}, "local = 0"),
    ({"sink": -1}, "sink = -1"),
  )
  def test_policies_that_do_not_fit(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      kinetics.Policy(**options)

  def test_layers_that_the_model_lacks(self):
    with self.assertRaisesRegex(ValueError, "dense_layers .3. of a model of 3"):
      kinetics.Policy(dense_layers=(0, 3)).fitted(3)

  def test_pooled_keys_score_as_logits_do(self):
    draw = np.random.default_rng(0).standard_normal
    q, k = (jnp.asarray(draw(s), jnp.float32) for s in ((2, 4, 8), (2, 15, 2, 8)))
    logits = jnp.einsum("bkgh,bskh->bkgs", q.reshape(2, 2, 2, 8), k)
    want = kinetics.pooled_logits(logits.reshape(2, 4, 15), 2, block=4, sink=2)
    pooled = k[:, 2:14].reshape(2, 3, 4, 2, 8).mean(axis=2)
    np.testing.assert_allclose(
      kinetics.block_scores(q, pooled), want, rtol=1e-5, atol=1e-6
    )


def _chosen(score, policy):
  """Returns which of the tokens a key head's group reads, from its mean logits."""
  n, s = len(score), policy.block
  whole = policy.sink + policy.local + policy.blocks * s
  if n <= -(-whole // s) * s:
    return np.ones(n, bool)
  count = (n - policy.sink - policy.local) // s
  start = [policy.sink + j * s for j in range(count)]
  best = sorted(range(count), key=lambda j: -score[start[j] : start[j] + s].mean())
  kept = np.zeros(n, bool)
  kept[: policy.sink] = kept[policy.sink + count * s :] = True
  for j in best[: policy.blocks]:
    kept[start[j] : start[j] + s] = True
  return kept


class DecodingTest(absltest.TestCase):
  def test_is_recomputed_from_whole_matrices(self):
    policy = kinetics.Policy(blocks=1, block=3, local=2, sink=1)
    model = _model()
    tokens = jax.random.randint(jax.random.key(3), (2, 22), 0, 11)
    got = _decoded(policy, model, tokens)
    for row in range(2):
      want = _recomputed(model, tokens[row], policy)
      np.testing.assert_allclose(got[:, row], want, rtol=2e-4, atol=2e-4)


@jax.jit
def _model():
  options = {"heads": 4, "kv_heads": 2}
  build = contract.constructor("dot_product", options, language.FORMS)
  sizes = {"dim": 16, "depth": 3, "mlp_ratio": 0.0, "vocab": 11}
  model = language.Model([build], **sizes, rngs=nnx.Rngs(0))
  return jax.tree.map(lambda leaf: 12 * leaf if leaf.ndim > 2 else leaf, model)


@functools.partial(jax.jit, static_argnums=0)
def _decoded(policy, model, tokens):
  cache = policies.under(policy, model.init_cache(*tokens.shape), prompt=4)

  def one(cache, token):
    logits, cache = model.step(token[:, None], cache)
    return cache, logits[:, 0]

  return jax.lax.scan(one, cache, tokens.T)[1]


def _recomputed(model, tokens, policy):
  """Returns the logits (T, vocab) of a row, each layer's weights a whole matrix."""
  x, T = model.embed.embedding[...][tokens][None], len(tokens)
  for index, _, block, _ in model.stack.each():
    heads = block.mixer.project(block.norm(x), index=index)
    q, k, v = (np.asarray(y, np.float64)[0] for y in (heads.q, heads.k, heads.v))
    out = np.zeros((1, T, 4, 4))
    for t in range(T):
      for n in range(4):
        group = [m for m in range(4) if m // 2 == n // 2]
        logits = np.stack([k[: t + 1, n // 2] @ q[t, m] for m in group])
        kept = np.ones(t + 1, bool)
        if index and t >= 4:
          kept = _chosen(logits.mean(axis=0), policy)
        weight = np.exp((k[: t + 1, n // 2] @ q[t, n]) / 2) * kept
        out[0, t, n] = weight / weight.sum() @ v[: t + 1, n // 2]
    x = x + block.mixer.merge(jnp.asarray(out, jnp.float32), heads)
  return model._logits(x)[0]


if __name__ == "__main__":
  absltest.main()
