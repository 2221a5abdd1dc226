"""Saved runs analysed from the command line, and reports shown in notebooks."""

import contextlib
import io
import json
import tempfile
import types
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from attnjax.contract.reports import Report, picture
from experiments import errors, run
from experiments.analyse import __main__ as analyse
from experiments.analyse import entries, options
from tests.pages import Page, check_alone
from tests.run_test import tiny


class AnalyseTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    run.run(tiny(steps=4, model__depth=4), cls.folder / "lm")
    run.run(tiny("lightning2", steps=4), cls.folder / "linear")
    run.run(tiny("gated_attention", steps=4), cls.folder / "gated")

  def report(self, name, *arguments):
    """The exit status, what is printed, the record, and the page."""
    where = ["--output", str(self.folder / "p.html"), "--json", str(self.folder / "p")]
    given = ["--workdir", str(self.folder / name), *arguments, *where]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = errors.guard(analyse.main, given)
    if status:
      return status, err.getvalue(), {}, ""
    files = [(self.folder / n).read_text() for n in ("p", "p.html")]
    return status, out.getvalue(), json.loads(files[0]), files[1]

  def test_secondary_sinks(self):
    names = "secondary_sinks,head_influence"
    given = ["--with", names, "--rows", "5", "--heads", "0.1,3.0"]
    status, out, record, text = self.report("lm", *given, "--option", "least=2")
    self.assertEqual(status, 0, out)
    self.assertIn("secondary_sinks: weakening =", out)
    own = {"secondary_sinks": {"least": 2}, "head_influence": {}}
    self.assertEqual(record["options"], own)
    self.assertEqual(np.shape(record["analyses"]["head_influence"]["copying"]), (4, 4))
    found, axes = record["analyses"]["secondary_sinks"], record["axes"]
    self.assertEqual(np.shape(found["score"]), (5, 4, 16))
    self.assertEqual(axes["secondary_sinks"]["score"], "BLT")
    self.assertIsNone(found["score"][0][0][-1])  # too few queries behind it
    self.assertIsNotNone(found["score"][0][0][-3])
    read = check_alone(self, text)
    for part in (
      "Secondary attention sinks",
      "By layer",
      "sink score of the primary sink, mean of the heads",
      "layer 3, head 0",
      "AttentionInfluence",
      "Over the examples",
      "not defined",
      "other tokens",
    ):
      self.assertIn(part, read.text)
    alts = [image["alt"] for image in read.all("img")]
    wanted = "over the heads, example 2: layers down"
    self.assertTrue(any(wanted in alt for alt in alts), alts)
    self.assertEqual(sum("weights of layer" in alt for alt in alts), 2)

  @parameterized.parameters(
    (["--with", "secondary_sink"], "analysis 'secondary_sink'.*secondary_sinks"),
    (["--with", ","], "--with = ','; name one of"),
    (["--with", "secondary_sinks", "--rows", "0"], "--rows = 0; it must be 1"),
    (["--with", "secondary_sinks", "--option", "leasts=2"], "option 'leasts'.*least"),
    (["--with", "secondary_sinks", "--option", "least"], "'least'; it must be NAME="),
    (["--with", "secondary_sinks", "--option", "least=x"], "least = 'x'; it is no"),
    (["--with", "secondary_sinks", "--option", "least=2.5"], "'2.5'; it must be int"),
    (["--with", "secondary_sinks", "--option", "candidates=0"], "candidates = 0"),
    (["--with", "secondary_sinks", "--heads", "1"], "--heads '1'; it must be layer"),
    (["--with", "secondary_sinks", "--heads", "9.0"], "9.0: the layers are 0 to 3"),
    (["--with", "secondary_sinks", "--heads", "0.9"], "0.9: the heads of layer 0 are"),
  )
  def test_errors_name_value_and_rule(self, arguments, message):
    status, err, *_ = self.report("lm", *arguments)
    self.assertEqual(status, errors.REFUSED)
    self.assertRegex(err, message)

  def test_what_cannot_be_analysed(self):
    status, err, *_ = self.report("linear", "--with", "secondary_sinks")
    self.assertEqual(status, errors.REFUSED)
    self.assertRegex(err, "secondary_sinks: layer 0 is no causal softmax")
    with self.assertRaisesRegex(errors.UserError, "host language; this .* 'vision'"):
      options.check_host(options.analyses("secondary_sinks"), "vision")

  def test_a_gate_of_the_output_leaves_the_weights(self):
    given = ["--with", "secondary_sinks", "--rows", "4", "--heads", "0.1"]
    status, out, record, text = self.report("gated", *given, "--option", "least=2")
    self.assertEqual(status, 0, out)
    found = record["analyses"]["secondary_sinks"]["primary_heads"]
    self.assertTrue(all(0 < x < 1 for x in np.ravel(found)), found)
    self.assertIn("layer 0, head 1", Page(text).text)

  def test_entries_are_pictures_tables_or_words(self):
    def entry(value, axes, **named):
      module = types.ModuleType("analysis")
      vars(module).update(AXES={"x": axes}, MEANINGS={"x": "what"}, LABELS=named)
      return entries.Entry.of(module, "x", np.asarray(value))

    one = entry([1.0, 1.0, np.nan], "B")
    self.assertTrue(one.constant)
    self.assertEqual(one.everywhere(), "1")
    self.assertEqual(entry(np.zeros((0, 3)), "PI").everywhere(), "none")
    one = entry([0, 2, 2, np.nan], "B")
    self.assertFalse(one.constant)
    self.assertEqual(one.summary(), ["1.333", "0", "2", "0: 1, 2: 2"])
    self.assertEqual(entry(np.arange(9), "B").summary()[-1], "9 different")
    self.assertTrue(entry(np.zeros((64, 2)), "BR").small)
    self.assertFalse(entry(np.zeros((64, 20)), "BT").small)
    self.assertEqual(entry(np.eye(2), "LG", G=("a", "b")).labels("G"), ["a", "b"])
    deep = entry(np.arange(5 * 2 * 3 * 4.0).reshape(5, 2, 3, 4), "LNYX")
    figures = list(deep.figures())
    self.assertLen(figures, 3)
    self.assertIn("what, layer 2, head 0: Ys down, Xs across, 48 to 59", figures[2])

  def test_help_names_the_analyses(self):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), self.assertRaises(SystemExit):
      analyse.main(["--help"])
    self.assertIn("secondary_sinks", out.getvalue())


class NotebookTest(absltest.TestCase):
  def test_reports_draw_themselves(self):
    entries = {
      "map": np.arange(24.0).reshape(2, 3, 4),
      "few": np.array([1.5, np.nan]),
      "word": "a < b",
      "line": np.arange(20),
    }
    axes = {"map": "BLT", "few": "C", "word": "", "line": "T", "other": "N"}
    text = Report(entries, axes)._repr_html_()
    read = Page(text)
    self.assertLen(read.all("img"), 1)
    self.assertIn("map, from 0 to 11", text)
    for part in ("1.5, nan", "a < b", "2 x 3 x 4", "7 ..."):
      self.assertIn(part, read.text)

  def test_pictures_are_images(self):
    import base64

    from matplotlib import image

    text = picture(np.array([[0.0, np.nan], [1.0, 0.5]]), "x")
    data = base64.b64decode(text.split("base64,")[1].rstrip('">'))
    pixels = (image.imread(io.BytesIO(data))[3::6, 3::6] * 255).round()
    want = [[[240] * 3, [255] * 3], [[20, 60, 160], [130, 150, 200]]]
    np.testing.assert_array_equal(pixels, want)


if __name__ == "__main__":
  absltest.main()
