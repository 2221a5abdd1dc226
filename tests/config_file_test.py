"""Config programs that break: one line that names the program, and no traceback."""

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from experiments import config_file, errors, run, sweep

_RAISES = """
def get_config(kind="lone"):
  match kind:
    case "key": return {}["nothing"]
    case "exit": raise SystemExit("not today")
    case "none": return None
    case "type": return 1 + "a"
    case "lines": raise RuntimeError("first\\nsecond")
    case "file": return open("/no/such/file")
    case "value": raise ValueError("width = 3; it must be even")
  return dict(steps=1)
"""


class ConfigFileTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.file = self.folder / "program.py"

  def refused(self, *arguments):
    """The one line of a run that is refused."""
    error = io.StringIO()
    line = mock.patch.object(sys, "argv", ["run", "--workdir", "runs/x", *arguments])
    with contextlib.redirect_stderr(error), line:
      self.assertEqual(errors.guard(run.main), 2)
    self.assertLen(error.getvalue().splitlines(), 1)
    self.assertNotIn("Traceback", error.getvalue())
    return error.getvalue()

  @parameterized.parameters(
    ("", "get_config returns dict, not a ConfigDict"),
    (":key", r"KeyError: 'nothing' \(line 4 of .*program.py\)"),
    (":exit", r"SystemExit: not today \(line 5"),
    (":none", "get_config returns NoneType"),
    (":type", r"TypeError: unsupported .* \(line 7"),
    (":lines", r"RuntimeError: first second \(line 8"),
    (":file", r"'/no/such/file': No such file or directory \(line 9"),
    (":value", r"py:value: width = 3; it must be even \(line 10"),
    (":", "nothing follows the colon"),
    (": ", "nothing follows the colon"),
    (":a:", "get_config returns dict"),
  )
  def test_what_get_config_raises(self, argument, message):
    self.file.write_text(_RAISES)
    self.assertRegex(self.refused("--config", f"{self.file}{argument}"), message)

  @parameterized.parameters(
    (b"def get_config(:", "SyntaxError: .*line 1"),
    (b"import nothing_there", "ModuleNotFoundError.*line 1"),
    (b"x = 1", "no attribute 'get_config'"),
    (b"get_config = 3", "TypeError: 'int' object is not callable"),
    (b"def get_config(): pass", "takes 0 positional arguments but 1 was given"),
    (b"\xff\xfe", "SyntaxError: .*utf-8"),
  )
  def test_what_is_no_config_program(self, text, message):
    self.file.write_bytes(text)
    self.assertRegex(self.refused(f"--config={self.file}:a"), message)

  def test_what_is_no_file(self):
    self.assertIn("Is a directory", self.refused("--config", str(self.folder)))
    self.assertIn("x.py is not there", self.refused("--config", "x.py"))
    self.assertIn("--config is empty", self.refused("--config", ""))
    self.assertIn("Missing value", self.refused("--config"))
    self.assertIn("/no/flags", self.refused("--flagfile=/no/flags"))

  def test_a_dataclass_in_a_program(self):
    self.file.write_text(
      "from __future__ import annotations\n"
      "import dataclasses\n"
      "from ml_collections import ConfigDict\n"
      "@dataclasses.dataclass\n"
      "class A:\n"
      "  b: int = 2\n"
      "get_config = lambda x='': ConfigDict({'b': A().b, 'x': x})\n"
    )
    self.assertEqual(
      config_file.read(f"{self.file}:a:b").to_dict(), {"b": 2, "x": "a:b"}
    )

  def test_a_sweep_by_a_program_that_breaks(self):
    self.file.write_text("def get_config(slug): raise KeyError(slug)")
    with self.assertRaisesRegex(errors.UserError, "KeyError: 'hilo'"):
      arguments = ["--mechanisms", "halo,hilo", "--workdir", str(self.folder)]
      sweep.main(["--config", str(self.file), *arguments])


if __name__ == "__main__":
  absltest.main()
