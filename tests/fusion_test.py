"""The vision-language host: its row, what sees what, decoding, runs with a report."""

import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax import contract
from attnjax.models import fusion
from configs import fusion as config
from experiments import errors, run, sample
from experiments.pages.shows import image_text
from tests.pages import check_alone

IMAGES = jax.random.normal(jax.random.key(0), (2, 10, 13, 3))
WORDS = jax.random.randint(jax.random.key(1), (2, 9), 0, 17)
P = 3 * 4  # patches of 4 x 4 pixels
_call = jax.jit(lambda model, *x, **c: model(*x, **c))


def _model(slug="dot_product", **changes):
  options = {"channels": 3, "vocab": 17, "patch": 4, "dim": 16, "depth": 2} | changes
  build = contract.constructor(slug, {"heads": 2}, fusion.FORMS)
  return fusion.Model([build], rngs=nnx.Rngs(0), **options)


class FusionTest(parameterized.TestCase):
  @parameterized.parameters(0, 1, 9)
  def test_the_image_stands_after_the_prompt(self, prompt):
    model = _model(prompt=prompt)
    self.assertEqual(model.grid(IMAGES.shape), (3, 4))
    self.assertEqual(model.span(IMAGES.shape), (prompt, prompt + P))
    x, _ = model.row(IMAGES, WORDS)
    words = model.embed.embedding[...][WORDS]
    _close(x[:, :prompt], words[:, :prompt])
    _close(x[:, prompt + P :], words[:, prompt:])
    _close(x[:, prompt : prompt + P], model.connector(model.patches(IMAGES)).reshape(
      2, P, 16))  # fmt: skip
    self.assertEqual(_call(model, IMAGES, WORDS).shape, (2, 9, 17))

  @parameterized.parameters((IMAGES + 1, 3), (IMAGES.at[:, -1, -1].add(9.0), 3))
  def test_words_after_the_prompt_see_the_image(self, images, prompt):
    model = _model(prompt=prompt)
    first, other = _call(model, IMAGES, WORDS), _call(model, images, WORDS)
    _close(other[:, :prompt], first[:, :prompt])
    for word in range(prompt, 9):
      self.assertGreater(jnp.abs(other - first)[:, word].max(), 1e-4, word)

  def test_words_see_no_later_words(self):
    model = _model()
    first, other = (
      _call(model, IMAGES, words) for words in (WORDS, WORDS.at[:, 5].add(1) % 17)
    )
    _close(other[:, :5], first[:, :5])
    self.assertGreater(jnp.abs(other - first)[:, 6:].max(), 1e-3)

  @parameterized.parameters((0, (9,)), (3, (4, 1, 4)))
  def test_decodes_as_it_is_called(self, conv, cuts):
    model = _model(conv=conv)
    step = jax.jit(lambda model, words, cache, **c: model.step(words, cache, **c))
    cache, out, at = model.init_cache(2, 9 + P), [], 0
    for size in cuts:
      image = {} if at else {"images": IMAGES}
      logits, cache = step(model, WORDS[:, at : at + size], cache, **image)
      out.append(logits)
      at += size
    _close(jnp.concatenate(out, axis=1), _call(model, IMAGES, WORDS))

  def test_padding_is_seen_by_nobody(self):
    model = _model(prompt=2)
    real = jnp.ones((2, 12), bool).at[:, 9:].set(False).at[1, 0].set(False)
    padded = jnp.concatenate([WORDS, WORDS[:, :3]], axis=1)
    want = _call(model, IMAGES, padded.at[1, 0].set(3), valid=real)
    got = _call(model, IMAGES, padded.at[1, 0].set(5), valid=real)
    _close(got[real], want[real])
    _close(got[0, :9], _call(model, IMAGES, WORDS)[0])
    cache = model.init_cache(2, 12 + P)
    step = jax.jit(lambda model, words, cache, **c: model.step(words, cache, **c))
    given = {"images": IMAGES, "valid": real[:, :5]}
    first, cache = step(model, padded[:, :5], cache, **given)
    rest, _ = step(model, padded[:, 5:], cache, valid=real[:, 5:])
    steps = jnp.concatenate([first, rest], axis=1)
    _close(steps[real], want[real])

  def test_a_trace_is_the_call_taken_apart(self):
    model = _model()

    @jax.jit
    def run(model):
      return model.trace(IMAGES, WORDS), model.weights(IMAGES, WORDS)

    trace, weights = run(model)
    _close(trace.output, _call(model, IMAGES, WORDS))
    self.assertLen(trace.hidden, 3)
    _close(trace.hidden[0], model.row(IMAGES, WORDS)[0])
    for index, _, block, _ in model.stack.each():
      self.assertEqual(weights[index].shape, (2, 2, 9 + P, 9 + P))
      _close(contract.shares(block.mixer, trace.heads[index]), weights[index])

    def edit(index, heads):
      first, end = model.span(IMAGES.shape)
      blind = heads.v.at[:, first:end].set(0) if index == 1 else heads.v
      return dataclasses.replace(heads, v=blind)

    edited = jax.jit(lambda m: m.trace(IMAGES, WORDS, edit=edit))(model)
    _close(edited.hidden[1], trace.hidden[1])
    self.assertGreater(jnp.abs(edited.output - trace.output).max(), 1e-3)

  def test_every_parameter_has_a_gradient(self):
    model = _model()

    def loss(model):
      return jnp.sum(jnp.sin(model(IMAGES, WORDS)))

    slopes = jax.jit(jax.grad(loss))(model)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
      self.assertTrue((slope != 0).any(), jax.tree_util.keystr(path))

  def test_errors_name_value_and_rule(self):
    with self.assertRaisesRegex(ValueError, "prompt = -1; it must be at least 0"):
      _model(prompt=-1)
    with self.assertRaisesRegex(ValueError, "9 words; prompt = 10 stand before"):
      _model(prompt=10)(IMAGES, WORDS)


class RunTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.workdir = Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "run"
    c = config.get_config()
    c.steps, c.log_every, c.eval_every, c.save_every = 3, 1, 3, 3
    c.data.batch, c.data.held_out, c.eval_batches = 4, 30, 1
    c.data.questions, c.data.kinds = 2, "describe,colour"
    c.model.dim, c.model.depth, c.optimizer.warmup = 16, 1, 1
    with contextlib.redirect_stdout(io.StringIO()):
      cls.outcome = run.run(c, cls.workdir)

  def test_the_report_shows_questions_and_answers(self):
    self.assertEqual(self.outcome, "finished")
    page = check_alone(self, (self.workdir / "report.html").read_text())
    self.assertIn("of these 24 are right", page.text)
    alts = [image["alt"] for image in page.all("img")]
    asked = [alt for alt in alts if alt.startswith(("what colour", "describe"))]
    self.assertLen(asked, 24)
    for words in ("what colour is the", "describe the picture . true", "predicted"):
      self.assertIn(words, page.text)
    self.assertIn("attention weights of block 0, head 0", alts)

  def test_there_is_no_text_to_sample(self):
    with self.assertRaisesRegex(errors.UserError, "'scenes' is no text"):
      sample.main(["--workdir", str(self.workdir)])


class QuestionsTest(absltest.TestCase):
  def test_of_labels(self):
    labels = np.array([-1, -1, 7, -1, -1, -1, 3, 4, -1, -1])
    self.assertEqual(image_text.questions(labels), [(0, 2, 3), (4, 6, 8)])
    self.assertEqual(image_text.questions(np.array([5])), [(0, 0, 1)])

  def test_answers_are_written_word_after_word(self):
    """A model that says the number of the word before, and one."""

    class Next:
      def predict(self, model, stats, row):
        return (jax.nn.one_hot(row["tokens"] + 1, 50),)

    labels = np.array([[-1, 9, 9, 9, -1, 9]])
    batch = {"labels": labels, "tokens": np.array([[1, 20, 0, 0, 30, 40]])}
    said = image_text.answered(Next(), {"model": 0, "stats": ()}, batch)
    self.assertEqual(said[0].tolist(), [2, 21, 22, 23, 24, 41])


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


if __name__ == "__main__":
  absltest.main()
