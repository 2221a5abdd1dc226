"""Claims: rules that can be missed, rows that are kept, records that notice changes."""

import contextlib
import io
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from experiments import errors
from experiments.claims import __main__ as claims
from experiments.claims import claim, measuring, records
from experiments.claims.claim import Cost, NotTestable, Quality, Row, Score, Sized

_VALUES = {
  "ours": (0.90, 0.91, 0.92),
  "nothing": (0.10, 0.11, 0.12),
  "softmax": (0.80, 0.81, 0.82),
  "random": (0.50, 0.51, 0.52),
}
_KINDS = dict(zip(_VALUES, ("mechanism", "without", "baseline", "broken")))


def _quality(values=None, calls=None, **changes):
  values = values or _VALUES

  def row(name):
    def train(runs):
      if calls is not None:
        calls.extend((name, rate, seed) for rate, seed in runs)
      # The middle rate is the best on validation data, the largest on test data.
      return [
        Score(values[name][seed] + rate - 3e-3, 1.0 if rate == 3e-3 else 0.0, 12)
        for rate, seed in runs
      ]

    return Row(name, _KINDS[name], train)

  options = {"against": "softmax", "margin": 0.05} | changes
  rows = tuple(map(row, values))
  return Quality("Ours is better.", "section 1", "points", "more", rows, **options)


def _cost(power=1.0, **changes):
  rows = (
    Sized("ours", "mechanism", lambda n: n**power),
    Sized("softmax", "rival", lambda n: n**2 / 8),
    Sized("matrix", "broken", lambda n: n**3),
  )
  options = {"exponent": 1.2} | changes
  sizes = 16, 32, 64, 128
  return Cost("Ours is linear.", "section 2", "bytes", rows, sizes, **options)


def _costs(power):
  return {
    row.name: [row.measure(n) for n in (16, 32, 64, 128)] for row in _cost(power).rows
  }


class RuleTest(parameterized.TestCase):
  @parameterized.parameters(
    ({}, {}, claim.REPRODUCED, r"\+0.1 points"),
    ({}, {"margin": 0.2}, claim.NOT_REPRODUCED, r"\+0.1 points"),
    # A difference within the noise is none.
    ({"ours": (0.7, 0.9, 1.1)}, {"margin": 0.0}, claim.NOT_REPRODUCED, "error 0.12"),
    ({"ours": (0.79, 0.80, 0.81)}, {"margin": -0.05}, claim.REPRODUCED, "-0.01"),
    ({"ours": (0.70, 0.71, 0.72)}, {"margin": -0.05}, claim.NOT_REPRODUCED, "-0.1"),
    ({"nothing": (0.89, 0.91, 0.93)}, {}, claim.NOT_NEEDED, "nothing does as well"),
    ({"random": (0.9, 0.9, 0.91)}, {}, claim.NOT_TESTABLE, "random meets it"),
    ({"ours": (0.9, 0.9, float("nan"))}, {}, claim.NOT_NEEDED, "nan"),
  )
  def test_a_difference_of_means(self, values, changes, verdict, said):
    got = _quality(**changes).verdict(_VALUES | values)
    self.assertEqual(got[0], verdict)
    self.assertRegex(got[1], said)

  def test_less_is_better(self):
    one = _quality(margin=0.05)
    rows = {name: [-x for x in values] for name, values in _VALUES.items()}
    fewer = Quality("a", "b", "nats", "less", one.rows, "softmax", 0.05)
    self.assertEqual(fewer.verdict(rows)[0], claim.REPRODUCED)
    self.assertEqual(one.verdict(rows)[0], claim.NOT_NEEDED)

  @parameterized.parameters(
    (1.0, {}, claim.REPRODUCED, "exponent 1"),
    (1.5, {}, claim.NOT_REPRODUCED, "exponent 1.5"),
    (1.0, {"exponent": 3.5}, claim.NOT_TESTABLE, "matrix meets it"),
    (1.0, {"exponent": None, "against": "softmax", "ratio": 16}, claim.REPRODUCED,
     "times 16"),
    (1.0, {"exponent": None, "against": "softmax", "ratio": 17}, claim.NOT_REPRODUCED,
     "times 16"),
  )  # fmt: skip
  def test_a_power_or_a_ratio(self, power, changes, verdict, said):
    got = _cost(**changes).verdict(_costs(power))
    self.assertEqual(got, (verdict, got[1]))
    self.assertIn(said, got[1])

  def test_what_cannot_be_registered(self):
    few = {name: x for name, x in _VALUES.items() if name != "nothing"}
    for make, message in (
      (lambda: _quality(few), "no row of kind 'without'"),
      (lambda: _quality(against="soft"), "'soft' is none of ours"),
      (lambda: _quality(seeds=(0, 1)), "at least 3"),
      (lambda: _cost(exponent=None), "either an exponent or a ratio"),
      (lambda: _cost(ratio=2.0, against="softmax"), "either"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        make()


def _known(slug):
  """Returns a context in which claim files are found for one slug alone."""
  found = [types.SimpleNamespace(name=slug)]
  return mock.patch.object(claims.pkgutil, "iter_modules", return_value=found)


class MeasuringTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.calls = []
    self.file = self.root / "toy.py"
    self.file.write_text("registered")
    toy = types.ModuleType("toy")
    toy.__file__ = str(self.file)
    never = NotTestable("It wins at 7B.", "table 1", "seven billion parameters")
    toy.CLAIMS = (_quality(calls=self.calls), _cost(), never)
    name = "experiments.claims.systems.toy"
    sys.modules[name] = toy
    self.addCleanup(sys.modules.pop, name)
    self.toy = toy

  def _run(self):
    with contextlib.redirect_stdout(io.StringIO()) as said:
      record = claims._measure("toy", self.root)
    return record, said.getvalue()

  def test_rows_rates_seeds_and_records(self):
    record, said = self._run()
    quality, cost, never = record["claims"]
    # Three rates with the first seed, then two more seeds of the best.
    self.assertLen(self.calls, 4 * 5)
    self.assertEqual({rate for _, rate, seed in self.calls if seed}, {3e-3})
    ours = quality["rows"][0]
    self.assertEqual((ours["rate"], ours["parameters"]), (3e-3, 12))
    self.assertSequenceAlmostEqual(ours["values"], _VALUES["ours"])
    self.assertEqual(quality["verdict"], claim.REPRODUCED)
    self.assertEqual(cost["rows"][1]["values"][-1], 128**2 / 8)
    self.assertEqual(never["verdict"], claim.NOT_TESTABLE)
    self.assertIn("reproduced: +0.1", said)
    self.assertEqual(records.read(self.root, "toy"), record | {"slug": "toy"})
    self.assertEqual(
      records.verdicts(record), {claim.REPRODUCED: 2, claim.NOT_TESTABLE: 1}
    )

  def test_what_was_measured_is_not_measured_again(self):
    self._run()
    path = self.root / "runs" / "claims" / "toy.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:7]) + '\n{"key": "cut')  # interrupted
    self.calls.clear()
    again, _ = self._run()
    self.assertLen(self.calls, 4 * 5 - 7)
    self.assertEqual(again["claims"], records.read(self.root, "toy")["claims"])

  def test_a_changed_file_is_noticed_and_measured_anew(self):
    self._run()
    self.assertEqual(claims.stale(self.root, "toy"), [])
    self.file.write_text("another task")
    self.assertRegex(claims.stale(self.root, "toy")[0], "claim file has changed")
    self.calls.clear()
    self._run()
    self.assertLen(self.calls, 4 * 5)
    self.assertEqual(claims.stale(self.root, "toy"), [])
    record = records.read(self.root, "toy")
    record["claims"][1]["rule"] = "grows at most as size^9"
    records.write(self.root, "toy", record)
    self.assertRegex(claims.stale(self.root, "toy")[0], "other claims or rules")
    del self.toy.CLAIMS
    self.assertRegex(claims.stale(self.root, "toy")[0], "another protocol")

  def test_registered_claims_wait(self):
    run = ["toy", "--register", "--root", str(self.root)]
    with contextlib.redirect_stdout(io.StringIO()), _known("toy"):
      self.assertEqual(claims.main(run), 0)
      record = records.read(self.root, "toy")
      self.assertEqual(
        records.verdicts(record), {claim.WAITING: 2, claim.NOT_TESTABLE: 1}
      )
      self.assertFalse(records.holds(record))
      self.assertEmpty(claims.stale(self.root, "toy"))
      self.file.write_text("registered anew")
      self.assertLen(claims.stale(self.root, "toy"), 1)
      self.file.write_text("registered")
      self._run()
      self.assertNotIn(claim.WAITING, records.verdicts(records.read(self.root, "toy")))
      with self.assertRaisesRegex(errors.UserError, "measured, already"):
        claims.main(run)
      # What was measured stays when the file is changed, also when that is measured.
      before = records.read(self.root, "toy")["claims"][:2]
      self.file.write_text("a second claim")
      claims.main(run)
      for _ in range(2):
        kept = records.read(self.root, "toy")["earlier"]
        self.assertEqual([c["rows"] for c in kept], [c["rows"] for c in before])
        self._run()
    self.assertLen(self.calls, 2 * 4 * 5)

  def test_all_records_fit_their_files(self):
    self.assertEqual(claims.main(["--check"]), 0)
    self.assertIsNot(measuring.registration("halo"), "")
    with self.assertRaisesRegex(errors.UserError, "no system named"):
      claims.main([])


if __name__ == "__main__":
  absltest.main()
