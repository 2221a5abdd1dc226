"""The application from end to end, on tiny runs: train, stop, go on, evaluate."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest

from configs import induction, vit
from experiments import compare, errors, evaluate, locking, run, sample
from experiments.build import assemble
from experiments.training import loop, metrics
from experiments.training.progress import Progress

_ROOT = Path(__file__).parent.parent


def tiny(mechanism="dot_product", **changes):
  """A language model that trains in a second: 12 steps on 16 tokens."""
  c = induction.get_config(mechanism)
  c.steps, c.log_every, c.eval_every, c.save_every = 12, 1, 4, 4
  c.model.dim, c.eval_batches = 16, 2
  c.data.length, c.data.batch = 16, 4
  c.optimizer.warmup = 2
  for name, value in changes.items():
    section, *path = [c, *name.split("__")]
    for part in path[:-1]:
      section = section[part]
    section[path[-1]] = value
  return c


def losses(workdir):
  """Every logged loss, in full precision."""
  return [(m["split"], m["step"], m["loss"]) for m in metrics.read(workdir)]


class RunTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.whole = Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "whole"
    cls.outcome = run.run(tiny(), cls.whole)

  def setUp(self):
    super().setUp()
    self.workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"

  def test_leaves_everything(self):
    self.assertEqual(self.outcome, "finished")
    summary = json.loads((self.whole / "summary.json").read_text())
    self.assertEqual(summary["steps"], 12)
    self.assertGreater(summary["flops_per_step"], 0)
    self.assertGreater(summary["bytes_temporary"], 0)
    self.assertIn("<svg", (self.whole / "report.html").read_text())
    self.assertNotEmpty(list((self.whole / "tensorboard").iterdir()))
    steps = {m["step"] for m in metrics.read(self.whole) if m["split"] == "train"}
    self.assertEqual(steps, set(range(1, 13)))

  def test_loss_falls(self):
    values = [loss for split, _, loss in losses(self.whole) if split == "train"]
    self.assertLess(np.mean(values[-4:]), np.mean(values[:4]))

  def test_a_finished_run_runs_again_at_once(self):
    before = losses(self.whole)
    self.assertEqual(run.run(tiny(), self.whole), "finished")
    self.assertEqual(losses(self.whole), before)

  def test_sigterm_saves_and_the_same_command_goes_on_bit_equal(self):
    def stop():
      with self.assertRaisesRegex(errors.UserError, f"in use by process {os.getpid()}"):
        run.run(tiny(), self.workdir)
      os.kill(os.getpid(), signal.SIGTERM)

    with _every_step(stop, at=6):
      self.assertEqual(run.run(tiny(), self.workdir), "stopped")
    self.assertFalse((self.workdir / locking.FILE).exists())
    self.assertLess(losses(self.workdir)[-1][1], 9)
    self.assertEqual(run.run(tiny(), self.workdir), "finished")
    self.assertEqual(losses(self.workdir), losses(self.whole))

  def test_sigkill_at_any_step_goes_on_bit_equal(self):
    command = [sys.executable, "-m", "tests.run_test", "train", str(self.workdir)]
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(_lines(self.workdir)) < 8:
      time.sleep(0.01)
    process.kill()
    process.wait()
    self.assertLess(losses(self.workdir)[-1][1], 12)
    self.assertEqual(run.run(tiny(), self.workdir), "finished")
    self.assertEqual(losses(self.workdir), losses(self.whole))

  def test_gradient_accumulation_is_the_same_update(self):
    run.run(tiny(steps=4, optimizer__accumulate=2), self.workdir)
    want = [x for x in losses(self.whole) if x[1] <= 4 and x[0] == "train"]
    got = [x for x in losses(self.workdir) if x[0] == "train"]
    np.testing.assert_allclose([x[2] for x in got], [x[2] for x in want], rtol=1e-5)

  def test_bfloat16_trains_close_by(self):
    run.run(tiny(dtype="bfloat16"), self.workdir)
    got, want = losses(self.workdir), losses(self.whole)
    np.testing.assert_allclose([x[2] for x in got], [x[2] for x in want], rtol=0.05)

  def test_remat_and_untied_head(self):
    config = tiny(steps=2, model__remat="full", model__tied=False, model__dropout=0.1)
    self.assertEqual(run.run(config, self.workdir), "finished")

  def test_hybrid_pattern(self):
    config = tiny("lightning2,dot_product", steps=2, model__depth=4)
    config.attention.lightning2.slope_kind = "minimax"
    self.assertEqual(run.run(config, self.workdir), "finished")

  def test_another_shape_is_an_error_and_no_second_compilation(self):
    trainer = loop.Trainer(assemble(tiny()), self.workdir)
    batch = {n: np.asarray(x)[:2] for n, x in next(trainer.data).items()}
    with self.assertRaises(TypeError):
      trainer._update(trainer.state, batch)
    trainer._may_save = mock.Mock(side_effect=errors.UserError("taken over"))
    with self.assertRaisesRegex(errors.UserError, "taken over"):
      trainer._save()
    self.assertEmpty(trainer.checkpoints.steps())
    trainer.close()

  def test_evaluate_sample_and_compare(self):
    with self.assertRaisesRegex(errors.UserError, "no text"):
      sample.main(["--workdir", str(self.whole)])
    evaluate.main(["--workdir", str(self.whole), "--split", "test", "--batches", "2"])
    run.run(tiny(model__depth=2), self.workdir)
    page = self.workdir / "compare.html"
    compare.main([str(self.whole), str(self.workdir), "--output", str(page)])
    self.assertIn("model.depth", page.read_text())

  def test_images(self):
    config = vit.get_config("dot_product")
    config.steps, config.eval_batches, config.data.batch = 2, 1, 8
    config.model.depth, config.model.dim = 1, 16
    self.assertEqual(run.run(config, self.workdir), "finished")
    self.assertIn("data:image/png", (self.workdir / "report.html").read_text())


@contextlib.contextmanager
def _every_step(action, at=0):
  """Calls a function after every step, or after step `at` only."""
  original = Progress.update

  def update(self, step, **numbers):
    original(self, step, **numbers)
    if at in (0, step):
      action()

  with mock.patch.object(Progress, "update", update):
    yield


def _lines(workdir):
  path = workdir / "metrics.jsonl"
  return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
  if sys.argv[1:2] == ["train"]:
    # Slow enough for a test to kill it between two steps.
    with _every_step(lambda: time.sleep(0.1)):
      run.run(tiny(), Path(sys.argv[2]))
  else:
    absltest.main()
