"""What `experiments.mutate` breaks and leaves alone, and how it loads and compares."""

import importlib
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from experiments.mutate import details, outputs, trials

_SOURCE = '''
"""A docstring with 1 + 2."""
CASES = (1, 2)


def scaled(x: int = 3, *, axis=-1) -> "Array[4]":
  """Scales by 5."""
  if x < 6:
    raise ValueError(f"{x + 7}; it must be {8}")
  check(x, 9)
  y = tanh(x) * 0.5
  y += mean(x, axis=axis)
  return x if y <= 0.0 and not x else fold(x, y)
'''


class DetailsTest(parameterized.TestCase):
  def test_breaks_each_detail_once(self):
    found = [(m.line, m.words) for m in details.mutants(_SOURCE)]
    want = [
      (6, "3  ->  4"),
      (6, "1  ->  2"),
      (11, "tanh(x) * 0.5  ->  tanh(x) / 0.5"),
      (11, "tanh(x) * 0.5  ->  tanh(x)"),
      (11, "tanh(x) * 0.5  ->  0.5"),
      (11, "tanh(x)  ->  x"),
      (11, "0.5  ->  1.0"),
      (12, "y += mean(x, axis=axis)  ->  y -= mean(x, axis=axis)"),
      (12, "y += mean(x, axis=axis)  ->  pass"),
      (12, "mean(x, axis=axis)  ->  mean(x)"),
      (13, "y <= 0.0  ->  y < 0.0"),
      (13, "0.0  ->  1.0"),
      (13, "not x  ->  x"),
      (13, "fold(x, y)  ->  fold(y, x)"),
    ]
    self.assertContainsSubset(want, found)
    rest = {words for _, words in found} - {words for _, words in want}
    branches = "x if y <= 0.0 and (not x) else fold(x, y)"
    both = "fold(x, y) if y <= 0.0 and (not x) else x"
    either = "y <= 0.0 and (not x)  ->  y <= 0.0 or not x"
    self.assertEqual(rest, {f"{branches}  ->  {both}", either})


class TrialsTest(absltest.TestCase):
  def test_what_runs_the_broken_line_is_first_and_what_is_slow_last(self):
    items = [mock.Mock(nodeid=name) for name in ("c_pallas", "a", "b_triton", "d")]
    trials._Watch(None, "json", ["b_triton", "a"]).pytest_collection_modifyitems(items)
    names = [item.nodeid for item in items]
    self.assertEqual(names, ["b_triton", "a", "d", "c_pallas"])

  def test_a_trial_ends_by_its_processor_seconds_or_if_it_hangs(self):
    def turns():
      while True:
        pass

    def sleeps():
      time.sleep(1000)
      return 0

    with tempfile.TemporaryDirectory() as folder:
      for run, seconds, wall in ((turns, 2, 100), (sleeps, 100, 0.2), (int, 100, 100)):
        process = trials.fork("json", None, run, Path(folder) / "log", seconds)
        found, status, used = trials.wait({process: time.monotonic() + wall})
        self.assertEqual(found, process)
        self.assertEqual(status, 0 if run is int else trials.LATE)
        self.assertEqual(used > 0.9, run is turns, f"{run.__name__} used {used} s")

  def test_a_broken_module_is_loaded_in_the_place_of_its_file(self):
    with tempfile.TemporaryDirectory() as folder:
      path = Path(folder) / "broken_for_a_test.py"
      path.write_text("def value():\n  return 2 + 3\n")
      (mutant,) = (m for m in details.mutants(path.read_text()) if m.after == "2 - 3")
      finder = trials._Finder(path.stem, path, mutant.tree)
      with mock.patch.object(sys, "meta_path", [finder, *sys.meta_path]):
        module = importlib.import_module(path.stem)
      del sys.modules[path.stem]
    self.assertEqual(module.value(), -1)


class OutputsTest(parameterized.TestCase):
  def test_names_what_differs(self):
    zero = np.zeros(3)
    old = {"same": zero, "near": zero + 1, "far": zero, "odd": zero, "gone": zero}
    new = {"same": zero, "near": zero + 1.0001, "far": zero + 1, "odd": zero * np.nan}
    with tempfile.TemporaryDirectory() as folder:
      paths = [Path(folder) / f"{n}.npz" for n in ("old", "new")]
      for path, arrays in zip(paths, (old, new)):
        np.savez(path, **arrays)
      self.assertEqual(outputs.changed(*paths), ["far", "gone", "odd"])

  @parameterized.parameters("vit_analytics", "delta")
  def test_saves_reports_and_rows_under_a_policy(self, slug):
    with tempfile.TemporaryDirectory() as folder:
      path = Path(folder) / "own.npz"
      outputs.save(slug, path)
      self.assertEqual(outputs.changed(path, path), [])
      with np.load(path) as found:
        names = [name for name in found if name.startswith("form ")]
    self.assertFalse([name for name in names if "raises" in name])
    self.assertGreater(len(names), 1)


if __name__ == "__main__":
  absltest.main()
