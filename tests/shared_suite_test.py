"""The shared suite: its protocol on tiny problems, its rows and its command."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from experiments import errors
from experiments.suite import __main__ as command
from experiments.suite import images, long_tokens, problems, rows, tokens, training

_TINY = problems.Problem(
  "mqar", {"vocab": 16, "length": 8, "pairs": 1}, longer={"length": 16}
)
_SIZES = {"HELD_OUT": 64, "DIM": 16, "DEPTH": 1, "HEADS": 1, "BATCH": 16, "CONV": 0}
_SIZES |= {"MARKS": 2, "POOL": 64, "LONGER_HELD_OUT": 16}


class SuiteTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    for made in (tokens.problem, tokens.builder, tokens.steps):
      made.cache_clear()
      self.addCleanup(made.cache_clear)

  def test_a_row_is_measured_once_and_kept(self):
    with (
      tempfile.TemporaryDirectory() as folder,
      mock.patch.dict(problems.PROBLEMS, {"tiny": _TINY}, clear=True),
      mock.patch.multiple(training, **_SIZES),
      mock.patch.multiple(tokens, LENGTHS=(8, 16), VOCAB=16, SEEN=400),
    ):
      root = Path(folder)
      rows.measure(["dot_product"], ["tiny"], root)
      text = (root / rows.RESULTS).read_text()
      self.assertRegex(text, r'"longer": \[[\d.]+, [\d.]+\]')
      record = json.loads(text)
      row = record["rows"]["tiny"]["dot_product"]
      self.assertEqual([r["rate"] for r in row["rates"]], list(training.RATES))
      best = max(row["rates"], key=lambda result: result["validation"])
      self.assertEqual({r["rate"] for r in row["seeds"]}, {best["rate"]})
      self.assertEqual([r["seed"] for r in row["seeds"]], list(training.SEEDS))
      # The first seed is not trained again; the longer test is of chosen rates.
      self.assertEqual(row["seeds"][0] | {"longer": []}, best)
      self.assertEqual([len(r["longer"]) for r in row["seeds"]], [2, 2, 2])
      # One pair: its value is the answer; by chance one of the 8 values is.
      self.assertGreater(best["test"], 0.3)
      self.assertBetween(record["chance"]["tiny"], 1 / 8, 0.3)
      self.assertEmpty(rows.stale(root))
      with mock.patch.object(training, "measured", side_effect=AssertionError):
        rows.measure(["dot_product"], ["tiny"], root)
      changed = problems.Problem("mqar", {**_TINY.options, "vocab": 20})
      with mock.patch.dict(problems.PROBLEMS, {"tiny": changed}):
        self.assertEqual(rows.stale(root), ["dot_product on tiny"])

  def test_a_registration_is_of_code_and_not_of_words(self):
    one = '"""A."""\nX = 1  # so\n\n\ndef f():\n  """B."""\n  return "s"\n'
    other = '"""C."""\nX = 1\n\n\ndef f():\n  """D."""\n  return "s"\n'
    self.assertEqual(rows._code(one), rows._code(other))
    self.assertNotEqual(rows._code(one), rows._code(one.replace('"s"', '"t"')))

  def test_examples_are_padded_where_nothing_is_asked(self):
    found = {"tokens": np.ones((2, 20), int), "labels": np.full((2, 20), 3)}
    got = tokens.padded(found, least=5)
    self.assertEqual(got["tokens"].shape, (5, 32))
    self.assertTrue((got["labels"][:, 20:] == -1).all())
    self.assertTrue((got["labels"][:, :20] == 3).all())
    self.assertEqual(tokens.answers(got).shape, (100,))

  def test_every_task_of_tokens_fits_the_models(self):
    with mock.patch.multiple(training, POOL=1, HELD_OUT=1, LONGER_HELD_OUT=1):
      for name, known in problems.TOKENS.items():
        self.assertEqual(tokens.steps(known) % training.MARKS, 0, name)
        for longer in (False, True)[: 1 + bool(known.longer)]:
          found = tokens.problem(known, longer).examples(0, "test")
          self.assertIn(found["tokens"].shape[1], tokens.LENGTHS, name)
          self.assertLess(found["tokens"].max(), tokens.VOCAB, name)
          self.assertLess(found["labels"].max(), tokens.VOCAB, name)

  def test_all_models_see_as_many_tokens(self):
    got = {name: tokens.steps(known) for name, known in problems.TOKENS.items()}
    for name, steps in (("parity", 800), ("compression", 400), ("needle", 200)):
      self.assertEqual(got[name], steps)

  def test_every_long_task_fits_the_models(self):
    with mock.patch.multiple(training, POOL=1, HELD_OUT=1, LONGER_HELD_OUT=1):
      for name, known in problems.LONG.items():
        self.assertIs(rows.half(name), long_tokens)
        self.assertEqual(long_tokens.steps(known), 800, name)
        for longer, length in zip((False, True), long_tokens.LENGTHS):
          found = long_tokens.problem(known, longer).examples(0, "test")
          self.assertEqual(found["tokens"].shape, (1, length), name)
          self.assertLess(found["tokens"].max(), tokens.VOCAB, name)
          self.assertLess(found["labels"].max(), tokens.VOCAB, name)
          self.assertGreater(found["labels"].max(), -1, name)

  def test_a_registration_of_a_long_task_is_of_the_tasks_of_tokens_too(self):
    code, changed = rows._code, []

    def counted(text):
      changed.append(text)
      return code(text)

    with mock.patch.object(rows, "_code", counted):
      rows.registration("long_needle")
      rows.registration("needle")
    modules = (training, long_tokens, tokens, training, tokens)
    want = [Path(module.__file__ or "").read_text("utf-8") for module in modules]
    self.assertEqual(changed, want)

  def test_the_state_of_long_contexts(self):
    build = tokens.builder("dot_product")
    found = long_tokens.state(jax.eval_shape(build, jax.random.key(0)))
    kept = training.DEPTH * (2 * training.DIM + 1)
    self.assertEqual(found["512"] - found["128"], 384 * kept)
    self.assertEqual(long_tokens.state(None), {})

  def test_images_are_of_one_size(self):
    for side, channels in ((8, 1), (28, 1), (16, 1), (32, 3)):
      image = np.random.default_rng(0).random((1, side, side, channels))
      got = images.resized(image)
      self.assertEqual(got.shape, (1, images.SIDE, images.SIDE, images.CHANNELS))
      times = images.SIDE // side
      self.assertAlmostEqual(got[..., 0].sum(), times**2 * image[..., 0].sum())
    np.testing.assert_array_equal(got, image)

  def test_the_state_of_a_model(self):
    build = tokens.builder("dot_product")
    found = tokens.state(jax.eval_shape(build, jax.random.key(0)))
    kept = 2 * training.DEPTH * training.DIM
    # Keys, values, and the number of each token's document.
    self.assertEqual(found["64"] - found["32"], 32 * (kept + training.DEPTH))

  def test_none_sees_no_other_token_but_by_the_convolution(self):
    model = tokens.builder(training.NONE)(jax.random.key(0))
    # The convolutions are drawn as the identity.
    model = jax.tree.map(lambda leaf: leaf + 0.1, model)
    asked = jnp.zeros((1, 32), int)
    moved = jnp.abs(model(asked) - model(asked.at[0, 0].set(1))).max((0, 2)) > 0
    reach = training.DEPTH * (training.CONV - 1) + 1
    self.assertEqual(np.flatnonzero(moved).tolist(), list(range(reach)))

  def test_unknown_names(self):
    for flag, value in (("--tasks", "mqr"), ("--mechanisms", "dot_prod")):
      with self.assertRaisesRegex(errors.UserError, f"{value}.*did you mean"):
        command.main([flag, value])


if __name__ == "__main__":
  absltest.main()
