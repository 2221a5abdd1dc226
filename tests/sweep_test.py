"""Several mechanisms trained and compared by one command."""

import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from absl.testing import absltest

from attnjax import contract
from experiments import errors, sweep
from tests import workdirs
from tests.pages import check_alone

_ROOT = Path(__file__).parent.parent
_CONFIG = str(_ROOT / "configs" / "pyramid.py")
_TINY = (
  "--config.steps=2",
  "--config.eval_batches=1",
  "--config.data.batch=4",
  "--config.model.dims=(8, 8)",
  "--config.model.depths=(1, 1)",
)


class SweepTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))

  def sweep(self, mechanisms, *more, config=_CONFIG):
    """(status, stdout, stderr)."""
    arguments = ["--config", config, "--mechanisms", mechanisms]
    arguments += ["--workdir", str(self.root), *more]
    with (
      contextlib.redirect_stdout(io.StringIO()) as out,
      contextlib.redirect_stderr(io.StringIO()) as err,
    ):
      status = errors.guard(sweep.main, arguments)
    return status, out.getvalue(), err.getvalue()

  def test_trains_what_fits_and_names_the_rest(self):
    status, out, _ = self.sweep("hilo, aaren", *_TINY)
    self.assertEqual(status, 0)
    self.assertTrue((self.root / "hilo" / "summary.json").exists())
    reason = "aaren is left out: mechanism 'aaren' has the forms causal, sequence;"
    self.assertIn(reason, out)
    read = check_alone(self, (self.root / sweep.PAGE).read_text())
    self.assertIn(reason, read.text)
    for column in ("accuracy", "parameters", "FLOPs a step", "time a step"):
      self.assertIn(column, read.text)

  def test_a_family_is_all_of_its_folder(self):
    found = sweep.chosen("dot_product,local,hilo")
    self.assertEqual(found[0], "dot_product")
    local = [s for s, m in contract.systems().items() if ".local." in m]
    self.assertEqual(found[1:], local)

  def test_what_cannot_be_asked(self):
    for arguments, words in (
      (("hillo",), "unknown mechanism or family 'hillo'; did you mean hilo"),
      (("hilo", "--steps=2"), "argument '--steps=2' is no flag"),
    ):
      status, _, err = self.sweep(*arguments)
      self.assertEqual(status, 2)
      self.assertIn(words, err)
    status, _, err = self.sweep("hilo", config="configs/none.py")
    self.assertEqual(status, 2)
    self.assertIn("config file configs/none.py is not there", err)

  def test_nothing_trained(self):
    with mock.patch.object(sweep, "train", return_value="it does not fit"):
      status, out, _ = self.sweep("hilo")
    self.assertEqual(status, 1)
    self.assertIn("left out: it does not fit", out)
    self.assertFalse((self.root / sweep.PAGE).exists())

  def test_a_run_that_breaks_ends_the_sweep(self):
    broken = subprocess.CompletedProcess([], 1, stderr="Traceback: KeyError")
    with mock.patch.object(subprocess, "run", return_value=broken):
      status, _, err = self.sweep("hilo")
    self.assertEqual(status, 2)
    self.assertIn("KeyError", err)
    self.assertIn("the run of hilo has not finished (status 1)", err)

  def test_the_page_of_runs(self):
    dirs = [str(self.root / name) for name in "ab"]
    for path in dirs:
      workdirs.make(Path(path), metric="accuracy")
    page = self.root / "page.html"
    with contextlib.redirect_stdout(io.StringIO()) as out:
      sweep.report(dirs, {"c": "too large"}, page)
    self.assertIn("c is left out: too large.", out.getvalue())
    self.assertIn("c is left out: too large.", page.read_text())

  def test_program(self):
    command = [sys.executable, "-m", "experiments.sweep", "--help"]
    done = subprocess.run(
      command, cwd=_ROOT, capture_output=True, text=True, check=False
    )
    self.assertEqual(done.returncode, 0)
    self.assertIn("--mechanisms", done.stdout)


if __name__ == "__main__":
  absltest.main()
