"""The log of a run, its progress display, and errors of one line."""

import contextlib
import errno
import importlib
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest

from experiments import errors
from experiments.training import metrics
from experiments.training.progress import Progress


class ErrorsTest(absltest.TestCase):
  def guard(self, main, *arguments):
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
      return errors.guard(main, *arguments), stderr.getvalue()

  def test_user_error_is_one_line_and_status_2(self):
    def main(name):
      raise errors.UserError(f"no such\n  thing: {name}")

    self.assertEqual(self.guard(main, "x"), (2, "error: no such thing: x\n"))

  def test_status_of_main(self):
    self.assertEqual(self.guard(lambda: None), (0, ""))
    self.assertEqual(self.guard(lambda: 3), (3, ""))

  def test_files_and_disks(self):
    with tempfile.TemporaryDirectory() as folder:
      for name, words in (("", "Is a directory"), ("a/b", "No such file or directory")):
        path = Path(folder, name)
        want = (2, f"error: '{path}': {words}\n")
        self.assertEqual(self.guard(path.read_text), want)

    def full():
      raise OSError(errno.ENOSPC, "No space left on device")

    self.assertEqual(self.guard(full), (2, "error: No space left on device\n"))

    def unknown():
      raise OSError("cannot connect")

    with self.assertRaisesRegex(OSError, "cannot connect"):
      self.guard(unknown)

  def test_an_interrupt(self):
    def main():
      raise KeyboardInterrupt

    self.assertEqual(self.guard(main), (130, "interrupted\n"))

  def test_nobody_reads_stdout(self):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout, contextlib.redirect_stdout(stdout):
      self.assertEqual(self.guard(print, "a line"), (141, ""))
      print("more, when the program ends")

  def test_what_a_terminal_cannot_show(self):
    raw = io.BytesIO()
    stdout = io.TextIOWrapper(raw, encoding="ascii")
    with contextlib.redirect_stdout(stdout):
      self.assertEqual(self.guard(print, "caf\u00e9 \udcff"), (0, ""))
    self.assertEqual(raw.getvalue(), b"caf\\xe9 \\udcff\n")

  def test_bugs_keep_their_traceback(self):
    with self.assertRaises(ZeroDivisionError):
      self.guard(lambda: 1 // 0)


class LogTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    self.file = self.workdir / metrics.FILE

  def steps(self):
    return [line["step"] for line in metrics.read(self.workdir)]

  def write(self, steps, start=0):
    with metrics.Log(self.workdir, start) as log:
      for step in steps:
        log.write(step, "train", loss=1 / step)

  def test_floats_come_back_bit_for_bit(self):
    values = [0.1 + 0.2, np.float32(0.1), np.array(1 / 3), 1e-300, 5]
    with metrics.Log(self.workdir, 0) as log:
      for step, value in enumerate(values):
        log.write(step, "validation", loss=value)
        # Another process sees the line at once.
        self.assertEqual(metrics.read(self.workdir)[-1]["loss"], float(value))
    self.assertEqual(metrics.read(self.workdir)[0]["split"], "validation")
    self.assertGreaterEqual(metrics.read(self.workdir)[0]["seconds"], 0)

  def test_resumed_run_drops_later_lines_and_half_a_line(self):
    self.write([1, 2, 3, 4])
    before = metrics.read(self.workdir)
    with self.file.open("a") as file:
      file.write('{"step": 5, "split": "tr')
    self.assertEqual(metrics.read(self.workdir), before)
    self.write([3], start=2)
    self.assertEqual(metrics.read(self.workdir)[:2], before[:2])
    self.assertEqual(self.steps(), [1, 2, 3])
    self.assertEqual(len(self.file.read_text().splitlines()), 3)

  def test_half_a_line_goes_also_without_later_lines(self):
    self.write([1])
    with self.file.open("a") as file:
      file.write('{"step": 2')
    self.write([2], start=1)
    self.assertEqual(self.steps(), [1, 2])

  def test_a_kill_while_cutting_leaves_the_old_file(self):
    self.write([1, 2, 3])
    old = self.file.read_bytes()
    with mock.patch.object(Path, "replace", side_effect=KeyboardInterrupt):
      with self.assertRaises(KeyboardInterrupt):
        self.write([], start=1)
    self.assertEqual(self.file.read_bytes(), old)

  def test_rubbish_in_the_middle_is_named(self):
    self.write([1])
    self.file.write_text("rubbish\n" + self.file.read_text())
    with self.assertRaisesRegex(errors.UserError, r"metrics.jsonl, line 1: 'rubbish'"):
      metrics.read(self.workdir)

  def test_no_file_is_no_lines(self):
    self.assertEqual(metrics.read(self.workdir), [])

  def test_without_tensorboardx_there_is_json_and_one_word(self):
    said = []
    with mock.patch.dict(sys.modules, {"tensorboardX": None}):
      with metrics.Log(self.workdir, 0, say=said.append) as log:
        log.write(1, "train", loss=1.0)
        log.write(2, "train", loss=2.0)
    self.assertLen(said, 1)
    self.assertIn("tensorboardX is not installed", said[0])
    self.assertEqual(self.steps(), [1, 2])
    self.assertFalse((self.workdir / metrics.BOARD).exists())

  def test_tensorboard_has_the_scalars_and_purges_on_resume(self):
    self.write([1, 2, 3])
    first = set((self.workdir / metrics.BOARD).iterdir())
    self.assertEqual(
      [(e.step, v.tag) for e in events(first) for v in e.summary.value][::2],
      [(1, "train/loss"), (2, "train/loss"), (3, "train/loss")],
    )
    # Files are named by the second and a suffix; the second run makes its own.
    with mock.patch("time.time", return_value=2e9):
      self.write([3], start=2)
    second = set((self.workdir / metrics.BOARD).iterdir()) - first
    starts = [e.step for e in events(second) if e.HasField("session_log")]
    self.assertEqual(starts, [3])


def events(paths):
  """The records of TensorBoard's files: length, its CRC, the event, its CRC."""
  # By name: the classes of protocol buffers are made at run time.
  event = importlib.import_module("tensorboardX.proto.event_pb2").Event
  for path in paths:
    data, place = path.read_bytes(), 0
    while place < len(data):
      (length,) = struct.unpack_from("<Q", data, place)
      yield event.FromString(data[place + 12 : place + 12 + length])
      place += length + 16


class ProgressTest(absltest.TestCase):
  def run_steps(self, steps, **options):
    """What is printed when every step takes two seconds."""
    now = [0.0]
    with contextlib.redirect_stdout(io.StringIO()) as out:
      with Progress(clock=lambda: now[0], **options) as progress:
        for step in steps:
          now[0] += 2
          progress.update(step, loss=1.934, bits_per_byte=2.78, tokens_per_second=14200)
          if step == 7:
            progress.say("saved [bold]7[/bold]")
    return out.getvalue()

  def test_plain_lines_by_steps(self):
    out = self.run_steps(range(1, 49), total=48, every=20, seconds=1e9, terminal=False)
    numbers = "loss 1.93  2.78 bits/byte  14.2k tokens/s"
    self.assertEqual(
      out.splitlines(),
      [
        f"step 1/48  {numbers}",
        "saved [bold]7[/bold]",
        f"step 20/48  {numbers}  left 56 s",
        f"step 40/48  {numbers}  left 16 s",
        f"step 48/48  {numbers}",
      ],
    )

  def test_plain_lines_by_time_and_after_resuming(self):
    out = self.run_steps(range(101, 109), total=1000, start=100, terminal=False)
    self.assertEqual(re.findall(r"step (\d+)", out), ["101", "106"])
    self.assertIn("left 29m48s", out)  # 894 steps of two seconds

  def test_unit_of_the_speed(self):
    out = self.run_steps([1], total=2, unit="examples", terminal=False)
    self.assertIn("14.2k examples/s", out)

  def test_rate_and_seconds_are_not_shown(self):
    with contextlib.redirect_stdout(io.StringIO()) as out:
      with Progress(9, terminal=False) as progress:
        progress.update(1, loss=2.0, rate=0.3, seconds=4.0)
    self.assertEqual(out.getvalue(), "step 1/9  loss 2\n")

  def test_bar(self):
    with mock.patch.dict(os.environ, {"COLUMNS": "100", "TERM": "xterm"}):
      out = self.run_steps(range(1, 11), total=10, terminal=True)
    words = re.sub(r"\x1b\[[\d;?]*\w", "", out)
    self.assertIn("step 5/10", words)
    self.assertRegex(words, r"step 9/10 .*━.* loss 1.93 .*14.2k tokens/s  left 2 s")
    self.assertIn("step 10/10", words)
    self.assertIn("saved [bold]7[/bold]\n", words)

  def test_terminal_after_an_interrupt(self):
    program = (
      "import signal, sys, threading\n"
      "from experiments.training.progress import Progress\n"
      # A shell's background jobs, and what they start, ignore this signal.
      "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
      "try:\n"
      "  with Progress(10) as progress:\n"
      "    progress.update(3, loss=2.5)\n"
      "    progress.say(f'threads {threading.active_count()}')\n"
      "    signal.pause()\n"
      "except KeyboardInterrupt:\n"
      "  print('interrupted', sys.stdout is sys.__stdout__)\n"
    )
    parent, child = pty.openpty()
    process = subprocess.Popen(
      [sys.executable, "-c", program],
      stdout=child,
      cwd=Path(__file__).parent.parent,
      env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(child)
    out, sent = b"", False
    while chunk := self.read(parent):
      out += chunk
      if b"threads" in out and not sent:
        process.send_signal(signal.SIGINT)
        sent = True
    self.assertEqual(process.wait(), 0)
    self.assertIn(b"threads 1", out)
    self.assertIn(b"loss 2.5", out)
    self.assertIn(b"interrupted True", out)
    # The cursor is hidden while the bar is drawn, and shown again.
    self.assertGreater(out.rfind(b"\x1b[?25h"), out.rfind(b"\x1b[?25l"))

  def read(self, terminal):
    try:
      return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other side is closed
      os.close(terminal)
      return b""


if __name__ == "__main__":
  absltest.main()
