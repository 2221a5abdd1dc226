"""A network with planted sinks, whose levels, scores and causes are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

import attnjax
from attnjax import contract
from attnjax.contract.context import Heads, Tokens
from attnjax.contract.trace import Edits, Trace, edits
from attnjax.models import language
from attnjax.variants.analysis import secondary_sinks as sinks

L, T, D = 16, 40, 64
A, B, PLAIN, BOS = 2, 3, 1, 0
# Every layer adds vectors of this norm in its own directions, the first token's apart.
NOISE = np.random.default_rng(1).uniform(1, 3, L)
BASIS = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0].T
U, MARK = BASIS[0], {A: BASIS[1], B: BASIS[2]}
ADDED, OWN = BASIS[3 : 3 + L], BASIS[20 : 20 + L]
TOKENS = np.full((1, T), PLAIN)
TOKENS[0, 0] = BOS
TOKENS[0, [6, 11, 17, 23]], TOKENS[0, [9, 15, 27]] = A, B


@dataclasses.dataclass(frozen=True)
class Planted:
  """A residual network: MLP 1 makes the primary sink, 5 and 8 those of A and of B.

  Attributes:
    a, b: norms of the vectors that MLPs 5 and 8 add.
    strength: (T,) factors of the markers.
  """

  a: float = 15.0
  b: float = 25.0
  strength: tuple = (1.0,) * T

  def mlp(self, index, x):
    """Returns what MLP `index` makes of its input, also of probes."""
    rest = 0.002 * np.roll(np.asarray(BASIS), 5, axis=0).T @ np.asarray(BASIS)
    y = np.asarray(x) @ rest.T
    y = y - y @ BASIS[:3].T @ BASIS[:3]  # nothing along U and the markers
    y = y + 0.01 * BASIS[60]
    if index == 5:
      y += self.a * (x @ MARK[A])[..., None] * U
    if index == 8:
      y += self.b * (x @ MARK[B])[..., None] * U
    return y

  def trace(self, tokens, edit=None, valid=None):
    change = edits(edit)
    x = sum((tokens == m)[..., None] * v for m, v in MARK.items())
    x = x * np.asarray(self.strength)[: tokens.shape[1], None]
    first = np.arange(tokens.shape[1])[None, :, None] == 0
    hidden, heads, mixed, feeds, attended = [x], [], [], [], []
    ids = None if valid is None else np.where(valid, 0, -1)
    for index in range(L):
      own = change.at(index)
      k = 40 * (x @ U) / np.linalg.norm(x + 1e-9, axis=-1)
      k = np.float32(np.stack([k, 0.5 * k], axis=-1)[..., None] / 8)
      heads.append(Heads(np.ones_like(k), k, k, Tokens(x, ids), {"segment_ids": ids}))
      mixed.append(softmax(k, ids))
      added = np.where(first, OWN[index], ADDED[index])
      attended.append(np.broadcast_to(NOISE[index] * added, x.shape))
      y = self.mlp(index, x)
      y = y + (index == 1) * 50 * U * first
      y = y if own.feed is None else np.asarray(own.feed(jnp.asarray(y)))
      feeds.append({"input": x, "output": y})
      x = x + attended[-1] + y
      if index == L - 1:
        x = x - first * 50 * U
      x = x if own.hidden is None else np.asarray(own.hidden(jnp.asarray(x)))
      hidden.append(x)
    hidden, heads, mixed = map(tuple, (hidden, heads, mixed))
    return Trace(hidden, heads, mixed, x, tuple(attended), tuple(feeds), tokens, ids)


def softmax(k, ids):
  """Returns causal attention of queries of ones, keys and values k (B, T, N, 1)."""
  seen = np.tril(np.ones((k.shape[1],) * 2, bool))[None]
  if ids is not None:
    seen = seen & (ids[:, :, None] == ids[:, None]) & (ids >= 0)[:, None]
  weight = np.exp(k[..., 0].swapaxes(1, 2)[:, :, None]) * seen[:, None]
  total = weight.sum(-1, keepdims=True)
  weight = weight / np.where(total == 0, 1, total)
  return np.einsum("bnts,bsnv->btnv", weight, k)


def read(model, edit=None, tokens=TOKENS, **options):
  return sinks.analyse(jax.device_get(model.trace(tokens, edit)), **options)


def predicted(start, norm):
  """Returns in how many layers a vector of a norm dominates, by hand."""
  rest = np.cumsum(NOISE**2)[start : L - 1]
  cosine = 50 * norm / np.sqrt((norm**2 + 1 + rest) * (2500 + rest))
  return int((cosine > 0.9).sum())


class PlantedTest(parameterized.TestCase):
  def test_one_primary_sink_and_two_levels(self):
    found = read(Planted())
    self.assertEqual(found["primary"].tolist(), [0])
    self.assertEqual(found["range"].tolist(), [[1, L - 1]])
    want = {A: (5, predicted(5, 15.0)), B: (8, predicted(8, 25.0))}
    self.assertGreater(want[A][1], 2)
    for token, kind in enumerate(TOKENS[0]):
      if kind in want:
        self.assertEqual(found["kind"][0, token], sinks.SECONDARY)
        got = found["start"][0, token], found["lifetime"][0, token]
        self.assertEqual(got, want[kind])
      elif token:
        self.assertEqual(found["kind"][0, token], -1)
    self.assertEqual([tuple(x) for x in found["levels"]], [
      (*want[A], 4 / 7), (*want[B], 3 / 7)
    ])  # fmt: skip
    self.assertEqual(found["histogram"].sum(), 7)
    self.assertEqual(found["histogram"][want[A]], 4)
    counts = np.zeros(L)
    counts[5 : 5 + want[A][1]] += 4
    counts[8 : 8 + want[B][1]] += 3
    np.testing.assert_array_equal(found["secondary_count"], counts)

  def test_scores_and_norms(self):
    trace = jax.device_get(Planted().trace(TOKENS))
    found = sinks.analyse(trace)
    heads = jax.tree.map(jnp.asarray, trace.heads[7])
    one = contract.shares(_Softmax, heads)  # (B, N, T, T)
    behind = [one[0, :, j + 1 :, j].mean() for j in range(T - 8)]
    np.testing.assert_allclose(found["score"][0, 7, : T - 8], behind, rtol=1e-4)
    self.assertTrue(np.isnan(found["score"][0, :, T - 8 :]).all())
    np.testing.assert_allclose(
      found["primary_heads"][7], one[0, :, 1:, 0].mean(1), rtol=1e-4
    )
    mass = sum(behind[j] for j in np.flatnonzero(TOKENS[0] > 1))
    np.testing.assert_allclose(found["secondary_mass"][7], mass, rtol=1e-4)
    self.assertLess(found["weakening"], -0.7)  # claim 3
    h = np.linalg.norm(trace.hidden[8][0], axis=1)
    np.testing.assert_allclose(found["norms"][0, 7], h, rtol=1e-5)
    second = TOKENS[0] > 1
    rest = (TOKENS[0] == PLAIN) & (np.arange(T) > 0)
    want = [h[0], h[second].mean(), h[rest].mean()]
    np.testing.assert_allclose(found["hidden_norms"][7], want, rtol=1e-5)

  def test_norm_sets_score_and_lifetime(self):
    strength = np.ones(T)
    strength[[6, 11, 17, 23]] = 0.9, 1.1, 1.4, 1.9
    found = read(Planted(b=0.0, strength=tuple(strength)))
    lives = found["lifetime"][0, [6, 11, 17, 23]]
    self.assertTrue((np.diff(lives) >= 0).all() and lives[-1] > lives[0], lives)
    self.assertGreater(found["norm_and_lifetime"], 0.8)  # claim 2
    self.assertGreater(found["norm_and_score"], 0.7)
    lives, means = [], []
    for a in (5.0, 10.0, 15.0, 40.0):
      found = read(Planted(a=a))
      lives.append(found["lifetime"][0, 6])
      means.append(found["score"][0, 5:15, 6].mean())
    self.assertEqual(lives, [predicted(5, a) for a in (5.0, 10.0, 15.0, 40.0)])
    self.assertEqual(lives, sorted(lives))
    self.assertLess(lives[0], lives[-1])
    self.assertEqual(means, sorted(means))

  def test_formation_and_probes(self):
    model = Planted()
    found = read(model)
    self.assertLess(abs(found["formation_input"][0]), 0.9)
    self.assertNotIn("formation_gate", found)
    trace = jax.device_get(model.trace(TOKENS))
    target = trace.feeds[1]["output"][0, 0]
    others = np.stack([MARK[A], MARK[B], *ADDED])
    cosine, norms = sinks.probe_directions(
      lambda x: model.mlp(5, x), others, target, factors=(0.5, 2.0)
    )
    self.assertTrue((np.abs(cosine[0]) > 0.98).all())
    # One of the others is mapped to nothing but rounding errors.
    some = norms[1:] > 1e-9
    self.assertLess(np.abs(cosine[1:])[some].max(), 0.98)
    self.assertGreater(some.sum(), 2 * L - 2)
    np.testing.assert_allclose(norms[0], [7.5, 30], rtol=1e-3)
    inputs = trace.feeds[5]["input"][0]
    directions = sinks.principal_directions(inputs[[6, 9, 20]])
    self.assertEqual(directions.shape, (2, D))
    own = TOKENS[0, 1:] == A
    self.assertEqual(sinks.separation(trace.hidden[6][0, 1:], own), 1.0)
    self.assertLess(sinks.separation(trace.attended[6][0, 1:], own), 1.0)

  def test_controls_are_equal_tokens_that_are_no_sinks(self):
    strength = np.ones(T)
    strength[[17, 23]] = 0.01  # tokens A whose marker is too weak
    trace = jax.device_get(Planted(strength=tuple(strength)).trace(TOKENS))
    (row,) = sinks.sinks_of(trace)
    self.assertEqual([s.token for s in row.secondary if s.token_id == A], [6, 11])
    x = np.random.default_rng(0).standard_normal((T, D))
    feeds = [feed | {"input": (x if i == 5 else 0 * x)[None]}
             for i, feed in enumerate(trace.feeds)]  # fmt: skip
    trace = dataclasses.replace(trace, feeds=tuple(feeds))
    cosines = sinks.controls(trace, 0, 0, row.secondary)["input"]
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    want = [x[j] @ x[0] for j in (17, 23)] * 2
    np.testing.assert_allclose(cosines, want, rtol=1e-4)

  def test_interventions(self):
    model = Planted()
    plain = read(model)
    gone = read(model, sinks.ablate_mlp(5, TOKENS == A))
    self.assertEqual(set(gone["kind"][0, TOKENS[0] == A]), {-1})
    np.testing.assert_array_equal(
      gone["lifetime"][0, TOKENS[0] == B], plain["lifetime"][0, TOKENS[0] == B]
    )
    one = read(model, sinks.ablate_mlp(5, 6))
    self.assertEqual((one["kind"][0, 6], one["kind"][0, 11]), (-1, 1))
    np.testing.assert_array_equal(
      read(model, sinks.ablate_mlp(6, TOKENS == A))["lifetime"], plain["lifetime"]
    )
    small, large = (read(model, sinks.rescale_mlp(5, n, U)) for n in (2.0, 40.0))
    self.assertEqual(set(small["kind"][0, TOKENS[0] == A]), {-1})
    self.assertEqual(set(large["lifetime"][0, TOKENS[0] == A]), {predicted(5, 40.0)})
    self.assertGreater(predicted(5, 40.0), predicted(5, 15.0))
    lives, means = [], []
    for beta in (0.0, 0.25, 0.5, 1.0):
      found = read(model, sinks.inject_direction(7, 20, beta))
      lives.append(int(found["lifetime"][0, 20]))
      means.append(found["score"][0, 8:, 20].mean())
    self.assertEqual(means, sorted(means))
    self.assertEqual(lives, sorted(lives))
    self.assertEqual(lives[0], 0)
    self.assertEqual(lives[-1], 15 - 7)
    found = read(model, sinks.inject_direction(7, 20, 1.0, direction=BASIS[40]))
    self.assertEqual(found["lifetime"][0, 20], 0)

  def test_an_injected_direction_has_the_norm_of_the_primary_sink(self):
    h, unit = jnp.arange(24.0).reshape(1, 4, 6), jnp.eye(6)[2]
    edit = sinks.inject_direction(3, 2, 0.5, primary=1, direction=unit).hidden
    added = 0.5 * jnp.linalg.norm(h[0, 1]) * unit
    np.testing.assert_allclose(edit(3, h), h.at[0, 2].add(added), rtol=1e-6)
    np.testing.assert_array_equal(edit(2, h), h)

  def test_table_of_steering(self):
    norms = [2.0, 15.0, 40.0]
    found = sinks.steering_table(Planted(), TOKENS, layer=5, reference=U, norms=norms)
    np.testing.assert_array_equal(found["sinks"], [0, 4, 4])
    lives = [np.nan, predicted(5, 15.0), predicted(5, 40.0)]
    np.testing.assert_array_equal(found["lifetime"], lives)
    plain = read(Planted())["score"][0, 6:, TOKENS[0] == A]
    np.testing.assert_allclose(found["score"][1], plain.mean(), rtol=1e-4)
    self.assertGreater(found["score"][2], found["score"][1])

  def test_rows_of_other_lengths_and_padding(self):
    model, both = Planted(), np.concatenate([TOKENS, np.full((1, T), PLAIN)])
    both[1, 4:] = TOKENS[0, : T - 4]  # padding before the first token
    real = np.stack([np.arange(T) < 30, np.arange(T) >= 4])
    trace = jax.device_get(model.trace(both, valid=real))
    hidden = [np.where(real[..., None], x, 1e6) for x in trace.hidden]
    trace = dataclasses.replace(trace, hidden=tuple(hidden))
    rows = sinks.sinks_of(trace, candidates=1)
    self.assertEqual([row.primary for row in rows], [0, 4])
    self.assertEqual([s.token for s in rows[0].secondary], [6, 9, 11, 15, 17, 23, 27])
    with self.assertRaisesRegex(ValueError, "row 1 has 2 documents; it must have one"):
      ids = np.zeros((2, T), int)
      ids[1, 9:] = 1
      sinks.sinks_of(dataclasses.replace(trace, ids=ids))


class DetectionTest(absltest.TestCase):
  def test_the_first_two_tokens_are_candidates(self):
    h = np.ones((2, 3, 4)) * np.array([1.0, 2.0, 3.0])[:, None]
    self.assertEqual(sinks.primary_position(h), 1)
    self.assertEqual(sinks.primary_position(h, (0, 2)), 2)
    self.assertEqual(sinks.Sink(0, sinks.PRIMARY, 1, 2).token_id, -1)

  def test_clusters_begin_with_the_farthest_rows(self):
    x = np.array([[0.0, 0.0], [1.0, -6.0], [-4.0, 3.0], [3.0, 3.0]])
    _, centres = sinks.two_means(x, steps=0)
    np.testing.assert_array_equal(centres, x[[1, 2]])

  def test_range_of_norms_by_hand(self):
    self.assertEqual(sinks.layer_range(np.array([1.0, 2, 50, 51, 52, 10, 3])), (2, 5))
    self.assertEqual(sinks.layer_range(np.array([1.0, 2, 3, 50])), (3, 3))
    self.assertEqual(sinks.layer_range(np.array([4.0])), (0, 0))

  def test_scale_and_rotation_change_nothing(self):
    h = np.random.default_rng(0).standard_normal((6, 9, 8)) + 1.5
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0]
    scaled = h * np.array([1, 5, 0.1, 3, 2, 9])[:, None, None]
    want = sinks.sink_layers(h, 1, (1, 6), 0.7)
    self.assertTrue(want[:, 2:].any())
    for other in (scaled, h @ turn):
      np.testing.assert_array_equal(sinks.sink_layers(other, 1, (1, 6), 0.7), want)

  def test_kinds_by_lifetime(self):
    found = np.zeros((36, 5), bool)
    for token, count in enumerate((4, 5, 20, 21)):
      found[3 : 3 + count, token] = True
    found[5, 1], found[30, 1] = False, True  # a gap
    labels = sinks.label_sinks(found, primary_layers=21, token_ids=np.arange(10, 15))
    got = [(s.token, s.kind, s.start, s.lifetime, s.token_id) for s in labels]
    want = [(0, 0, 3, 4, 10), (1, 1, 3, 5, 11), (2, 1, 3, 20, 12), (3, 2, 3, 21, 13)]
    self.assertEqual(got, want)
    self.assertEqual(sinks.lengths_of_kinds(36, 30), (5, 21))
    self.assertEqual(sinks.lengths_of_kinds(16, 14), (2, 11))
    self.assertEqual(sinks.lengths_of_kinds(27, 4), (3, 3))

  def test_entropy(self):
    self.assertAlmostEqual(sinks.matrix_entropy(np.eye(5)), np.log(5))
    one = np.outer(np.ones(4), np.arange(3.0))
    self.assertAlmostEqual(sinks.matrix_entropy(one), 0, places=5)
    h = np.random.default_rng(0).standard_normal((2, 9, 4))
    got = sinks.growing_entropy(h, 2, 3)
    want = [[sinks.matrix_entropy(x[2:e]) for e in (5, 8, 9)] for x in h]
    np.testing.assert_allclose(got, want)

  def test_levels_hold_a_tenth(self):
    make = [sinks.Sink(0, 1, 4, 6)] * 9 + [sinks.Sink(0, 1, 8, 2)] * 2
    make += [sinks.Sink(0, 1, 9, 2)] + [sinks.Sink(0, 2, 1, 20)] * 9
    self.assertEqual(sinks.levels(make), [(4, 6, 0.75), (8, 2, 1 / 6)])

  def test_correlations(self):
    x = np.array([3.0, 1, 2, 2])
    self.assertAlmostEqual(sinks.spearman(x, x**3), 1)
    self.assertAlmostEqual(sinks.spearman(x, np.array([0.0, 9, 1, 1])), -1)
    self.assertAlmostEqual(sinks.pearson(x, np.array([3.0, 1, 5, 0])), 0.3682, 3)
    self.assertTrue(np.isnan(sinks.pearson(x, np.ones(4))))
    self.assertTrue(np.isnan(sinks.spearman(x[:0], x[:0])))


class ScoresTest(absltest.TestCase):
  def test_uniform_attention(self):
    q = jnp.zeros((1, 9, 1, 4))
    got = sinks.sink_scores(q, q)[0, 0]
    want = [np.mean([1 / (i + 1) for i in range(j + 1, 9)] or [0]) for j in range(9)]
    np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_options_are_refused(self):
    q = jnp.zeros((1, 9, 1, 4))
    for options, message in (
      ({"window": -1}, "window = -1; it must be 0"),
      ({"distance": -2}, "distance = -2; it must be 0"),
      ({"least": 0}, "least = 0; it must be 1"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        sinks.sink_scores(q, q, **options)
    with self.assertRaisesRegex(ValueError, "candidates = 0; it must be 1"):
      read(Planted(), candidates=0)

  def test_other_mechanisms_need_their_weights(self):
    build = contract.constructor("lightning2", {"heads": 2}, language.FORMS)
    model = language.Model([build], vocab=5, dim=16, rngs=nnx.Rngs(0))
    trace = sinks.capture(model, jnp.asarray(TOKENS))
    with self.assertRaisesRegex(NotImplementedError, "layer 0 is no causal softmax"):
      sinks.analyse(trace)
    found = sinks.analyse(trace, weights=np.ones((1, 2, 2, T)), least=3)
    self.assertEqual(np.isfinite(found["score"][0, 0]).sum(), T - 3)

  def test_scores_of_windows_need_layers_of_that_window(self):
    build = contract.constructor("dot_product", {"heads": 2}, language.FORMS)
    model = language.Model([build], vocab=5, dim=16, rngs=nnx.Rngs(0))
    trace = sinks.capture(model, jnp.asarray(TOKENS))
    mixed = [
      attnjax.dot_product_attention(
        heads.q, heads.k, heads.v, is_causal=True, local_window_size=(5, 0)
      )
      for heads in jax.tree.map(jnp.asarray, trace.heads)
    ]
    near = dataclasses.replace(trace, mixed=tuple(mixed))
    found = sinks.scores_of(near, window=6)
    heads = jax.tree.map(jnp.asarray, trace.heads[1])
    want = sinks.reference_sink_scores(heads.q, heads.k, window=6)
    np.testing.assert_allclose(found[:, 1], want, rtol=1e-4, atol=1e-6)
    for other, window in ((trace, 6), (near, 0), (near, 8)):
      with self.assertRaisesRegex(NotImplementedError, "layer 0 is no causal softmax"):
        sinks.scores_of(other, window=window)

  def test_capture_takes_edits(self):
    build = contract.constructor("dot_product", {"heads": 2}, language.FORMS)
    model = language.Model([build], vocab=5, dim=16, rngs=nnx.Rngs(0))
    plain = sinks.capture(model, jnp.asarray(TOKENS))
    silent = sinks.capture(
      model, jnp.asarray(TOKENS), edit=Edits(feed=lambda i, y: 0 * y)
    )
    self.assertGreater(np.abs(plain.output - silent.output).max(), 1e-3)


class _Softmax:
  """Mixes heads by causal softmax attention."""

  @staticmethod
  def mix(heads):
    return attnjax.dot_product_attention(heads.q, heads.k, heads.v, is_causal=True)


if __name__ == "__main__":
  absltest.main()
