"""Hand-made heads that copy or do not, masked models, and selections by hand."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.contract.context import Heads, Tokens
from attnjax.models import language
from attnjax.variants.analysis import head_influence as ours

VOCAB, L, N = 11, 2, 4


@functools.cache
def model():
  build = contract.constructor("dot_product", {"heads": N}, language.FORMS)
  made = language.Model([build], vocab=VOCAB, dim=16, depth=L, rngs=nnx.Rngs(0))
  # Larger than at the start of training, so that attention is not uniform.
  return jax.tree.map(lambda leaf: 4 * leaf, made)


losses = jax.jit(ours.losses, static_argnames=("kind", "window"))


@jax.jit
def looked(tokens, real):
  """Returns (the weights of all layers, the logits)."""
  return model().weights(tokens, valid=real), model()(tokens, valid=real)


@functools.partial(jax.jit, static_argnames="kind")
def masked(tokens, kind="uniform"):
  return model().trace(tokens, edit=ours.mask_heads(KEEP, kind))


TOKENS = np.random.default_rng(0).integers(0, VOCAB, (3, 17)).astype(np.int32)
REAL = np.arange(17) < np.array([[17], [9], [1]])
KEEP = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool)


class RetrievalTest(parameterized.TestCase):
  def test_a_head_that_copies_and_a_uniform_one(self):
    prompt = np.array([5, 7, 1, 2, 3, 9, 7])
    span, answer = (2, 5), [1, 2, 3]
    rows = []
    for step in range(3):
      a = np.zeros((1, 2, len(prompt) + step))
      a[0, 0, 2 + step] = 1
      a[0, 1] = 1 / a.shape[2]
      rows.append(a)
    got = ours.accumulate(rows, answer, prompt, span)
    np.testing.assert_allclose(got, [[1, 0]])
    # Another token than the emitted one, or one beside the needle, does not count.
    got = ours.accumulate(rows, [1, 2, 8], prompt, span)
    np.testing.assert_allclose(got[0, 0], 2 / 3)
    np.testing.assert_allclose(ours.retrieval_score(rows[0], 1, prompt, (3, 5)), 0)
    # The two greatest weights are both right: once a step.
    both = np.array([[[0, 0, 0.5, 0, 0.4, 0, 0.1]]])
    twice = np.array([5, 7, 4, 2, 4, 9, 7])
    np.testing.assert_allclose(ours.retrieval_score(both, 4, twice, span, 2), 1 / 3)
    # A token of the answer may have the prompt's last token's number, not its place.
    late = np.zeros((1, 1, 9))
    late[0, 0, 8] = 1
    np.testing.assert_allclose(ours.retrieval_score(late, 7, prompt, (5, 7)), 0)

  @parameterized.parameters(
    ((3, 3), 1, r"span = \(3, 3\)"), ((2, 9), 1, "prompt of 7"), ((2, 5), 0, "topk = 0")
  )
  def test_errors(self, span, topk, message):
    with self.assertRaisesRegex(ValueError, message):
      ours.retrieval_score(np.zeros((1, 1, 7)), 1, np.arange(7), span, topk)

  def test_scores_of_a_model_are_those_of_its_weights(self):
    own, (prompt, answer) = model(), np.split(TOKENS[0], [12])
    sample = ours.Sample(TOKENS[0], 12, (3, 8))
    got, right = ours.scores(own, sample)
    weights, logits = looked(jnp.asarray(TOKENS), jnp.ones(TOKENS.shape, bool))
    emitted = np.asarray(logits[0].argmax(-1))[11:16]
    rows = [np.stack([w[0, :, t, : t + 1] for w in weights]) for t in range(11, 16)]
    want = sum(
      ours.retrieval_score(np.asarray(a), int(w), TOKENS[0, :12], (3, 8))
      for a, w in zip(rows, emitted)
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)
    self.assertEqual(right, (emitted == answer).mean())
    del prompt

  def test_the_greatest_are_masked(self):
    scores = np.array([[0.1, 0.9, 0.2, 0.9], [0.0, 0.3, 0.9, 0.1]])
    want = [[0, 1, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(ours.greatest(scores, 0.25), want)
    self.assertEqual(ours.greatest(scores, 0.01).sum(), 1)
    sample = ours.Sample(TOKENS[0], 12, (3, 8))
    keep, mean = ours.detect_heads(model(), [sample, sample], 0.25, success=-1.0)
    np.testing.assert_array_equal(~keep, ours.greatest(mean, 0.25))
    with self.assertRaisesRegex(ValueError, "no sample has more than 1.0"):
      ours.detect_heads(model(), [sample], success=1.0)
    with self.assertRaisesRegex(ValueError, "share = 0.0; it must be above 0"):
      ours.detect_heads(model(), [sample], 0.0)


class ProxyTest(absltest.TestCase):
  def test_samples(self):
    one, same, other = (ours.sample(3, i, pairs=5) for i in (0, 0, 1))
    np.testing.assert_array_equal(one.tokens, same.tokens)
    self.assertNotEqual(bytes(one.tokens.tolist()), bytes(other.tokens.tolist()))
    text, answer = (
      bytes(x.tolist()).decode() for x in np.split(one.tokens, [one.start])
    )
    self.assertEqual(text[one.span[0] : one.span[1]], answer)
    pairs = json.loads(text[: text.index("}") + 1])
    self.assertLen(pairs, 5)
    for key, value in pairs.items():
      self.assertRegex(key, "^[A-Za-z0-9]{32}$")
      self.assertLessEqual(len(value.split()), 30)
      self.assertRegex(value, r"^[A-Z].*\.$")
    asked = text.split("Question: ")[1:]
    self.assertLen(asked, 4)
    for question in asked[:-1]:
      key, value = question.split("\nAnswer: ")
      self.assertEqual(pairs[key], value.strip())
    last = asked[-1].split("\n")[0]
    self.assertEqual(pairs[last], answer)
    self.assertLen({question[:32] for question in asked}, 4)
    self.assertLen(list(ours.samples(0, 2, pairs=4)), 2)

  def test_other_tokens_and_errors(self):
    words = {}

    def encode(text):
      return [words.setdefault(w, len(words)) for w in text.split(" ") if w]

    one = ours.sample(0, 0, pairs=4, encode=encode)
    needle = one.tokens[slice(*one.span)]
    np.testing.assert_array_equal(needle, one.tokens[one.start :])
    with self.assertRaisesRegex(ValueError, "pairs = 3; it must be above 3"):
      ours.sample(0, 0, pairs=3)
    with self.assertRaisesRegex(ValueError, "tokens; it may have 100"):
      ours.sample(0, 0, longest=100)


class MaskedTest(parameterized.TestCase):
  def test_masked_rows_are_uniform(self):
    trace = masked(jnp.asarray(TOKENS))
    layers = [block.mixer for _, _, block, _ in model().stack.each()]
    for index, layer in enumerate(layers):
      weights = contract.shares(layer, trace.heads[index])
      uniform = np.tril(1 / np.arange(1, 18)[:, None] * np.ones(17))
      for head in range(N):
        apart = np.abs(weights[:, head] - uniform).max()
        self.assertEqual(apart < 1e-6, not KEEP[index, head])

  def test_zero_masks_the_result(self):
    trace = masked(jnp.asarray(TOKENS), "zero")
    for index in range(L):
      self.assertEqual(float(jnp.abs(trace.mixed[index][:, :, ~KEEP[index]]).max()), 0)
      self.assertGreater(jnp.abs(trace.mixed[index][:, :, KEEP[index]]).min(2).max(), 0)

  def test_scores_by_hand(self):
    own, tokens, real = model(), jnp.asarray(TOKENS), jnp.asarray(REAL)
    base = losses(own, tokens, real)
    chance = jax.nn.log_softmax(looked(tokens, real)[1])
    want = [-chance[0, np.arange(16), TOKENS[0, 1:]].mean()]
    want += [-chance[1, np.arange(8), TOKENS[1, 1:9]].mean(), 0.0]
    np.testing.assert_allclose(base, want, rtol=1e-4, atol=1e-6)
    ref = losses(own, tokens, real, head_mask=KEEP)
    self.assertGreater(jnp.abs(ref - base)[0], 1e-3)
    score = jax.jit(ours.influence_score, static_argnames=("kind", "relative_to"))
    got = {r: score(own, tokens, real, head_mask=KEEP, relative_to=r)
           for r in ("base", "ref", "none")}  # fmt: skip
    change = ref - base
    np.testing.assert_allclose(got["none"], change, atol=1e-5)
    np.testing.assert_allclose(got["base"], change / np.maximum(base, 0.1), atol=1e-5)
    np.testing.assert_allclose(got["ref"], change / np.maximum(ref, 0.1), atol=1e-5)
    np.testing.assert_array_equal(
      score(own, tokens, real, head_mask=np.ones((L, N), bool)), 0
    )
    many = jax.vmap(lambda m: ours.influence_score(own, tokens, real, head_mask=m))
    both = jax.jit(many)(jnp.stack([jnp.asarray(KEEP), jnp.ones((L, N), bool)]))
    np.testing.assert_allclose(both[0], got["base"], atol=1e-5)
    np.testing.assert_array_equal(both[1], 0)

  def test_long_documents_are_cut_and_averaged_by_token(self):
    own, tokens = model(), jnp.asarray(TOKENS)
    got = losses(own, tokens, window=6)
    parts = [losses(own, tokens[:, a:b]) for a, b in ((0, 6), (6, 12), (12, 17))]
    want = (5 * parts[0] + 5 * parts[1] + 4 * parts[2]) / 14
    np.testing.assert_allclose(got, want, rtol=1e-4)
    with self.assertRaisesRegex(ValueError, "window = -1"):
      ours.losses(own, tokens, window=-1)

  def test_mechanisms_without_queries(self):
    heads = Heads(None, None, jnp.ones((1, 5, N, 4)), Tokens(None))
    with self.assertRaisesRegex(NotImplementedError, "layer 1 has no queries.*zero"):
      ours.mask_heads(KEEP).heads(1, heads)
    got = ours.mask_heads(KEEP, "zero").mixed(1, heads.v, heads)
    np.testing.assert_array_equal(got[0, :, :, 0], np.tile(KEEP[1], (5, 1)))
    with self.assertRaisesRegex(ValueError, r"mask has the shape \(2, 3\); .* 4 heads"):
      ours.mask_heads(KEEP[:, :3], "zero").mixed(1, heads.v, heads)

  def test_words_are_checked(self):
    with self.assertRaisesRegex(ValueError, "kind 'none'.*uniform"):
      ours.mask_heads(KEEP, "none")
    with self.assertRaisesRegex(ValueError, "relative_to 'bass'.*base"):
      ours.influence_score(
        model(), jnp.asarray(TOKENS), head_mask=KEEP, relative_to="bass"
      )
    q = jnp.zeros((1, 3, 2, 4))
    with self.assertRaisesRegex(ValueError, r"head_mask is \(3,\); q has 2 heads"):
      ours.attend(q, q, q, head_mask=jnp.ones(3, bool))


class SelectTest(absltest.TestCase):
  def test_within_a_domain(self):
    scores = np.array([9, 8, 7, 6, 5, 1, 2, 3, 4, 0.5])
    got = ours.select(scores, ["a"] * 5 + ["b"] * 5, 0.4)
    np.testing.assert_array_equal(np.flatnonzero(got), [0, 1, 7, 8])
    self.assertEqual(ours.select(scores, list(range(10)), 0.2).sum(), 10)  # one of each
    with self.assertRaisesRegex(ValueError, "share = 2.0"):
      ours.select(scores, ["a"] * 10, 2.0)
    with self.assertRaisesRegex(ValueError, "10 scores and 1 domains"):
      ours.select(scores, ["a"])


class ReportTest(absltest.TestCase):
  def test_by_hand(self):
    own = model()
    traced = jax.jit(lambda *x: own.trace(x[0], valid=x[1]))
    trace = jax.device_get(traced(jnp.asarray(TOKENS), jnp.asarray(REAL)))
    got = ours.analyse(trace, share=0.25, first=2)
    found, _ = looked(jnp.asarray(TOKENS), jnp.asarray(REAL))
    weights = [np.asarray(w) for w in found]
    emitted = trace.output.argmax(-1)
    places = [(b, t) for b in range(3) for t in range(2, 17) if REAL[b, t]]
    for layer, weight in enumerate(weights):
      most = np.array([weight[b, :, t].argmax(-1) for b, t in places])
      copied = [TOKENS[b, most[i]] == emitted[b, t] for i, (b, t) in enumerate(places)]
      np.testing.assert_allclose(got["copying"][layer], np.mean(copied, 0))
      np.testing.assert_allclose(got["first_token"][layer], (most == 0).mean(0))
      apart = [t - most[i] for i, (_, t) in enumerate(places)]
      np.testing.assert_allclose(got["distance"][layer], np.mean(apart, 0))
      rows = np.array([weight[b, :, t, : t + 1].sum(-1) for b, t in places])
      np.testing.assert_allclose(rows, 1, rtol=1e-5)
      lost = [-(w * np.log(np.maximum(w, 1e-30))).sum(-1)
              for w in (weight[b, :, t] for b, t in places)]  # fmt: skip
      np.testing.assert_allclose(got["entropy"][layer], np.mean(lost, 0), rtol=1e-4)
    own_rows = got["copying_of_rows"]
    np.testing.assert_array_equal(own_rows[2], 0)  # no query counts
    np.testing.assert_allclose(
      (15 * own_rows[0] + 7 * own_rows[1]) / 22, got["copying"], rtol=1e-5
    )
    self.assertEqual(got["important"].sum(), 2)
    with self.assertRaisesRegex(ValueError, "share = 0.0, first = 1"):
      ours.analyse(trace, share=0.0)


if __name__ == "__main__":
  absltest.main()
