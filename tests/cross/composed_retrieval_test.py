"""CoLLM: what the paper promises, in NumPy and by hand."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import language
from attnjax.variants.cross import composed_retrieval as collm

ANGLES = (0.0, 0.25, 0.5, 1.0)


def _draw(*shape, seed=0):
  draw = np.random.default_rng(seed).standard_normal
  return jnp.asarray(draw(shape), jnp.float32)


def _close(found, wanted, tolerance=1e-5):
  np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _unit(x):
  x = np.asarray(x)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@jax.jit
def _arcs(a, b):
  def sums(a, b):
    found = jnp.stack([collm.slerp(a, b, alpha) for alpha in ANGLES])
    return jnp.sum(found * jnp.arange(1, 1 + a.shape[-1])), found

  slopes, found = jax.grad(sums, (0, 1), has_aux=True)(a, b)
  return found, slopes, jnp.stack([collm.slerp(b, a, 1 - alpha) for alpha in ANGLES])


class SlerpTest(parameterized.TestCase):
  def test_is_the_formula_of_the_paper(self):
    a, b = _draw(7, 5), _draw(7, 5, seed=1)
    found, _, back = _arcs(a, b)
    one, two = (_unit(np.asarray(x, np.float64)) for x in (a, b))
    theta = np.arccos((one * two).sum(-1, keepdims=True))
    for alpha, got in zip(ANGLES, found):
      want = np.sin((1 - alpha) * theta) * one + np.sin(alpha * theta) * two
      _close(got, want / np.sin(theta))
      _close(np.linalg.norm(got, axis=-1), np.ones(7))
      angle = np.arccos(np.clip((one * got).sum(-1), -1, 1))
      _close(angle, alpha * theta[:, 0], 1e-3)
    _close(found, back)
    _close(found[0], one)
    _close(found[-1], two)
    _close(collm.slerp(a, b), found[2])  # the default of alpha

  @parameterized.parameters(0.0, 1e-6, 1e-4, 1.3e-3, 1.5e-3, 0.01, 3.0, 3.14)
  def test_near_0_and_pi(self, angle):
    a = jnp.zeros((7, 5)).at[:, 1].set(2)
    b = jnp.zeros((7, 5)).at[:, 1].set(math.cos(angle)).at[:, 3].set(math.sin(angle))
    found, slopes, _ = _arcs(a, b)
    want = np.zeros((4, 5))
    want[:, 1], want[:, 3] = (f(np.array(ANGLES) * angle) for f in (np.cos, np.sin))
    _close(found[:, 0], want, 1e-5 if angle < 3 else 2e-4)
    for slope in slopes:
      self.assertTrue(np.isfinite(slope).all())

  def test_opposite_vectors_and_zeros_are_finite(self):
    a = _draw(7, 5)
    for b in (-a, a, 0 * a, -a.at[:, 0].add(1e-4)):
      found, slopes, _ = _arcs(a, b)
      self.assertTrue(np.isfinite(found).all())
      self.assertTrue(all(np.isfinite(slope).all() for slope in slopes))
      self.assertLessEqual(np.abs(np.linalg.norm(found, axis=-1)).max(), 1.0001)

  def test_errors_name_value_and_rule(self):
    for alpha in (-0.1, 1.1):
      with self.assertRaisesRegex(ValueError, f"alpha = {alpha}; it must be from 0"):
        collm.slerp(jnp.ones(3), jnp.ones(3), alpha)


class NeighbourTest(absltest.TestCase):
  def test_by_hand(self):
    v = jnp.array([[9.0, 0], [1, 1], [0, 3], [2, 2], [1, 0.1], [4, 4]])
    # Three have the same direction: each takes the first of the others.
    self.assertEqual(collm.nearest_in_batch(v).tolist(), [4, 3, 1, 1, 0, 1])
    exclude = jnp.zeros((6, 6), bool).at[2].set(True)
    exclude = exclude.at[jnp.array([0, 1]), jnp.array([4, 3])].set(True)
    found = collm.nearest_in_batch(v, exclude)
    self.assertEqual(found.tolist(), [1, 5, -1, 1, 0, 1])
    self.assertEqual(found.dtype, np.int32)

  def test_a_permutation_permutes(self):
    v, order = _draw(9, 4), np.random.default_rng(0).permutation(9)
    find = jax.jit(collm.nearest_in_batch)
    found, moved = (np.asarray(find(x)) for x in (v, v[order]))
    self.assertEqual(order[moved].tolist(), found[order].tolist())

  def test_at_random_it_is_never_the_own_image(self):
    exclude = jnp.zeros((4, 4), bool).at[0, 1].set(True)
    draw = jax.jit(jax.vmap(lambda key: collm.random_in_batch(key, 4, exclude)))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 200)))
    others = [{2, 3}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2}]
    self.assertEqual([set(column.tolist()) for column in found.T], others)
    self.assertAlmostEqual((found[:, 1] == 0).mean(), 1 / 3, delta=0.12)

  def test_false_negatives_by_hand(self):
    v = jnp.array([[1, 0], [2, 0.1], [1, 1], [0.96, 0.28]])
    want = np.zeros((4, 4), bool)
    want[0, 1] = want[1, 0] = want[0, 3] = want[3, 0] = want[1, 3] = want[3, 1] = True
    self.assertEqual(collm.false_negatives(v).tolist(), want.tolist())
    want[[0, 3], [3, 0]] = False
    self.assertEqual(collm.false_negatives(v, 0.97).tolist(), want.tolist())


BOOK = {word: number for number, word in enumerate(collm.WORDS, 40)}
NAMES = {number: word for word, number in BOOK.items()} | {-2: "{image}"}
OWN = jnp.array([[1, 2, 3], [4, 5, -1]])
NEAR = jnp.array([[6, 7, -1], [8, 9, 10]])
SOME = jnp.array([[-1, 2, -1], [4, -1, -1]])


def _encode(word):
  return [BOOK[word]]


def _words(tokens):
  return " ".join(NAMES.get(int(t), str(int(t))) for t in tokens if t != -1)


class TextTest(parameterized.TestCase):
  def test_every_template_is_filled(self):
    templates = collm.encode_templates(_encode)
    self.assertLen(collm.TEMPLATES, 8)
    fill = jax.jit(lambda choice: collm.modify(OWN, NEAR, SOME, choice, templates))
    for number in range(9):
      template = (*collm.TEMPLATES, "{own}")[number]
      found = fill(jnp.array([number, number]))
      self.assertEqual(found.shape, (2, 6 + 4))  # the longest: "with ... {near}"
      for i in range(2):
        slots = {
          name: _words(caption[i])
          for name, caption in (("own", OWN), ("near", NEAR), ("some", SOME))
        }
        self.assertEqual(_words(found[i]), template.format(**slots))
        real = np.asarray(found[i]) != -1
        self.assertFalse((np.diff(real.astype(int)) > 0).any(), "padding is behind")
    mixed = fill(jnp.array([0, 8]))
    self.assertEqual(_words(mixed[1]), "4 5")
    short = collm.encode_templates(_encode, ["make"])
    self.assertEqual(short.length(3), 3)  # room for a caption

  def test_three_of_four_have_a_template(self):
    templates, key = collm.encode_templates(_encode), jax.random.key(1)
    choose = jax.jit(
      lambda key: [
        collm.choose_templates(key, 4000, templates, *rate)
        for rate in ((), (0.0,), (1.0,))
      ]
    )
    usual, none, all_ = (np.bincount(x, minlength=9) / 4000 for x in choose(key))
    _close(usual, [0.75 / 8] * 8 + [0.25], 0.02)
    self.assertEqual(none[8], 1.0)
    self.assertEqual(all_[8], 0.0)

  def test_some_words_stay(self):
    caption = jnp.broadcast_to(jnp.array([5, 6, 7, -1]), (3000, 4))
    keep = jax.jit(collm.some_words)
    found = np.asarray(keep(jax.random.key(2), caption))
    kept = found[:, :3] >= 0
    self.assertTrue(kept.any(axis=1).all())
    self.assertTrue((found[:, 3] == -1).all())
    self.assertEqual(np.unique(found[:, 1]).tolist(), [-1, 6])
    # Each of three with 0.6, and one at least.
    self.assertAlmostEqual(kept.mean(), 0.6 + 0.4**3 / 3, delta=0.02)
    alone = np.asarray(collm.some_words(jax.random.key(2), caption, 0.0))
    self.assertEqual((alone >= 0).sum(axis=1).tolist(), [1] * 3000)

  def test_prompts(self):
    prompt = collm.encode_prompt(_encode)
    before = "instruct find the image that matches the query query"
    for image, text, want in (
      (True, OWN, f"{before} image {{image}} text 4 5"),
      (True, None, f"{before} image {{image}}"),
      (False, OWN, f"{before} text 4 5"),
    ):
      found = collm.compose(prompt, text, 2, image=image)
      self.assertEqual(_words(found[1]), want)
    bare = collm.encode_prompt(_encode, collm.BARE_PROMPT)
    found = collm.compose(bare, OWN, 2)
    self.assertEqual(found.tolist(), [[-2, 1, 2, 3], [-2, 4, 5, -1]])

  @parameterized.parameters(
    (lambda: collm.encode_templates(_encode, ()), "at least one is needed"),
    (lambda: collm.encode_prompt(_encode, ("{image}", "", "")), "{image} stands once"),
    (lambda: collm.compose(collm.Prompt((), (-2,), ()), None, 2, image=False), "both"),
    (
      lambda: collm.choose_templates(
        jax.random.key(0), 2, collm.encode_templates(_encode), 1.5
      ),
      "text_rate = 1.5; it must be from 0 to 1",
    ),
  )
  def test_errors_name_value_and_rule(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


class TripletTest(absltest.TestCase):
  def test_references_and_targets(self):
    v, templates = _draw(5, 4), collm.encode_templates(_encode)
    captions = jnp.array([[1, 2], [3, -1], [4, 5], [6, 7], [8, 9]])

    @jax.jit
    def run(v, captions):
      key, found = jax.random.key(0), {}
      asked: dict[str, Any] = {
        "usual": {},
        "own": {"alpha": 0.0, "text_rate": 0.0},
        "other": {"alpha": 1.0, "text_rate": 1.0},
        "random": {"neighbour": "random", "alpha": 1.0},
      }
      for name, options in asked.items():
        found[name] = collm.synthesize_triplets(v, captions, key, templates, **options)
      return found

    found = run(v, captions)
    near = np.asarray(collm.nearest_in_batch(v))
    for made in found.values():
      self.assertEqual(made.target.tolist(), [0, 1, 2, 3, 4])
    self.assertEqual(found["usual"].neighbour.tolist(), near.tolist())
    middle = _unit(_unit(v) + _unit(v)[near])
    _close(found["usual"].reference, middle)
    _close(found["own"].reference, _unit(v))
    self.assertEqual(found["own"].text[:, :2].tolist(), captions.tolist())
    self.assertTrue((found["own"].text[:, 2:] == -1).all())
    _close(found["other"].reference, _unit(v)[near])
    self.assertTrue((np.asarray(found["other"].text) >= 40).any(axis=1).all())
    drawn = np.asarray(found["random"].neighbour)
    self.assertNotEqual(drawn.tolist(), near.tolist())
    _close(found["random"].reference, _unit(v)[drawn])
    # A neighbour with an equal caption is passed over; without any the text is plain.
    same = run(v, jnp.where(jnp.arange(5)[:, None] == near[0], captions[0], captions))
    self.assertNotEqual(int(same["usual"].neighbour[0]), near[0])
    alone = run(v, jnp.broadcast_to(captions[0], (5, 2)))["other"]
    self.assertEqual(alone.neighbour.tolist(), [-1] * 5)
    _close(alone.reference, _unit(v))
    self.assertEqual([_words(text) for text in alone.text], ["1 2"] * 5)

  def test_gradients_stop_unless_the_images_are_tuned(self):
    v, templates = _draw(4, 3), collm.encode_templates(_encode, ["make {some}"])
    captions = jnp.arange(8).reshape(4, 2)

    @jax.jit
    def slopes(v):
      def total(v, *stop):
        options = {"stop_gradient": stop[0]} if stop else {}
        made: Any = collm.synthesize_triplets(
          v, captions, jax.random.key(0), templates, **options
        )
        return jnp.sum(jnp.sin(made.reference * jnp.arange(3)))

      return [jax.grad(lambda v, s=s: total(v, *s))(v) for s in ((), (True,), (False,))]

    usual, stopped, tuned = slopes(v)
    self.assertFalse(np.asarray(usual).any() or np.asarray(stopped).any())
    self.assertTrue(np.asarray(tuned).any(axis=1).all())

  def test_other_pairs_may_be_excluded(self):
    v, templates = _draw(4, 3), collm.encode_templates(_encode)
    captions = jnp.arange(8).reshape(4, 2)
    exclude = jnp.ones((4, 4), bool).at[:, 2].set(False)
    run = jax.jit(
      lambda v: collm.synthesize_triplets(
        v, captions, jax.random.key(0), templates, exclude=exclude
      )
    )
    made = run(v)
    self.assertEqual(made.neighbour.tolist(), [2, 2, -1, 2])
    with self.assertRaisesRegex(ValueError, "neighbour.*'far'.*nearest"):
      collm.synthesize_triplets(
        v, captions, jax.random.key(0), templates, neighbour="far"
      )


class QueryTest(absltest.TestCase):
  def test_the_last_token_of_a_causal_model(self):
    build = contract.constructor("dot_product", {"heads": 2}, ("causal",))
    lm = language.Model(
      [build], vocab=60, dim=8, depth=1, embed_scale=3.0, rngs=nnx.Rngs(0)
    )
    adapter = collm.Adapter(5, 8, rngs=nnx.Rngs(1))
    scorer = collm.Scorer({"queries": 8, "items": 5}, width=4, rngs=nnx.Rngs(2))
    image = 3 * _draw(1, 5)
    row = [50, -2, 7, 9]
    rows = [[*row, -1, -1], [-1, -1, *row], [-1, *row, -1], [-1, *row[::-1], -1]]

    def embed(lm, image, tokens):
      return collm.embed_query(lm, adapter, scorer, image, tokens)

    run = jax.jit(embed)
    found = run(lm, jnp.repeat(image, 4, axis=0), jnp.array(rows))
    _close(np.linalg.norm(found, axis=-1), np.ones(4))
    _close(found[1:3], found[:1].repeat(2, axis=0))
    self.assertGreater(np.abs(found[3] - found[0]).max(), 1e-3)
    # The same by hand, without padding.
    first, second = adapter.first, adapter.second
    x = image @ np.asarray(first.kernel) + np.asarray(first.bias)
    gelu = x * (1 + np.array([[math.erf(y / math.sqrt(2)) for y in x[0]]])) / 2
    own = gelu @ np.asarray(second.kernel) + np.asarray(second.bias)
    _close(adapter(image), own)
    table = 3 * np.asarray(lm.embed.embedding)
    embedded = np.stack([table[50], own[0], table[7], table[9]])[None]
    read = jax.jit(lambda lm, x: lm.norm(lm.stack(x))[:, -1])
    last = read(lm, jnp.asarray(embedded, jnp.float32))
    want = _unit(np.asarray(last) @ np.asarray(scorer.queries.kernel))
    _close(found[:1], want, 1e-4)
    text = run(lm, None, jnp.array([[50, 7, 9, -1]]))
    self.assertGreater(np.abs(text - want).max(), 1e-3)

  def test_scores_are_cosines_of_two_maps(self):
    hidden, items = _draw(3, 2, 6), _draw(4, 5, seed=1)
    valid = jnp.array([[True, True], [True, False], [False, False]])
    scorer: Any = collm.Scorer({"queries": 6, "items": 5}, rngs=nnx.Rngs(0))
    last = np.stack([hidden[0, 1], hidden[1, 0], np.zeros(6)])
    q = last @ np.asarray(scorer.queries.kernel)
    t = items @ np.asarray(scorer.items.kernel)
    q[:2] = _unit(q[:2])
    run = jax.jit(lambda *x: scorer(*x, query_valid=valid, tile=2))
    found = run(hidden, items)
    _close(found, q @ _unit(t).T)
    shapes = [x.shape for x in jax.tree.leaves(scorer)]
    self.assertCountEqual(shapes, [(6, 5), (5, 5)])  # no biases, and the items' width
    plain = collm.Scorer(
      {"queries": 6, "items": 5}, project_items=False, rngs=nnx.Rngs(0)
    )
    _close(plain.embed_items(items), _unit(items))
    options: Any
    for options in ({"width": -1}, {"width": 4, "project_items": False}):
      with self.assertRaisesRegex(ValueError, "width = .*it must be at least 1, and"):
        collm.Scorer({"queries": 6, "items": 5}, **options, rngs=nnx.Rngs(0))


class LossTest(absltest.TestCase):
  def test_by_hand(self):
    q = jnp.eye(2)
    t = jnp.array([[0.8, 0.6], [0.28, 0.96]])  # products 0.8, 0.28; 0.6, 0.96
    scale = jnp.log(2.0)

    def log(own, other):
      return math.log1p(math.exp(2 * (other - own)))

    rows = log(0.8, 0.28) + log(0.96, 0.6)
    columns = log(0.8, 0.6) + log(0.96, 0.28)
    first = jnp.array([[False, False], [True, False]])
    run = jax.jit(collm.info_nce, static_argnames=("tile",))
    self.assertAlmostEqual(float(run(q, t, scale)), (rows + columns) / 4, places=5)
    self.assertAlmostEqual(
      float(run(q, t, scale, first)), (log(0.96, 0.6) + log(0.8, 0.6)) / 4, places=5
    )
    self.assertAlmostEqual(float(run(q, t, scale - 50)), math.log(2), places=5)
    total = jax.jit(lambda q: collm.pretraining_loss(q, t, scale, first, tile=1))
    got = total({"image": q, "composed": t})
    want = (run(q, t, scale, first) + run(t, t, scale, first)) / 2
    self.assertAlmostEqual(float(got), float(want), places=5)

  def test_errors_name_value_and_rule(self):
    q, scale = jnp.ones((2, 3)), jnp.zeros(())
    for call, message in (
      (lambda: collm.info_nce(q, q, scale, tile=-1), "tile = -1; it must be at"),
      (lambda: collm.pretraining_loss({}, q, scale), "at least one kind"),
      (lambda: collm.pretraining_loss({"sound": q}, q, scale), "'sound'.*composed"),
    ):
      with self.subTest(message), self.assertRaisesRegex(ValueError, message):
        call()


if __name__ == "__main__":
  absltest.main()
