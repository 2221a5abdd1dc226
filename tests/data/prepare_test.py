"""The cache folder: atomic, locked, checked, and built again where it is damaged."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from experiments.data import packaged, prepare, progress
from tests.data.tiny import LINES, TinyText

_ROOT = Path(__file__).parent.parent.parent
# Prints what a process reads, and whether it loaded what it should not need.
_READ = """
import sys
from experiments import data
source = data.load("digits", {"cache_dir": sys.argv[1]}).source("train")
print(len(source), float(source[0]["image"].sum()), int(source[0]["label"]))
print([name for name in ("tensorflow", "sklearn", "gensim") if name in sys.modules])
"""
_DIE = """
import os, signal, sys
from experiments.data import prepare
from tests.data.tiny import TinyText
def generate(self):
  yield 0, {"text": "a", "n": 0, "title": "b"}
  os.kill(os.getpid(), signal.SIGKILL)
TinyText._generate_examples = generate
prepare.prepared(TinyText, sys.argv[1])
"""


def _run(code, folder):
  return subprocess.Popen(
    [sys.executable, "-c", code, folder],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=_ROOT,
  )


class PrepareTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.enterContext(tempfile.TemporaryDirectory())
    self.home = Path(self.folder, "tiny_text", "1.0.0")

  def _prepared(self):
    """(lines read, what was said)."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
      source = prepare.prepared(TinyText, self.folder).as_data_source("train")
    return [record["text"].decode() for record in source], said.getvalue()

  def test_once(self):
    lines, said = self._prepared()
    self.assertEqual(lines, LINES)
    self.assertRegex(said, r"^tiny_text: preparing it in .*\ntiny_text: 40 records in")
    before = {p: p.stat().st_mtime_ns for p in Path(self.folder).rglob("*")}
    self.assertEqual(self._prepared(), (LINES, ""))
    after = {p: p.stat().st_mtime_ns for p in Path(self.folder).rglob("*")}
    self.assertEqual(before, after)

  def test_a_complete_copy_needs_no_lock(self):
    self._prepared()
    with prepare.lock(Path(self.folder), "tiny_text"):
      self.assertEqual(self._prepared(), (LINES, ""))

  @parameterized.parameters(
    "truncated", "empty", "changed", "missing", "manifest", "cut", "information"
  )
  def test_damage_is_repaired(self, how):
    self._prepared()
    [records] = self.home.glob("*array_record*")
    content = records.read_bytes()
    expect = "tiny_text-train.array_record-00000-of-00001"
    match how:
      case "truncated":
        records.write_bytes(content[:-100])
        expect += f" has {len(content) - 100:,} bytes of {len(content):,}"
      case "empty":
        records.write_bytes(b"")
        expect += f" has 0 bytes of {len(content):,}"
      case "changed":
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 255])
        records.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        expect += " has another checksum"
      case "missing":
        records.unlink()
        expect += " is missing"
      case "manifest":
        (self.home / "manifest.json").unlink()
        expect = "manifest.json is missing"
      case "cut":
        manifest = self.home / "manifest.json"
        manifest.write_text(manifest.read_text()[:50])
        expect = "manifest.json is missing or damaged"
      case "information":
        (self.home / "dataset_info.json").write_text("{")
        expect = "dataset_info.json has 1 bytes"
    lines, said = self._prepared()
    self.assertEqual(lines, LINES)
    self.assertRegex(said, f"is damaged, {expect}.*; preparing it anew")
    self.assertEqual(self._prepared(), (LINES, ""))

  def test_a_killed_preparation_is_started_anew(self):
    process = _run(_DIE, self.folder)
    process.communicate(timeout=60)
    self.assertEqual(process.returncode, -signal.SIGKILL)
    self.assertTrue(Path(self.folder, ".tiny_text.preparing").exists())
    self.assertFalse(self.home.exists())
    lines, said = self._prepared()
    self.assertEqual(lines, LINES)
    self.assertIn("tiny_text: an earlier preparation was cut off; starting anew", said)
    self.assertFalse(Path(self.folder, ".tiny_text.preparing").exists())

  def test_an_error_leaves_nothing_behind(self):
    with mock.patch.object(TinyText, "_generate_examples", side_effect=OSError("no")):
      with self.assertRaisesRegex(OSError, "no"):
        self._prepared()
    self.assertEqual([p.name for p in Path(self.folder).iterdir()], [".tiny_text.lock"])
    self.assertEqual(self._prepared()[0], LINES)

  def test_two_processes_at_once(self):
    with prepare.lock(Path(self.folder), "digits"):
      processes = [_run(_READ, self.folder) for _ in range(2)]
      first = [process.stderr.readline() for process in processes if process.stderr]
    self.assertLen(first, 2)
    for line in first:
      self.assertIn("digits: another process is preparing it in", line)
    out, said = zip(*(process.communicate(timeout=60) for process in processes))
    self.assertEqual([process.returncode for process in processes], [0, 0], said)
    self.assertEqual(out[0], out[1])
    self.assertRegex(out[0], r"^1442 .*\n\[\]\n$")
    self.assertEqual("".join(said).count("preparing it in"), 1)

  def test_threads_wait_too(self):
    order = []

    def second():
      with prepare.lock(Path(self.folder), "x"):
        order.append("second")

    with prepare.lock(Path(self.folder), "x"):
      thread = threading.Thread(target=second)
      thread.start()
      thread.join(0.2)
      order.append("first")
    thread.join()
    self.assertEqual(order, ["first", "second"])

  def test_where_it_is(self):
    with mock.patch.dict(
      os.environ, {"ATTNJAX_DATA": "/some/where", "HOME": "/home/x"}
    ):
      self.assertEqual(prepare.folder(), Path("/some/where"))
      self.assertEqual(prepare.folder("~/here"), Path("/home/x/here"))
      del os.environ["ATTNJAX_DATA"]
      self.assertEqual(prepare.folder(), Path("/home/x/.cache/attnjax"))


class FilesTest(absltest.TestCase):
  def test_a_missing_package_is_named(self):
    for package, path in (("no_such_package", "a.txt"), ("numpy", "no/such.txt")):
      with self.assertRaisesRegex(OSError, f"{package}/{path} .* pip install 'x==1'"):
        packaged.find(package, path, install="x==1")


class ProgressTest(absltest.TestCase):
  def test_lines(self):
    with contextlib.redirect_stderr(io.StringIO()) as said:
      with mock.patch.object(progress, "_SECONDS", -1.0):
        self.assertEqual(list(progress.track([5, 6], "label")), [5, 6])
    self.assertEqual(said.getvalue(), "label: 1 of 2\nlabel: 2 of 2\n")

  def test_bar_on_a_terminal(self):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with mock.patch.dict(os.environ, {"TERM": "xterm"}):
      with contextlib.redirect_stderr(terminal):
        self.assertEqual(list(progress.track([5, 6], "label")), [5, 6])
    self.assertIn("label", terminal.getvalue())
    self.assertIn("\x1b[", terminal.getvalue())


if __name__ == "__main__":
  absltest.main()
