"""The Sparse Frontier: patterns and policies from whole matrices, and their rules."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract, policies
from attnjax.core import masks
from attnjax.core.cache import KeyValueCache
from attnjax.variants.decode import sparse_frontier as frontier
from attnjax.variants.decode.sparse_frontier import compression, pages, patterns, snapkv

_ROW, _PROMPT, _GROUP = 27, 15, 2
_KEEP = {"capacity": 7, "window": 4, "pool": 3, "local": 2, "first": 1}


def _arrays(B=2, T=33, N=4, K=2, H=8, seed=0):
  draw = np.random.default_rng(seed).standard_normal
  shapes = (B, T, N, H), (B, T, K, H), (B, T, K, H)
  return [jnp.asarray(draw(shape), jnp.float32) for shape in shapes]


def _run(function, *arrays, **options):
  return jax.jit(functools.partial(function, **options))(*arrays)


def _softmax(score):
  weight = np.exp(score - score.max(axis=-1, keepdims=True))
  return weight / weight.sum(axis=-1, keepdims=True)


def _largest(score, count, among=None):
  """Returns the numbers of the greatest scores, a set."""
  order = sorted(range(len(score)) if among is None else among, key=lambda i: -score[i])
  return set(order[: max(count, 0)])


def _quest(q, k, t, policy):
  """Returns what each head sees of keys (S, K, H) at place t, by its pages' corners."""
  current, seen = t // policy.page, []
  groups: dict[int, np.ndarray] = {}
  for n in range(len(q)):
    bound = np.zeros(current)
    for page in range(current):
      own = k[page * policy.page : (page + 1) * policy.page, n // _GROUP]
      bound[page] = sum(max(x * y for y in own[:, d]) for d, x in enumerate(q[n]))
    groups[n // _GROUP] = groups.get(n // _GROUP, 0) + bound
    seen.append(bound)
  if policy.share_pages:
    seen = [groups[n // _GROUP] for n in range(len(q))]
  chosen = [_largest(bound, policy.budget // policy.page) for bound in seen]
  own = [c | {current} for c in chosen]
  return [[s for s in range(t + 1) if s // policy.page in c] for c in own]


def _importance(q, k, policy, adaptive):
  """Returns the importance (K, P) of keys (P, K, H), by queries (P, N, H)."""
  P, (N, H) = len(k), q.shape[1:]
  weight = np.zeros((N, P, P))
  for n in range(N):
    for t in range(P - policy.window, P):
      weight[n, t, : t + 1] = _softmax(k[: t + 1, n // _GROUP] @ q[t, n] / H**0.5)
  group = weight.reshape(-1, _GROUP, P, P)
  mass = group.max(axis=(1, 2)) if adaptive else group.mean(axis=1).sum(axis=1)
  half = policy.pool // 2
  padded = np.pad(mass, ((0, 0), (half, half)))
  return sum(padded[:, i : i + P] for i in range(policy.pool)) / policy.pool


def _kept(q, k, policy):
  """Returns the set of kept places of each key head, of a prompt."""
  adaptive, P = isinstance(policy, frontier.AdaSnapKV), len(k)
  score = _importance(q, k, policy, adaptive)
  score[:, : policy.first] = score[:, P - policy.local :] = np.inf
  if not adaptive:
    return [_largest(row, policy.capacity) for row in score]
  least = max(int(policy.capacity * policy.floor), policy.local + policy.first)
  kept = [_largest(row, least) for row in score]
  rest = [(h, s) for h, own in enumerate(kept) for s in range(P) if s not in own]
  rest.sort(key=lambda pair: -score[pair])
  for head, place in rest[: len(kept) * (policy.capacity - least)]:
    kept[head].add(place)
  return kept


def _recomputed(layer, x, policy):
  """Returns the outputs of one row's later tokens, from whole matrices in NumPy."""
  heads = layer.project(x)
  q, k, v = (np.asarray(y[0], np.float64) for y in (heads.q, heads.k, heads.v))
  out, (T, N, H) = np.zeros(q.shape), q.shape
  quest = isinstance(policy, frontier.Quest)
  kept = [] if quest else _kept(q[:_PROMPT], k[:_PROMPT], policy)
  for t in range(T):
    seen = [range(t + 1)] * N
    if t >= _PROMPT and quest:
      seen = _quest(q[t], k, t, policy)
    elif t >= _PROMPT:
      later = range(max(_PROMPT, t + 1 - (policy.room or T)), t + 1)
      seen = [[*sorted(kept[n // _GROUP]), *later] for n in range(N)]
    for n in range(N):
      own = list(seen[n])
      weight = _softmax(k[own, n // _GROUP] @ q[t, n] / H**0.5)
      out[t, n] = weight @ v[own, n // _GROUP]
  return layer.merge(jnp.asarray(out[None], jnp.float32), heads)[0]


@functools.partial(jax.jit, static_argnums=0)
def _decoded(policy, layer, x):
  cache = policies.under(policy, layer.init_cache(*x.shape[:2]), prompt=_PROMPT)

  def one(cache, token):
    y, cache = layer.step(token[:, None], cache)
    return cache, y[:, 0]

  return jax.lax.scan(one, cache, x.swapaxes(0, 1))[1].swapaxes(0, 1)


class PoliciesTest(parameterized.TestCase):
  def test_places_are_real_up_to_the_most_of_any_head(self):
    sizes = {"capacity": 4, "window": 1, "local": 0, "first": 0, "room": 0}
    own = snapkv.Compressed(
      queries=None,
      done=None,
      start=jnp.array([5, 2]),
      kept=jnp.array([[1, 3], [2, 2]]),
      places=jnp.array([[[4, 9, 9, 9], [0, 2, 3, 9]], [[0, 1, 9, 9]] * 2]),
      count=None,
    )
    got = snapkv.SnapKV(**sizes)._choice(own, jnp.array([7, 3]), 8)
    chosen = [
      [p[r].tolist() for p, r in zip(*row)] for row in zip(got.places, got.real)
    ]
    self.assertEqual(chosen, [[[4, 5, 6], [0, 2, 3, 5, 6]], [[0, 1, 2]] * 2])
    self.assertEqual(int(got.upto), 5)

  @parameterized.parameters(
    frontier.Quest(budget=6, page=3),
    frontier.Quest(budget=8, page=4, share_pages=False),
    frontier.SnapKV(**_KEEP),
    frontier.SnapKV(**_KEEP, room=5),
    frontier.AdaSnapKV(**_KEEP, room=3),
  )
  def test_decoding_is_recomputed_from_whole_matrices(self, policy):
    options = {"heads": 2 * _GROUP, "kv_heads": 2, "rope_theta": 0.0}
    layer: Any = contract.load("dot_product").Layer(
      12, form="causal", **options, rngs=nnx.Rngs(1)
    )
    layer = jax.tree.map(lambda leaf: 8 * leaf, layer)
    x = jax.random.normal(jax.random.key(2), (1, _ROW, 12))
    got = _decoded(policy, layer, x)[0]
    np.testing.assert_allclose(got, _recomputed(layer, x, policy), rtol=2e-4, atol=2e-4)

  def test_defaults_are_the_papers(self):
    quest, snap, ada = frontier.Quest(), frontier.SnapKV(), frontier.AdaSnapKV()
    self.assertEqual((quest.budget, quest.page, quest.share_pages), (1024, 16, True))
    for policy in (snap, ada):
      sizes = policy.capacity, policy.window, policy.pool, policy.local, policy.first
      self.assertEqual(sizes, (1024, 256, 21, 128, 4))
    self.assertEqual(ada.floor, 0.2)
    self.assertEqual(compression.least(1024, 128, 4, 0.2), 204)
    self.assertEqual(compression.least(512, 128, 4, 0.2), 132)
    block, cross = frontier.BlockSparse(), frontier.VerticalSlash()
    flex = frontier.FlexPrefill()
    self.assertEqual(
      frontier.METHODS,
      {
        "block_sparse": type(block),
        "vertical_slash": type(cross),
        "flexprefill": type(flex),
      },
    )
    self.assertEqual((block.block, block.blocks), (16, 64))
    always = (4, 64)
    self.assertEqual((cross.window, cross.verticals, cross.slashes), (256, 512, 512))
    self.assertEqual((cross.first, cross.near), always)
    self.assertEqual((flex.window, flex.alpha, flex.least), (512, 0.65, 512))
    self.assertEqual((flex.first, flex.near), always)

  def test_what_is_read(self):
    quest = frontier.Quest(budget=64, page=16)
    # 100 tokens: six whole pages before the seventh, which has four tokens.
    self.assertEqual(quest.reads(100, 3), (3 * (64 + 4), 3 * 2 * 6))
    self.assertEqual(quest.reads(80, 3), (3 * 80, 0))
    snap = frontier.SnapKV(capacity=140)
    self.assertEqual(snap.reads(101, 2), (2 * 101, 0))
    self.assertEqual(snap.reads(301, 2), (2 * 141, 0))
    self.assertEqual(frontier.BlockSparse().reads(301, 2), (602, 0))

  @parameterized.parameters(
    (frontier.SnapKV, 0), (frontier.SnapKV, 3), (frontier.AdaSnapKV, 0)
  )
  def test_what_is_read_after_a_prompt_is_what_is_chosen(self, kind, room):
    policy, prompt = kind(**_KEEP, room=room), 12
    q, k, _ = _arrays(T=20)
    tokens = KeyValueCache.empty(2, 20, (2, 8), (2, 8), jnp.float32, 4)
    cache = policies.under(policy, tokens)

    @jax.jit
    def step(cache, q, k):
      cache, past = cache.appended(q, k, k, jnp.zeros(q.shape[:2], jnp.int32))
      choice, own, _ = cache.policy.choose(q[:, -1], past, cache.own, (), 0)
      return cache, dataclasses.replace(cache, own=own), choice.real.sum(axis=2)

    cache, _, _ = step(cache, q[:, :prompt], k[:, :prompt])
    for t in range(prompt, 17):
      _, cache, read = step(cache, q[:, t : t + 1], k[:, t : t + 1])
      want, none = policy.decoded_reads(prompt, t + 1, 1)
      self.assertEqual((read.mean(axis=1).tolist(), none), ([want, want], 0))
    self.assertEqual(policy.decoded_reads(5, 7, 3), (3 * (5 + 2), 0))

  def test_a_share_of_the_keys(self):
    half = frontier.Quest().of_fraction(0.5, 200)
    self.assertEqual((half.budget, half.page), (80, 16))  # and 16 of the current page
    self.assertEqual(frontier.Quest().of_fraction(0.1, 200).page, 5)
    half = frontier.AdaSnapKV(floor=0.3).of_fraction(0.5, 200)
    want = frontier.AdaSnapKV(capacity=99, local=12, first=4, floor=0.3)
    self.assertEqual(half, want)
    half = frontier.BlockSparse().of_fraction(0.5, 200)
    self.assertEqual((half.block, half.blocks), (16, 4))
    # Of 13 blocks, the last one of 8: pairs within blocks, and with earlier ones.
    pairs = 12 * 136 + 36 + 16 * 16 * (1 + 2 + 9 * 3) + 8 * 16 * 3
    self.assertEqual(half.prompt_reads(200, 2), (2 * pairs, 2 * 13 * 7))
    half = frontier.VerticalSlash().of_fraction(0.5, 200)
    self.assertEqual((half.verticals, half.slashes), (29, 29))
    self.assertEqual((half.first, half.near), (4, 3))
    pairs = 58 * 59 / 2 + 142 * 58
    self.assertEqual(half.prompt_reads(200, 1), (pairs, 200 * 201 / 2))
    few = frontier.VerticalSlash(window=10).prompt_reads(200, 1)
    self.assertEqual(few, (200 * 201 / 2, 10 * 195.5))

  @parameterized.parameters(
    (frontier.Quest, {"budget": 20}, "budget = 20, page = 16.*whole number"),
    (frontier.Quest, {"page": 0}, "page = 0"),
    (frontier.SnapKV, {"capacity": 100}, "capacity = 100.*132 keys"),
    (frontier.SnapKV, {"pool": 4}, "pool = 4.*odd"),
    (frontier.SnapKV, {"window": 0}, "window = 0"),
    (frontier.SnapKV, {"local": -1}, "local = -1"),
    (frontier.SnapKV, {"room": -1}, "room = -1"),
    (frontier.AdaSnapKV, {"floor": 1.5}, "floor = 1.5"),
    (frontier.AdaSnapKV, {"pool": 2}, "pool = 2"),
    (frontier.BlockSparse, {"blocks": 2}, "blocks = 2.*always chosen"),
    (frontier.VerticalSlash, {"slashes": 63}, "slashes = 63.*near = 64"),
    (frontier.VerticalSlash, {"verticals": 3}, "verticals = 3.*first = 4"),
    (frontier.VerticalSlash, {"near": 0}, "near = 0.*sees itself"),
    (frontier.FlexPrefill, {"alpha": 1.1}, "alpha = 1.1"),
    (frontier.FlexPrefill, {"least": 60}, "least = 60.*near = 64"),
    (frontier.FlexPrefill, {"rounded": 0}, "rounded = 0"),
  )
  def test_policies_that_do_not_fit(self, kind, options, message):
    with self.assertRaisesRegex(ValueError, message):
      kind(**options)

  def test_heads_that_the_layer_does_not_tell(self):
    held = KeyValueCache.empty(1, 9, (2, 4), (2, 4), jnp.float32)
    with self.assertRaisesRegex(NotImplementedError, "SnapKV keeps queries.*`group`"):
      policies.under(frontier.SnapKV(**_KEEP), held)
    cache = policies.under(frontier.SnapKV(**_KEEP, group=3), held)
    self.assertEqual(cache.own.queries.shape, (1, 5, 6, 4))


class PatternsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("block_sparse", {"block": 4, "blocks": 9}),
    ("vertical_slash", {"verticals": 33, "slashes": 2, "near": 2}),
    ("vertical_slash", {"verticals": 4, "slashes": 33, "near": 2}),
    ("flexprefill", {"alpha": 1.0, "least": 4, "near": 4}),
  )
  def test_full_budgets_are_dense(self, method, options):
    q, k, v = _arrays()
    got = _run(frontier.attend, q, k, v, method=method, **options)
    want = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

  def test_unknown_names(self):
    q, k, v = _arrays()
    with self.assertRaisesRegex(ValueError, "method 'block'.*block_sparse"):
      frontier.attend(q, k, v, method="block")
    with self.assertRaisesRegex(ValueError, "option of block_sparse 'alpha'"):
      frontier.attend(q, k, v, method="block_sparse", alpha=0.5)
    with self.assertRaisesRegex(ValueError, "33 queries and 9 keys"):
      frontier.attend(q, k[:, :9], v[:, :9])

  def test_blocks_by_hand(self):
    # One-hot means: block i of queries has the product 2 j - j^2 / 8 with block j.
    n, block = 8, 2
    j = np.arange(n)
    key = np.repeat(np.stack([j, -(j**2) / 8], axis=1), block, axis=0)
    q = jnp.tile(jnp.array([2.0, 1.0]), (1, n * block, 1, 1))
    k = jnp.asarray(key, jnp.float32)[None, :, None]
    got = _run(patterns.block_sparse, q, k, block=block, blocks=4).map()[0, 0]
    want = {0: {0}, 2: {0, 1, 2}, 4: {0, 2, 3, 4}, 6: {0, 4, 5, 6}, 7: {0, 5, 6, 7}}
    for i, blocks in want.items():
      self.assertEqual(set(np.flatnonzero(got[i]).tolist()), blocks)
    # With the greatest product at block 3, it is the one that is free to be chosen.
    k = k.at[:, 6:8].set(9.0)
    got = _run(patterns.block_sparse, q, k, block=block, blocks=4).map()[0, 0]
    self.assertEqual(np.flatnonzero(got[7]).tolist(), [0, 3, 6, 7])
    self.assertEqual(np.flatnonzero(got[2]).tolist(), [0, 1, 2])

  @parameterized.parameters(1, 5)
  def test_what_is_always_chosen(self, seed):
    q, k, _ = _arrays(T=40, seed=seed)
    sizes = {"window": 6, "first": 3, "near": 5}
    for verticals, slashes in (
      _run(patterns.vertical_slash, q, k, verticals=7, slashes=8, **sizes),
      _run(patterns.flexprefill, q, k, least=5, alpha=0.2, **sizes),
    ):
      verticals, slashes = np.asarray(verticals), np.asarray(slashes)
      self.assertTrue(verticals[..., :3].all())
      self.assertTrue(slashes[..., :5].all())
      self.assertTrue((verticals.sum(axis=-1) < 40).all())
    verticals, slashes = _run(
      patterns.vertical_slash, q, k, verticals=7, slashes=8, **sizes
    )
    np.testing.assert_array_equal(verticals.sum(axis=-1), 7)
    np.testing.assert_array_equal(slashes.sum(axis=-1), 8)

  def test_slashes_are_summed_along_distances(self):
    # The last three queries of seven attend to the key four before them.
    T, far = 7, 4
    eye = 40 * jnp.eye(T)[None, :, None]
    q = jnp.roll(eye, far, axis=1)
    given = {"window": 3, "verticals": 1, "slashes": 2, "first": 0, "near": 1}
    choose = jax.jit(functools.partial(patterns.vertical_slash, **given))
    verticals, slashes = choose(q, jnp.eye(T)[None, :, None])
    self.assertEqual(np.flatnonzero(slashes[0, 0]).tolist(), [0, far])
    self.assertEqual(np.flatnonzero(verticals[0, 0]).tolist(), [0])
    # All three attend to the key 1.
    q = jnp.broadcast_to(eye[:, 1:2], q.shape)
    verticals, _ = choose(q, jnp.eye(T)[None, :, None])
    self.assertEqual(np.flatnonzero(verticals[0, 0]).tolist(), [1])

  def test_flexprefill_in_numpy(self):
    q, k, _ = _arrays(T=30, seed=3)
    sizes = {"window": 5, "least": 2, "alpha": 0.6, "first": 1, "near": 2}
    chosen = _run(patterns.flexprefill, q, k, **sizes)
    q, k = (np.asarray(x, np.float64) for x in (q, k))
    counts = np.zeros((2, 2, 4), int)
    for b, n in np.ndindex(2, 4):
      keys, distances = np.zeros(30), np.zeros(30)
      for t in range(25, 30):
        weight = _softmax(k[b, : t + 1, n // 2] @ q[b, t, n] / 8**0.5) / 5
        keys[: t + 1] += weight
        distances[: t + 1] += weight[::-1]
      for which, mass in enumerate((keys, distances)):
        total = np.cumsum(np.sort(mass)[::-1])
        number = max(int(np.argmax(total > 0.6)) + 1, 2)
        always = (1, 2)[which]
        rest = _largest(mass, number - always, range(always, 30))
        got = set(np.flatnonzero(chosen[which][b, n]).tolist())
        self.assertEqual(got, rest | set(range(always)))
        counts[which, b, n] = number
    self.assertGreater(len(set(counts[0].ravel())), 1)

  def test_flexprefill_grows_with_its_share(self):
    q, k, _ = _arrays(T=40, seed=4)
    sizes = {"window": 6, "least": 3, "first": 1, "near": 2}
    before: Any = 0
    for alpha in (0.0, 0.5, 0.8, 1.0):
      found = _run(patterns.flexprefill, q, k, alpha=alpha, **sizes)
      both = np.stack(found).sum(axis=-1)
      self.assertTrue((both >= before).all())
      if alpha == 0.0:
        self.assertTrue((both == 3).all())
      before = both
    self.assertTrue((before[0] > 30).all())

  def test_what_is_seen_by_hand(self):
    verticals = jnp.zeros((1, 1, 6), bool).at[..., 1].set(True)
    slashes = jnp.zeros((1, 1, 6), bool).at[..., jnp.array([0, 3])].set(True)
    got = _run(patterns.seen, verticals, slashes)[0, 0].astype(int)
    want = ["100000", "010000", "011000", "110100", "010010", "011001"]
    self.assertEqual(["".join(map(str, row)) for row in got.tolist()], want)
    # Queries 0 and 1 end at 1, 2 and 3 at 3: a slash o takes the keys e - o - 1, e - o.
    got = _run(patterns.seen, verticals, slashes, rounded=2)[0, 0].astype(int)
    want = ["100000", "110000", "111000", "111100", "011010", "011011"]
    self.assertEqual(["".join(map(str, row)) for row in got.tolist()], want)

  @parameterized.parameters("block_sparse", "vertical_slash", "flexprefill")
  def test_a_padded_row_is_the_row_alone(self, method):
    options = {
      "block_sparse": {"block": 4, "blocks": 3},
      "vertical_slash": {"window": 5, "verticals": 4, "slashes": 5, "near": 2},
      "flexprefill": {"window": 5, "least": 4, "near": 2, "alpha": 0.4},
    }[method]
    q, k, v = _arrays(T=33)
    run = jax.jit(functools.partial(frontier.attend, method=method, **options))
    lengths = jnp.array([33, 19])
    bad = [x.at[1, 19:].set(jnp.nan) for x in (q, k, v)]
    got = run(*bad, lengths=lengths)
    alone = run(*(x[1:, :19] for x in (q, k, v)))
    np.testing.assert_allclose(got[1, :19], alone[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[1, 19:], 0)
    dense = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    self.assertGreater(jnp.abs(got[0] - dense[0]).max(), 0.05)

  def test_blocks_in_which_nothing_is_seen_are_not_visited(self):
    T = 512
    shape = 1, 1, T, T
    seen = np.eye(T, dtype=bool)[None, None]
    seen[0, 0, 300, 10] = True

    def density(mask):
      return masks.schedule(mask, shape, 128, 128).density()

    def listed(seen):
      mask = patterns.listed(seen)
      return density(mask), mask.dense(T, T)

    found, dense = _run(listed, jnp.asarray(seen))
    self.assertAlmostEqual(float(found), 5 / 16)
    np.testing.assert_array_equal(dense, seen)
    q = jnp.ones((1, T, 1, 2))
    for block in (128, 16):
      policy = frontier.BlockSparse(block=block, blocks=3)
      found = _run(lambda q, p=policy: density(masks.Causal() & p.mask(q, q, None)), q)
      self.assertAlmostEqual(float(found), 9 / 16)  # 1, 2, 3 and 3 of 4


class PagesTest(absltest.TestCase):
  def test_bounds_are_above_every_key(self):
    q, k, _ = _arrays(T=33, seed=6)
    low, high = _run(pages.extremes, k, jnp.array([33, 21]), page=4)
    each, shared = (
      np.asarray(_run(pages.bounds, q[:, -1], low, high, share_pages=share))
      for share in (False, True)
    )
    score = np.einsum("bnh,bsnh->bns", q[:, -1], np.repeat(k, 2, axis=2))
    score = np.pad(score, ((0, 0), (0, 0), (0, 3)), constant_values=-np.inf)
    of_page = score.reshape(2, 4, 9, 4).max(axis=-1)
    self.assertTrue((each[0] >= of_page[0] - 1e-5).all())
    self.assertTrue((each[1, :, :5] >= of_page[1, :, :5] - 1e-5).all())
    np.testing.assert_array_equal(each[1, :, 6:], 0)  # nothing is in these pages
    # A page of one token has its score.
    np.testing.assert_allclose(each[0, :, 8], of_page[0, :, 8], rtol=1e-4)
    np.testing.assert_allclose(shared, each.reshape(2, 2, 2, 9).sum(axis=2), rtol=1e-4)

  def test_pages_before_the_current_one_compete(self):
    scores = jnp.array([[[5.0, 1, 4, 3, 9]]] * 3)
    lengths = jnp.array([18, 9, 3])
    chosen = _run(pages.select_pages, scores, lengths, pages=2, page=4)
    places, real = map(np.asarray, chosen)
    got = [sorted(p[0][r[0]].tolist()) for p, r in zip(places, real)]
    want = [[*range(4), *range(8, 12), 16, 17], [*range(9)], [0, 1, 2]]
    self.assertEqual(got, want)


class CompressionTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.q, self.k, _ = _arrays(T=40, seed=7)
    self.k = self.k.at[:, :, 1].multiply(4.0)
    self.lengths = jnp.array([40, 31])
    self.sizes = {"capacity": 12, "local": 4, "first": 2}
    window = jnp.stack([self.q[0, -6:], self.q[1, 25:31]])
    given = {"pool": 3, "adaptive": True}
    self.mass = _run(compression.importance, window, self.k, self.lengths, **given)

  def test_ada_keeps_as_many_in_all(self):
    kept, own = (
      np.asarray(_run(keep, self.mass, self.lengths, **self.sizes, **more))
      for keep, more in (
        (compression.keep_adaptive, {"floor": 0.75}),
        (compression.keep, {}),
      )
    )
    count = np.asarray(kept.sum(axis=-1))
    np.testing.assert_array_equal(count.sum(axis=1), [24, 24])
    self.assertTrue((count >= 9).all())
    self.assertTrue((count.min(axis=1) < 12).all(), count)
    np.testing.assert_array_equal(own.sum(axis=-1), 12)
    for some in (kept, own):
      self.assertTrue(some[..., :2].all())
      self.assertTrue(some[0, :, 36:].all())
      self.assertTrue(some[1, :, 27:31].all())
      self.assertFalse(some[1, :, 31:].any())

  def test_equal_heads_keep_equally(self):
    mass = jnp.repeat(self.mass[:, :1], 2, axis=1)
    got, want = (
      _run(keep, mass, self.lengths, **self.sizes)
      for keep in (compression.keep_adaptive, compression.keep)
    )
    np.testing.assert_array_equal(got, want)

  def test_a_short_prompt_is_kept(self):
    for keep in (compression.keep, compression.keep_adaptive):
      kept = np.asarray(_run(keep, self.mass, jnp.array([12, 5]), **self.sizes))
      np.testing.assert_array_equal(kept.sum(axis=-1), [[12, 12], [5, 5]])


if __name__ == "__main__":
  absltest.main()
