"""One run at a time in a workdir, and what runs that were killed leave behind."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from experiments import errors, locking


class LockTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "runs" / "a"
    self.file = self.workdir / locking.FILE

  def lock(self, **options):
    options = {"say": lambda text: None, "beat": 0.02, "silence": 0.3} | options
    return locking.Lock(self.workdir, **options)

  def left_by(self, **changes):
    """Writes what a run of this host leaves when it is killed, with changes."""
    with self.lock():
      owner = json.loads(self.file.read_text())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner |= {"token": "another", "process": ended.pid} | changes
    self.file.write_text(json.dumps(owner))
    return owner

  def test_the_second_is_refused_until_the_first_has_ended(self):
    with self.lock():
      with self.assertRaisesRegex(
        errors.UserError, f"in use by process {os.getpid()} "
      ):
        self.lock().__enter__()
    self.assertFalse(self.file.exists())
    with self.lock():
      self.assertTrue(self.file.exists())

  def test_an_interrupt_leaves_no_lock(self):
    with self.assertRaises(KeyboardInterrupt):
      with self.lock():
        raise KeyboardInterrupt
    self.assertEmpty(list(self.workdir.iterdir()))

  @parameterized.parameters(True, None)
  def test_a_dead_process_of_this_host_is_taken_over(self, flock):
    self.left_by()
    with mock.patch.object(locking, "_flock", return_value=flock), self.lock() as lock:
      lock.check()
      self.assertEqual(json.loads(self.file.read_text())["process"], os.getpid())

  def test_a_living_process_of_this_host_without_flock(self):
    self.left_by(process=os.getppid())
    with mock.patch.object(locking, "_flock", return_value=None):
      with self.assertRaisesRegex(
        errors.UserError, f"in use by process {os.getppid()}"
      ):
        self.lock().__enter__()

  def test_of_two_at_the_same_time_without_flock_one_stays(self):
    with mock.patch.object(locking, "_flock", return_value=None):
      one = self.lock(beat=0.2)
      write = one._write

      def and_another_writes():
        write()
        self.file.write_text(json.dumps({"token": "another"}))

      with mock.patch.object(one, "_write", and_another_writes):
        with self.assertRaisesRegex(errors.UserError, "in use"):
          one.__enter__()

  @parameterized.parameters({"host": "elsewhere"}, {"boot": "another start"})
  def test_another_host_is_taken_over_when_silent(self, **where):
    self.left_by(**where)
    said = []
    with self.lock(say=said.append) as lock:
      lock.check()
    self.assertRegex(said[0], "waiting 0.3 s for a sign of life")

  def test_another_host_is_refused_while_it_lives(self):
    owner = self.left_by(host="elsewhere")

    def beat():
      self.file.write_text(json.dumps(owner | {"count": "000000000009"}))

    timer = threading.Timer(0.1, beat)
    timer.start()
    with self.assertRaisesRegex(errors.UserError, "in use by process .* on elsewhere"):
      self.lock(silence=5.0).__enter__()
    timer.join()

  def test_a_lock_cut_off_while_written(self):
    self.workdir.mkdir(parents=True)
    for text in ("", '{"host": "x', "[]"):
      self.file.write_text(text)
      with self.lock() as lock:
        lock.check()

  def test_it_counts_while_it_lives(self):
    with self.lock():
      first = self.file.read_text()
      for _ in range(200):
        if self.file.read_text() != first:
          break
        threading.Event().wait(0.02)
      self.assertNotEqual(self.file.read_text(), first)
      self.assertLen(self.file.read_text(), len(first))

  def test_who_lost_it_may_not_save_and_does_not_remove_it(self):
    with self.lock(beat=9.0) as lock:
      lock.check()
      other = json.dumps({"token": "another", "process": 7, "host": "elsewhere"})
      self.file.unlink()
      self.file.write_text(other)
      with self.assertRaisesRegex(
        errors.UserError, "process 7 on elsewhere.*taken over"
      ):
        lock.check()
    self.assertEqual(self.file.read_text(), other)

  def test_a_removed_lock_is_taken_again(self):
    with self.lock() as lock:
      self.file.unlink()
      lock.check()
      with self.assertRaisesRegex(errors.UserError, "in use"):
        self.lock().__enter__()
    self.assertFalse(self.file.exists())

  def test_a_workdir_that_is_a_file(self):
    self.workdir.parent.mkdir()
    self.workdir.write_text("")
    for folder in (self.workdir, self.workdir / "b"):
      with self.assertRaisesRegex(errors.UserError, "is a file"):
        locking.Lock(folder).__enter__()

  def test_of_several_processes_the_first_holds_it(self):
    one = mock.patch.object(jax, "process_index", return_value=1)
    two = mock.patch.object(jax, "process_count", return_value=2)
    for refused in (False, True):
      tell = mock.patch.object(
        locking.multihost_utils, "broadcast_one_to_all", return_value=np.int32(refused)
      )
      with one, two, tell:
        if refused:
          with self.assertRaisesRegex(errors.UserError, "first process cannot have"):
            with locking.held(self.workdir, print):
              pass
          continue
        with locking.held(self.workdir, print) as may_save:
          may_save()
          self.assertFalse(self.workdir.exists())


if __name__ == "__main__":
  absltest.main()
