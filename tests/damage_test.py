"""Workdirs that are damaged, or of another config: nothing in them is lost."""

import contextlib
import errno
import io
import json
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized
from orbax.checkpoint import v1 as ocp

from experiments import compare, errors, evaluate, locking, run
from experiments.training import loop
from tests.run_test import losses, tiny


def snapshot(folder):
  """Name -> times, size and number of all that is in a folder."""
  stats = ((path, path.stat()) for path in [folder, *folder.rglob("*")])
  return {path: (s.st_mtime_ns, s.st_size, s.st_ino) for path, s in stats}


def empty(folder):
  """Empties all files in a folder."""
  for path in folder.rglob("*"):
    if path.is_file():
      path.write_bytes(b"")


class DamageTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.whole = Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "whole"
    run.run(tiny(), cls.whole)

  def setUp(self):
    super().setUp()
    folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.workdir = folder / "run"
    shutil.copytree(self.whole, self.workdir)
    self.checkpoints = self.workdir / "checkpoints"
    # Nothing here trains: what would, is an error.
    self.enterContext(mock.patch.object(loop.Trainer, "_compile", side_effect=OSError))

  @contextlib.contextmanager
  def refused(self, message):
    """Whether there is one line with the message and nothing changes."""
    before = snapshot(self.workdir)
    with self.assertRaisesRegex(errors.UserError, message):
      yield
    after = snapshot(self.workdir)
    # Of the folder itself only the time is another: the lock came, and went.
    del before[self.workdir], after[self.workdir]
    self.assertEqual(after, before)

  def evaluate(self, *arguments):
    """What `evaluate` prints of one batch."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
      evaluate.main(["--workdir", str(self.workdir), "--batches", "1", *arguments])
    return json.loads(out.getvalue())

  def test_a_finished_run_says_so_and_writes_nothing(self):
    before = snapshot(self.workdir)
    no_lock = OSError(errno.EROFS, "Read-only file system")
    with (
      mock.patch.object(locking.Lock, "__enter__", side_effect=no_lock),
      contextlib.redirect_stdout(io.StringIO()) as out,
    ):
      self.assertEqual(run.run(tiny(), self.workdir), "finished")
    self.assertRegex(out.getvalue(), "finished at step 12\nvalidation loss [0-9.]+ ")
    self.assertEqual(self.evaluate("--checkpoint", "best")["split"], "test")
    self.assertEqual(snapshot(self.workdir), before)

  @parameterized.parameters(
    (
      {"model__dim": 32},
      r"model/embed/embedding has the shape \(16, 16\), not \(16, 32",
    ),
    ({"model__tied": False}, "model/head/kernel has the shape none, not"),
    ({"model__depth": 2}, r"has the shape \(1, .*\), not \(2, "),
    ({"steps": 8}, "steps = 8; the checkpoint in .* is of step 12"),
  )
  def test_force_with_other_arrays_loses_nothing(self, changes, message):
    with self.refused(message):
      run.run(tiny(**changes), self.workdir, force=True)

  @parameterized.parameters(
    {"optimizer__rate": 1e-4, "optimizer__clip": 0.0},
    {"data__batch": 8, "data__length": 32},
    {"attention__rope_theta": 500.0, "steps": 16},
  )
  def test_force_with_the_same_arrays_goes_on(self, **changes):
    before = losses(self.workdir)
    with contextlib.redirect_stdout(io.StringIO()) as out:
      with self.assertRaises(OSError):  # it would compile now
        run.run(tiny(**changes), self.workdir, force=True)
    self.assertIn("going on from the checkpoint of step 12", out.getvalue())
    self.assertEqual(losses(self.workdir), before)

  @parameterized.parameters("[]", "{}", "null", '{"steps": 3', "", "\udcff")
  def test_a_damaged_config(self, text):
    path = self.workdir / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with self.refused("config.json cannot be read: "):
      run.run(tiny(), self.workdir)
    with self.refused("config.json cannot be read: "):
      self.evaluate()
    if text != "{}":
      with self.refused("config.json (is not JSON|holds no JSON object)"):
        compare.main([str(self.workdir)])

  @parameterized.parameters(
    ("model.dim", 32, r"is of another model .* not \(16, 32\); other checkpoints: 8"),
    ("model.dim", "a", "model.dim = 'a'"),
    ("model.dmi", 3, "unknown option of host language 'dmi'; did you mean dim"),
    ("attention.heads", "a", "attention.heads = 'a'"),
    ("steps", "a", "steps = 'a'; it must be of type int"),
    ("seed", None, "seed = None"),
    ("mesh", [], "mesh = .*; it must be a section"),
    ("data.name", "induce", "unknown data set 'induce'; did you mean induction"),
    ("mechanism", "nothing", "unknown mechanism 'nothing'"),
  )
  def test_a_changed_config(self, name, value, message):
    path = self.workdir / "config.json"
    config = json.loads(path.read_text())
    section, last = config, name.split(".")[-1]
    for part in name.split(".")[:-1]:
      section = section[part]
    section[last] = value
    path.write_text(json.dumps(config))
    with self.refused(message):
      self.evaluate()

  def test_emptied_checkpoints(self):
    empty(self.checkpoints / "12")
    with self.refused("of step 12 .* is damaged: .* is empty; other checkpoints: 8"):
      self.evaluate()
    self.assertEqual(self.evaluate("--checkpoint", "8")["step"], 8)
    empty(self.checkpoints / "8")
    for force in (False, True):
      with self.refused(
        "no checkpoint in .* can be read; that of step 12: .* is empty"
      ):
        run.run(tiny(), self.workdir, force=force)

  @parameterized.parameters(
    ("state/_METADATA", b"{}", "state/_METADATA has 2 bytes of"),
    ("state/manifest.ocdbt", None, "state/manifest.ocdbt is missing"),
    ("data/process_0-of-1.json", b'{"next_index": 3}', "has 17 bytes of|not what was"),
    ("state", None, "it holds no state"),
  )
  def test_the_newest_checkpoint_damaged(self, name, text, message):
    path = self.checkpoints / "12" / name
    if text is not None:
      path.write_bytes(text)
    elif path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink()
    with self.refused(message):
      self.evaluate()
    with contextlib.redirect_stdout(io.StringIO()) as out:
      with self.assertRaises(OSError):  # it would compile now
        run.run(tiny(), self.workdir)
    self.assertRegex(out.getvalue(), f"step 12 cannot be read .*({message}).*falling")
    self.assertIn("from the checkpoint of step 8", out.getvalue())
    self.assertTrue((self.workdir / "unreadable" / "12").exists())

  def test_a_disk_that_does_not_answer_is_no_damage(self):
    (self.workdir / "report.html").unlink()  # so that it is not finished
    broken = OSError(errno.EIO, "Input/output error")
    with mock.patch.object(ocp, "load_checkpointables", side_effect=broken):
      with self.refused(
        "of step 12 .* cannot be read: .*Input/output error.* It stays"
      ):
        run.run(tiny(), self.workdir)

  def test_another_number_of_processes(self):
    (self.workdir / "report.html").unlink()
    held = self.checkpoints / "12"
    (held / "files.json").unlink()
    for process in (0, 1):
      shutil.copy(
        held / "data/process_0-of-1.json", held / f"data/process_{process}-of-2"
      )
    (held / "data/process_0-of-1.json").unlink()
    with self.refused("step 12 .* is of 2 processes; there are 1"):
      run.run(tiny(), self.workdir)

  def test_folders_that_are_no_checkpoints(self):
    for name in ("007", "\u00b2", "notes", "99.orbax-checkpoint-tmp-1"):
      (self.checkpoints / name).mkdir()
    (self.checkpoints / "15").write_text("a file")
    self.assertEqual(self.evaluate()["step"], 12)
    # Another process may be writing it.
    self.assertTrue((self.checkpoints / "99.orbax-checkpoint-tmp-1").exists())
    for name in ("007", "7", "\u00b2", "15"):
      with self.refused("there are latest, best, 8, 12"):
        self.evaluate("--checkpoint", name)

  def test_a_checkpoint_without_a_record(self):
    (self.checkpoints / "12" / "files.json").write_text("")
    self.assertEqual(self.evaluate()["step"], 12)

  def test_files_where_folders_should_be(self):
    shutil.rmtree(self.checkpoints)
    self.checkpoints.write_text("")
    for program in (self.evaluate, lambda: run.run(tiny(), self.workdir)):
      with contextlib.redirect_stderr(io.StringIO()) as error:
        self.assertEqual(errors.guard(program), 2)
      self.assertRegex(error.getvalue(), "^error: .*checkpoints': Not a directory\n$")


if __name__ == "__main__":
  absltest.main()
