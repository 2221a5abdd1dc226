"""The comparison of runs."""

import contextlib
import io
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from absl.testing import absltest, parameterized

from experiments import compare, errors
from experiments.pages import records
from experiments.pages.columns import Column
from experiments.training.metrics import Log
from tests import workdirs
from tests.pages import check_alone


class CompareTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))

  def compare(self, *names):
    """(status, stdout, stderr)."""
    arguments = [str(self.root / name) for name in names]
    with (
      contextlib.redirect_stdout(io.StringIO()) as out,
      contextlib.redirect_stderr(io.StringIO()) as err,
    ):
      arguments += ["--output", str(self.root / "compare.html")]
      status = errors.guard(compare.main, arguments)
    return status, out.getvalue(), err.getvalue()

  def table(self, *names):
    """The rows of the table on stdout, by column and in order of the runs."""
    status, out, _ = self.compare(*names)
    self.assertEqual(status, 0)
    head, *rows = [line.split("  ") for line in out.splitlines()[: len(names) + 1]]
    head, *rows = [[w.strip() for w in row if w.strip()] for row in (head, *rows)]
    return {name: [row[i] for row in rows] for i, name in enumerate(head)}, out

  def test_a_record_has_the_summaries(self):
    workdirs.make(self.root / "a", losses=(3.0, 1.5, 2.0), step_seconds=0.25)
    path = self.root / "kept" / "runs.json"
    output = str(self.root / "compare.html")
    arguments = [str(self.root / "a"), "--output", output, "--record", str(path)]
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(compare.main(arguments), 0)
    (row,) = json.loads(path.read_text())
    summary = records.summary(self.root / "a")
    self.assertEqual({name: row[name] for name in summary}, summary)
    self.assertEqual(row["run"], "a")
    self.assertGreater(row["tokens_per_second"], 0)
    older = [{"run": "a", "steps": 1}, {"run": "other", "steps": 2}]
    path.write_text(json.dumps(older))
    with contextlib.redirect_stdout(io.StringIO()):
      compare.main(arguments)
    self.assertEqual(json.loads(path.read_text()), [row, older[1]])
    (self.root / "a" / "summary.json").unlink()
    with (
      contextlib.redirect_stdout(io.StringIO()),
      self.assertRaisesRegex(errors.UserError, "a .unfinished. has no summary.json"),
    ):
      compare.main(arguments)

  def test_values_and_marks(self):
    workdirs.make(self.root / "a", losses=(3.0, 1.5, 2.0), step_seconds=0.25)
    workdirs.make(self.root / "b", losses=(3.0, 1.8, 1.75), step_seconds=0.5, rate=1e-4)
    table, out = self.table("a", "b")
    self.assertEqual(
      table,
      {
        "run": ["a", "b"],
        "optimizer.rate": ["0.003", "0.0001"],
        "steps done": ["30", "30"],
        "final loss": ["2", "1.75*"],
        "best loss": ["1.5*", "1.75"],
        "final bits/byte": ["2.885", "2.525*"],
        "best bits/byte": ["2.164*", "2.525"],
        "parameters": ["812k", "812k"],
        "FLOPs a step": ["3.21G", "3.21G"],
        "memory": ["4 MiB", "4 MiB"],
        "time a step": ["250 ms*", "500 ms"],
        "tokens/s": ["14.2k", "14.2k"],
      },
    )
    self.assertIn(f"page: {self.root / 'compare.html'}", out)

  def test_page(self):
    workdirs.make(self.root / "a<i>", losses=(3.0, 1.5))
    workdirs.make(self.root / "b", losses=(3.0, 1.8), options={"block": 64})
    self.compare("a<i>", "b")
    read = check_alone(self, (self.root / "compare.html").read_text())
    self.assertLen(read.all("svg"), 2)
    self.assertIn("a<i> 20 1.5 ★ 1.5 ★ 2.164 ★", read.text)
    self.assertIn("attention.window 16 – attention.block – 64", read.text)

  def test_accuracy_is_better_when_higher(self):
    for name, loss in (("a", 1.0), ("b", 2.0)):
      workdirs.make(self.root / name, metric="accuracy", losses=(2.5, loss))
    table, _ = self.table("a", "b")
    self.assertEqual(table["final accuracy"], ["0.75*", "0.5"])

  def test_unfinished_run_has_what_its_log_has(self):
    workdirs.make(self.root / "a")
    workdirs.make(self.root / "b")
    workdirs.make(self.root / "c", losses=(3.0, 1.0), finished=False)
    table, _ = self.table("a", "b", "c")
    self.assertEqual(table["run"][2], "c (unfinished)")
    self.assertEqual(table["steps done"], ["30", "30", "20"])
    self.assertEqual(table["best loss"], ["1.5", "1.5", "1"])  # not marked
    self.assertEqual(table["parameters"], ["812k", "812k", "–"])

  def test_run_that_has_only_started(self):
    workdirs.make(self.root / "a", losses=(), finished=False)
    table, _ = self.table("a")
    self.assertEqual(table, {"run": ["a (unfinished)"]})

  def test_diverged_run_shows_its_nan_and_is_not_the_best(self):
    workdirs.make(self.root / "a", losses=(3.0, math.nan))
    workdirs.make(self.root / "b", losses=(3.0, 2.0))
    workdirs.make(self.root / "c", losses=(3.0, 2.5))
    table, _ = self.table("a", "b", "c")
    self.assertEqual(table["final loss"], ["nan", "2*", "2.5"])
    self.assertEqual(table["best loss"], ["3", "2*", "2.5"])

  def test_different_data_are_told_and_not_marked(self):
    workdirs.make(self.root / "a", losses=(2.0,))
    workdirs.make(self.root / "b", losses=(1.0,), data="digits", metric="accuracy")
    table, out = self.table("a", "b")
    self.assertEqual(table["final loss"], ["2", "1"])
    self.assertEqual(table["final accuracy"], ["–", "0.75"])
    self.assertIn("different data (a: kjv, b: digits)", out)
    self.assertIn("Only some runs measured: accuracy, bits/byte.", out)

  def test_training_numbers_are_told(self):
    workdirs.make(self.root / "a", losses=(), finished=False)
    with Log(self.root / "a") as log:
      log.write(10, "train", loss=3.5, gradient_norm=0.5)
    table, out = self.table("a")
    self.assertEqual(table["final loss"], ["3.5"])
    self.assertNotIn("gradient", out)
    self.assertIn("Training numbers, for want of validation: a.", out)

  def test_mechanisms_own_options_are_no_columns(self):
    workdirs.make(self.root / "a", options={"window": 16, "heads": 4})
    workdirs.make(self.root / "b", options={"block": 64, "heads": 8}, mechanism="m")
    table, _ = self.table("a", "b")
    self.assertEqual(table["mechanism"], ["dot_product", "m"])
    self.assertEqual(table["attention.heads"], ["4", "8"])
    self.assertNoCommonElements(table, ["attention.window", "attention.block"])

  def test_folders_of_one_name(self):
    for part in ("x", "y"):
      workdirs.make(self.root / part / "lm")
    table, _ = self.table("x/lm", "y/lm")
    self.assertEqual(table["run"], [str(self.root / p / "lm") for p in ("x", "y")])
    self.assertEqual(
      [r.name for r in compare.load([str(self.root / "x/lm")] * 2)], ["lm"]
    )

  def test_no_folder_no_run_no_place(self):
    (self.root / "empty").mkdir()
    workdirs.make(self.root / "broken")
    (self.root / "broken" / records.SUMMARY).write_text("[]")
    for name, words in (
      ("missing", "there is no folder"),
      ("empty", "is not the folder of a run: it has no config.json"),
      ("broken", "holds no JSON object"),
    ):
      status, out, err = self.compare(name)
      self.assertEqual((status, out), (2, ""))
      self.assertRegex(err, f"^error: .*{words}.*\n$")

  def test_program(self):
    command = [sys.executable, "-m", "experiments.compare"]
    place = Path(__file__).parent.parent
    run = {"cwd": place, "capture_output": True, "text": True, "check": False}
    missing = subprocess.run([*command, str(self.root / "missing")], **run)
    self.assertEqual(missing.returncode, 2)
    self.assertLen(missing.stderr.splitlines(), 1)
    help_ = subprocess.run([*command, "--help"], **run)
    self.assertEqual(help_.returncode, 0)
    self.assertIn("--output FILE", help_.stdout)


class ColumnTest(absltest.TestCase):
  def test_ties_are_all_best_but_no_choice_is_none(self):
    best = Column("x", [1.0, 1.0, 2.0, None], better=min).best([True] * 4)
    self.assertEqual(best, {0, 1})
    self.assertEqual(Column("x", [1.0, 1.0], better=min).best([True] * 2), set())
    self.assertEqual(Column("x", [1.0, 2.0]).best([True] * 2), set())


if __name__ == "__main__":
  absltest.main()
