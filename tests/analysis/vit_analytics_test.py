"""Hand-made heads that profiles, templates and clusters identify; gates by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import vision
from attnjax.variants.analysis import vit_analytics as ours
from attnjax.variants.analysis.vit_analytics import weights as weights_of

GRID, PREFIX, L, N = (4, 5), 1, 2, 4
T = PREFIX + GRID[0] * GRID[1]
PLACES = [divmod(i, GRID[1]) for i in range(T - PREFIX)]


def planted():
  """Returns heads (8, T, T), one of each template in its order."""
  heads = np.zeros((8, T, T))
  heads[:, 0, 0] = 1
  for q, (r, c) in enumerate(PLACES):
    for s, (a, b) in enumerate(PLACES):
      apart = max(abs(a - r), abs(b - c))
      own = apart == 0, apart == 1, a == r, b == c, (a, b) == (r, c + 1), True, False
      heads[:7, 1 + q, 1 + s] = own
    heads[4, 1 + q, 0] = c == GRID[1] - 1  # nothing to the right of the edge
    heads[6, 1 + q, 0] = 1
    heads[7, 1 + q, 1 + 7] = 1
  return heads / heads.sum(-1, keepdims=True)


@functools.cache
def model():
  build = contract.constructor("dot_product", {"heads": N}, ("sequence",))
  made = vision.Model(
    [build],
    channels=1,
    classes=3,
    dim=16,
    depth=L,
    patch=2,
    mlp_ratio=0.0,
    rngs=nnx.Rngs(0),
  )
  return jax.tree.map(lambda leaf: 3 * leaf, made)


IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4, 6, 1)), "f4")
LABELS = jnp.array([0, 1, 2, 0, 1, 2])
GATED = jax.jit(lambda m, x, g: ours.outputs(m, x, ours.gate_heads(g)))


class ProfileTest(parameterized.TestCase):
  def test_planted_heads_are_identified(self):
    heads = jnp.asarray(planted())
    total, mean, mass = ours.ring_profile(heads, grid=GRID, k_max=4)
    np.testing.assert_allclose(total.sum(-1) + mass, 1, rtol=1e-5)
    np.testing.assert_allclose(total[0], [1, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(total[1], [0, 1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(mean[5], 1 / 20, rtol=1e-5)  # uniform: equal for all k
    np.testing.assert_allclose(mass, [0, 0, 0, 0, 1 / 5, 0, 1, 0], atol=1e-6)
    scores = ours.template_scores(heads, grid=GRID)
    self.assertEqual(scores.argmax(-1).tolist(), list(range(8)))
    np.testing.assert_allclose(np.diag(scores)[[0, 1, 2, 3, 5, 6, 7]], 1, rtol=1e-5)
    offsets = ours.offset_map(heads, grid=GRID)
    self.assertEqual(offsets.shape, (8, 7, 9))
    shift = np.zeros((7, 9))
    shift[3, 5] = 1
    np.testing.assert_allclose(offsets[4], shift, atol=1e-6)  # one-hot
    shift[3, 5], shift[3, 4] = 0, 1
    np.testing.assert_allclose(offsets[0], shift, atol=1e-6)
    distance = ours.attention_distance(heads, grid=GRID)
    np.testing.assert_allclose(distance[0], 0, atol=1e-6)
    near = []
    for r, c in PLACES:
      apart = [(a - r, b - c) for a, b in PLACES]
      ring = [np.hypot(*x) for x in apart if max(map(abs, x)) == 1]
      near.append(np.mean(ring))
    np.testing.assert_allclose(distance[1], np.mean(near), rtol=1e-5)
    np.testing.assert_allclose(distance[6], 0, atol=1e-6)
    entropy = ours.row_entropy(heads[5, 1:])
    np.testing.assert_allclose(entropy, np.log(20), rtol=1e-5)

  def test_a_shift_is_one_step_in_any_direction(self):
    def steps(y, x):
      found = [[(a - r, b - c) == (y, x) for a, b in PLACES] for r, c in PLACES]
      return jnp.asarray(found, jnp.float32)

    for y, x in ((-1, -1), (-1, 1), (0, -1), (1, 0), (1, 1), (0, 2), (-2, 0), (2, 1)):
      scores = ours.template_scores(steps(y, x), grid=GRID, prefix=0)
      found = float(scores[ours.TEMPLATES.index("shift")])
      self.assertAlmostEqual(found, float(max(abs(y), abs(x)) == 1), places=5)

  def test_maps_of_offsets_are_their_definition(self):
    a = jax.random.uniform(jax.random.key(0), (2, 3, T, T))
    want = ours.offset_map(a, grid=GRID, prefix=PREFIX, impl="reference")
    np.testing.assert_allclose(ours.offset_map(a, grid=GRID), want, rtol=1e-5)

  def test_noisy_copies_are_clustered(self):
    draw = np.random.default_rng(0)
    kinds, rows = np.repeat([0, 2, 5], 6), []
    for kind in kinds:
      noise = draw.uniform(0.0, 0.02, (T, T))
      rows.append(planted()[kind] + noise)
    maps = ours.offset_map(jnp.asarray(rows), grid=GRID)
    x = np.asarray(maps).reshape(len(rows), -1)
    own = ours.clusters(x)
    self.assertLen(set(own), 3)
    for kind in (0, 2, 5):
      self.assertLen(set(own[kinds == kind]), 1)

  def test_rings_without_some_queries(self):
    """In a row of three the farthest ring exists for the ends alone."""
    a = np.array([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
    total, mean, _ = ours.ring_profile(jnp.asarray(a), grid=(1, 3), k_max=2, prefix=0)
    np.testing.assert_allclose(total, np.array([1.4, 0.7, 0.9]) / 3, rtol=1e-5)
    want = [1.4 / 3, (0.2 + 0.1 + 0.3) / 3, (0.3 + 0.6) / 2]
    np.testing.assert_allclose(mean, want, rtol=1e-5)
    full = np.pad(a / 2, ((1, 0), (1, 0)))
    full[:, 0] = 0.5
    got = ours.ring_profile(jnp.asarray(full), grid=(1, 3), k_max=2, normalise=True)
    np.testing.assert_allclose(got[0], total, rtol=1e-5)
    np.testing.assert_allclose(got[2], 0.5, rtol=1e-5)

  def test_class_token(self):
    a = np.arange(49.0).reshape(7, 7)
    got = ours.class_profile(jnp.asarray(a), grid=(2, 3))
    np.testing.assert_array_equal(got, [[1, 2, 3], [4, 5, 6]])
    got = ours.class_profile(jnp.asarray(a), grid=(1, 5), token=1)
    np.testing.assert_array_equal(got, [[9, 10, 11, 12, 13]])
    with self.assertRaisesRegex(ValueError, "token = 1; 1 tokens are before"):
      ours.class_profile(jnp.asarray(a), grid=(2, 3), token=1)

  def test_errors_name_value_and_rule(self):
    a = jnp.ones((4, 4))
    with self.assertRaisesRegex(ValueError, r"\(4, 4\) with 1 tokens .* \(2, 2\)"):
      ours.ring_profile(a, grid=(2, 2), k_max=1)
    with self.assertRaisesRegex(ValueError, "k_max = 2; a grid .* rings 0 to 1"):
      ours.ring_profile(a, grid=(2, 2), k_max=2, prefix=0)


class ImportanceTest(parameterized.TestCase):
  def test_divergence(self):
    p, q = np.array([0.2, 0.8, 0.0]), np.array([0.5, 0.1, 0.4])
    m = (p + q) / 2
    want = sum(0.5 * (x[x > 0] * np.log(x[x > 0] / m[x > 0])).sum() for x in (p, q))
    np.testing.assert_allclose(ours.divergence(*map(jnp.asarray, (p, q))), want, 1e-5)
    ends = jnp.eye(2)
    np.testing.assert_allclose(ours.divergence(ends[0], ends[1]), np.log(2), rtol=1e-5)

  def test_pruning_one_head_at_a_time(self, prune="mean"):
    found = ours.head_importance(model(), IMAGES, LABELS, heads=N, prune=prune, chunk=3)
    self.assertEqual(set(found), set(ours.METRICS))
    gates = np.ones((L, N))
    gates[1, 2] = 0

    def edit(index, out, heads):
      if index != 1:
        return out
      rest = out.mean(0) if prune == "mean" else 0
      return out.at[:, :, 2].set(rest[:, 2] if prune == "mean" else 0)

    @jax.jit
    def run(images):
      edits = contract_edits(edit)
      return ours.outputs(model(), images), ours.outputs(model(), images, edits)

    (logits, c), (other, d) = run(IMAGES)
    p, q = (np.asarray(jax.nn.softmax(x)) for x in (logits, other))
    own = np.arange(6), np.asarray(LABELS)
    want = {
      "probability": p[own] - q[own],
      "loss": np.log(p[own]) - np.log(q[own]),
      "accuracy": (p.argmax(1) == LABELS) * 1.0 - (q.argmax(1) == LABELS),
      "distance": np.linalg.norm(c - d, axis=1),
      "cosine": 1
      - (c * d).sum(1) / np.linalg.norm(c, axis=1) / np.linalg.norm(d, axis=1),
    }
    for name, value in want.items():
      np.testing.assert_allclose(
        found[name][1, 2], np.mean(value), rtol=1e-3, atol=1e-5
      )
    self.assertGreater(np.abs(want["loss"]).max(), 1e-3)
    np.testing.assert_allclose(c @ model().head.kernel[...] + model().head.bias[...],
                               logits, rtol=1e-4, atol=1e-4)  # fmt: skip

  def test_gates(self):
    loo, one = ours.pruned("loo", L, N), ours.pruned("keep_one", L, N)
    self.assertEqual(loo.shape, (L * N, L, N))
    np.testing.assert_array_equal(loo[N + 2], [[1] * 4, [1, 1, 0, 1]])
    np.testing.assert_array_equal(one[N + 2], [[1] * 4, [0, 0, 1, 0]])

    @jax.jit
    def run(images):
      plain = model().trace(images)
      open_ = model().trace(images, edit=ours.gate_heads(np.ones((L, N))))
      gates = np.ones((L, N))
      gates[0] = 0
      shut = model().trace(images, edit=ours.gate_heads(gates))
      half = jnp.ones((L, N, 2, 2))
      none = half.at[0, 1].set(0)
      closed = model().trace(images, edit=ours.gate_blocks(model(), none, prefix=2))
      half = half.at[0, 1, 0, 1].set(0)
      part = model().trace(images, edit=ours.gate_blocks(model(), half, prefix=2))
      return plain, open_, shut, closed, part

    plain, open_, shut, closed, part = run(IMAGES)
    np.testing.assert_allclose(open_.output, plain.output, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(shut.attended[0], 0)
    np.testing.assert_array_equal(closed.mixed[0][:, :, 1], 0)
    np.testing.assert_allclose(
      closed.mixed[0][:, :, 0], plain.mixed[0][:, :, 0], 1e-3, 1e-4
    )
    # The first two queries lose the patches, the others nothing.
    heads = plain.heads[0]
    weights = weights_of._softmax(heads.q, heads.k)[:, 1]
    want = jnp.einsum("bts,bsv->btv", weights[:, :2, :2], heads.v[:, :2, 1])
    np.testing.assert_allclose(part.mixed[0][:, :2, 1], want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
      part.mixed[0][:, 2:, 1], plain.mixed[0][:, 2:, 1], rtol=1e-3, atol=1e-4
    )

  def test_a_dead_head_has_no_importance(self):
    dead = jax.tree.map(lambda leaf: leaf, model())
    kernel = dead.stages.stages[0].blocks[0].mixer.layer.qkv.value.kernel
    kernel[...] = kernel[...].at[1, :, 3].set(0)
    proxy = ours.proxy_importance(dead, IMAGES, LABELS, heads=N)
    np.testing.assert_allclose(proxy[1, 3], 0, atol=1e-6)
    self.assertGreater(np.asarray(proxy)[0].min(), 1e-4)
    shut = jnp.ones((L, N)).at[1, 3].set(0)
    plain = GATED(dead, IMAGES, jnp.ones((L, N)))
    for a, b in zip(GATED(dead, IMAGES, shut), plain):
      np.testing.assert_allclose(a, b, atol=1e-6)
    step = 1e-2
    gates = jnp.ones((L, N)).at[0, 1].add(-step)
    low = GATED(dead, IMAGES, gates)[0]
    high = GATED(dead, IMAGES, 2 - gates)[0]
    own = [jax.nn.log_softmax(x)[np.arange(6), LABELS] for x in (low, high)]
    np.testing.assert_allclose(
      proxy[0, 1], np.abs((own[0] - own[1]) / (2 * step)).mean(), rtol=2e-2
    )

  def test_pruning_in_an_order(self):
    order = ours.ranked(np.array([[3.0, 1, 2, 9], [0, 8, 7, 6]]))
    self.assertEqual(order[:3], [(1, 0), (0, 1), (0, 2)])
    found = ours.cumulative(model(), IMAGES, LABELS, order[:2], heads=N)
    gates = np.ones((L, N))
    gates[1, 0] = gates[0, 1] = 0
    logits = GATED(model(), IMAGES, jnp.asarray(gates, jnp.float32))[0]
    self.assertEqual(found.shape, (3,))
    self.assertAlmostEqual(float(found[2]), float((logits.argmax(1) == LABELS).mean()))
    got = ours.concentration(np.array([[4.0, -1, 3], [1, 1, 1]]), 1 / 3)
    self.assertAlmostEqual(got, 0.7)
    one, other = np.array([[1.0, 2, 3]]), np.array([[2.0, 4, 9]])
    self.assertAlmostEqual(ours.rank_correlation(one, other), 1)
    self.assertAlmostEqual(ours.rank_correlation(one, -other), -1)
    self.assertTrue(np.isnan(ours.rank_correlation(one, 0 * one)))


class PatternTest(absltest.TestCase):
  def test_autoencoder_learns_maps(self):
    draw = np.random.default_rng(0)
    centre = draw.uniform(1, 5, (16, 2))
    grid = np.stack(np.mgrid[:7, :6], -1)
    far = np.square(grid[None] - centre[:, None, None]).sum(-1)
    maps = jnp.asarray(np.exp(-far / 4))
    scale = ours.Scale.of(maps)
    x = scale.apply(maps)
    self.assertAlmostEqual(float(x.mean()), 0, 4)
    self.assertAlmostEqual(float(x.std()), 1, 4)
    key = jax.random.key(0)
    fresh = ours.PatternAutoencoder((7, 6), 4, rngs=nnx.Rngs(0))
    self.assertGreater(ours.error(x, fresh(x)), 0.9)
    learned = ours.train_autoencoder(x, size=4, steps=100, rate=1e-2, key=key)
    self.assertLess(ours.error(x, learned(x)), 0.5)
    made = ours.PatternAutoencoder((7, 6), 3, rngs=nnx.Rngs(0))
    self.assertEqual(made.encode(x).shape, (16, 3))
    self.assertEqual(made(x).shape, x.shape)

  def test_principal_directions(self):
    draw = np.random.default_rng(1)
    x = draw.standard_normal((20, 2)) @ draw.standard_normal((2, 6)) + 3
    np.testing.assert_allclose(ours.pca(x, x, 2), x, atol=1e-9)
    got = ours.error(jnp.asarray(x)[:, None], jnp.asarray(ours.pca(x, x, 1))[:, None])
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    self.assertAlmostEqual(got, values[1] / values.sum(), places=4)

  def test_silhouette_by_hand(self):
    x = np.array([[0.0], [1.0], [10.0]])
    # (9.5 - 1) / ... of the first: far 10, near 1; second: far 9, near 1; third alone.
    want = (9 / 10 + 8 / 9 + 0) / 3
    self.assertAlmostEqual(ours.silhouette(x, np.array([0, 0, 1])), want)
    with self.assertRaisesRegex(ValueError, "number = 4; it must be 1 to 3"):
      ours.k_means(x, 4)
    with self.assertRaisesRegex(ValueError, "3 rows are fewer"):
      ours.clusters(x)


class ReportTest(absltest.TestCase):
  def test_of_a_model(self):
    trace = jax.device_get(jax.jit(lambda m, x: m.trace(x))(model(), IMAGES))
    found = ours.analyse(trace, k_max=1)
    weights = jax.jit(lambda m, x: m.weights(x))(model(), IMAGES)
    given = ours.analyse(trace, k_max=1, weights=weights)
    for name in found:
      np.testing.assert_allclose(found[name], given[name], rtol=1e-3, atol=1e-5)
    total, _, _ = ours.ring_profile(weights[1], grid=(2, 3), k_max=1, prefix=0)
    np.testing.assert_allclose(found["ring_total"][1], total.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["ring_deviation"][1], total.std(0), atol=1e-5)
    np.testing.assert_allclose(found["trend_self"][1], total.mean((0, 1))[0], rtol=1e-4)
    scores = ours.template_scores(weights[0].mean(0), grid=(2, 3), prefix=0)
    np.testing.assert_array_equal(found["pattern"][0], scores.argmax(-1))
    other = tuple(1.01 * x for x in trace.mixed)
    with self.assertRaisesRegex(NotImplementedError, "layer 0 is no softmax attention"):
      ours.analyse(dataclasses.replace(trace, mixed=other))


def contract_edits(mixed):
  from attnjax.contract.trace import Edits

  return Edits(mixed=mixed)


if __name__ == "__main__":
  absltest.main()
