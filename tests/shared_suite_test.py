"""The shared suite: its protocol on a tiny problem, its rows and its command."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import jax
from absl.testing import absltest

from experiments import errors
from experiments.suite import __main__ as command
from experiments.suite import problems, rows, training

_TINY = problems.Problem(
  "mqar",
  {"vocab": 16, "length": 8, "pairs": 1},
  steps=50,
  pool=64,
  longer={"length": 16},
)


class SuiteTest(absltest.TestCase):
  def test_a_row_is_measured_once_and_kept(self):
    with (
      tempfile.TemporaryDirectory() as folder,
      mock.patch.dict(problems.PROBLEMS, {"tiny": _TINY}, clear=True),
      mock.patch.multiple(training, HELD_OUT=64, DIM=16, DEPTH=1, HEADS=1, BATCH=16),
    ):
      root = Path(folder)
      rows.measure(["dot_product"], ["tiny"], root)
      record = json.loads((root / rows.RESULTS).read_text())
      row = record["rows"]["tiny"]["dot_product"]
      self.assertEqual([r["rate"] for r in row["rates"]], list(training.RATES))
      best = max(row["rates"], key=lambda result: result["validation"])
      self.assertEqual({r["rate"] for r in row["seeds"]}, {best["rate"]})
      self.assertEqual([r["seed"] for r in row["seeds"]], list(training.SEEDS))
      self.assertEqual(row["seeds"][0], best)  # the first seed is not trained again
      # One pair: its value is the answer; by chance one of the 8 values is.
      self.assertGreater(best["test"], 0.3)
      self.assertGreater(best["longer"], 0.0)
      self.assertEmpty(rows.stale(root))
      with mock.patch.object(training, "measured", side_effect=AssertionError):
        rows.measure(["dot_product"], ["tiny"], root)
      changed = problems.Problem("mqar", {**_TINY.options, "vocab": 20})
      with mock.patch.dict(problems.PROBLEMS, {"tiny": changed}):
        self.assertEqual(rows.stale(root), ["dot_product on tiny"])

  def test_state_of_a_model(self):
    build = training.builder("dot_product", training.task(_TINY)[1])
    model = jax.eval_shape(lambda: build(jax.random.key(0)))
    short, long = (training.state(model, length) for length in (8, 16))
    kept = 2 * training.DEPTH * training.DIM
    # Keys, values, and the number of each token's document.
    self.assertEqual(long - short, 8 * (kept + training.DEPTH))

  def test_unknown_names(self):
    for flag, value in (("--tasks", "mqr"), ("--mechanisms", "dot_prod")):
      with self.assertRaisesRegex(errors.UserError, f"{value}.*did you mean"):
        command.main([flag, value])


if __name__ == "__main__":
  absltest.main()
