"""The suite's page: every row of the record is shown, and its pictures are drawn."""

import json
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from absl.testing import absltest

from experiments.docs import suite_pictures, suite_tables
from experiments.suite import problems, rows, training

_ROOT = Path(__file__).parent.parent
_SVG = "{http://www.w3.org/2000/svg}"


def _row(tests, *, state=None, longer=(), registration="old"):
  seeds = [
    {"rate": 0.01, "seed": i, "validation": value, "test": value, "seconds": 2.0 + i}
    | {"longer": [value / 2 for _ in longer] and [0.5, value / 2]}
    for i, value in enumerate(tests)
  ]
  row = {"rates": seeds, "seeds": seeds, "parameters": 1200, "seconds": 3600.0}
  return row | {"state": state or {}, "registration": registration}


def _record():
  state = {"16": 320, "32": 640, "64": 1280}
  own = {name: {} for name in problems.PROBLEMS}
  for name, known in problems.TOKENS.items():
    more = {"state": state, "longer": known.longer}
    own[name] = {
      "lightning2": _row([0.9, 0.7, 0.8], **more),
      "aaren": _row([0.2, 0.6, 0.4], **more),
      training.NONE: _row([0.3, 0.3, 0.3], **more),
    }
  own["digits"] = {"halo": _row([0.5, 0.5, 0.5]), training.NONE: _row([0.47] * 3)}
  record = {"commit": "abc", "machine": "x86_64", "versions": {"jax": "0.11"}}
  return record | {"rows": own, "chance": dict.fromkeys(own, 0.2)}


class TablesTest(absltest.TestCase):
  def test_every_row_is_shown(self):
    text = suite_tables.groups(_record())
    for names in suite_tables.GROUPS.values():
      self.assertIn(" | ".join(f"`{name}`" for name in names), text)
    shown = [name for names in suite_tables.GROUPS.values() for name in names]
    self.assertCountEqual(shown, problems.TOKENS)
    self.assertIn(
      "| [`lightning2`](systems/lightning2.md) | 0.800 (0.70 to 0.90)", text
    )
    self.assertIn("| most frequent answer | 0.200 |", text)
    # The row without a mixer is the last of the models.
    self.assertLess(text.index("`lightning2`"), text.index("| without a mixer |"))
    images = suite_tables.accuracies(_record(), tuple(problems.IMAGES))
    self.assertIn(
      "| [`halo`](systems/halo.md) | - | 0.500 (0.50 to 0.50) | - |", images
    )

  def test_what_is_learned(self):
    record = _record()
    text = suite_tables.learned(record)
    # aaren's mean is higher by 0.1, and its standard error is 0.115.
    self.assertIn("| `mqar_4` | 0.30 | 1 of 2 | `lightning2` 0.80 |", text)
    # halo is better by less than LEAST.
    self.assertIn("| `digits` | 0.47 | 0 of 1 |  |", text)
    self.assertNotIn("mnist5k", text)
    self.assertFalse(suite_tables.beats(record, "parity", training.NONE))

  def test_scores_and_costs(self):
    record = _record()
    self.assertAlmostEqual(suite_tables.score(record, "parity", "lightning2"), 0.75)
    self.assertIsNone(suite_tables.score(record, "parity", "halo"))
    text = suite_tables.costs(record)
    self.assertIn("| 1,200 | 320 | 1,280 | 3.5 | 0.750 | 0.750 |", text)
    del record["rows"]["compression"]["lightning2"]
    self.assertIn("| 1,200 | 320 | 1,280 | 3.5 | - | - |", suite_tables.costs(record))

  def test_longer(self):
    text = suite_tables.longer(_record())
    tokens = problems.TOKENS["parity"]
    self.assertIn(f"`parity`, {tokens.options['length']} tokens", text)
    self.assertIn(f"{tokens.longer['length']} tokens", text)
    self.assertIn("| 0.800 (0.70 to 0.90) | 0.400 (0.35 to 0.45) |", text)

  def test_long_contexts(self):
    record = _record()
    self.assertIn("Nothing is measured yet", suite_tables.long(record))
    more = {"longer": (1,)}
    record["rows"]["chained_lookup"] = {"aaren": _row([0.9, 0.8, 0.7], **more)}
    text = suite_tables.long(record)
    self.assertIn("| [`aaren`](systems/aaren.md) | - |", text)
    self.assertIn("`chained_lookup`, 128 tokens | 512 tokens |", text)
    self.assertIn("| 0.800 (0.70 to 0.90) | 0.400 (0.35 to 0.45) |", text)

  def test_what_is_measured(self):
    text = suite_tables.measured(_record(), ["aaren on parity"])
    self.assertIn("56 of ", text)
    self.assertIn("in 56.0 hours", text)
    self.assertIn("Measured by another protocol: aaren on parity.", text)

  def test_nothing_is_measured(self):
    with tempfile.TemporaryDirectory() as folder:
      for make in suite_tables.parts(Path(folder)).values():
        self.assertIn("Nothing is measured yet", make())
      self.assertEmpty(suite_pictures.files(Path(folder)))


class PicturesTest(absltest.TestCase):
  def test_a_heat_map(self):
    root = ElementTree.fromstring(suite_pictures.heat(_record(), ("parity", "digits")))
    cells = root.findall(f"{_SVG}rect[@class='cell']")
    # Three mechanisms on parity, halo and none on digits.
    shades = [cell.get("fill-opacity") for cell in cells]
    self.assertCountEqual(shades, ["0.75", "0.25", "0.12", "0.37", "0.34"])
    words = [text.text for text in root.findall(f"{_SVG}text")]
    for word in ("parity", "digits", "halo", "without a mixer", "0.80"):
      self.assertIn(word, words)

  def test_points_and_curves(self):
    root = ElementTree.fromstring(suite_pictures.costs(_record()))
    self.assertLen(root.findall(f"{_SVG}circle"), 3 * 3 + 3)  # panels, legend
    root = ElementTree.fromstring(suite_pictures.longer(_record()))
    lines = root.findall(f"{_SVG}polyline")
    self.assertLen(lines, 3 * 3)
    ys = [float(point.split(",")[1]) for point in lines[1].get("points").split()]
    self.assertLen(ys, 2)
    self.assertGreater(ys[1], ys[0])  # falls from 0.5 to 0.4; up is less


class RecordTest(absltest.TestCase):
  def test_the_record_is_of_this_protocol(self):
    """A row that another protocol measured has to be measured again."""
    self.assertEmpty(rows.stale(_ROOT))

  def test_the_record_names_known_mechanisms(self):
    for name, own in rows.read(_ROOT).get("rows", {}).items():
      self.assertContainsSubset(own, rows.half(name).mechanisms())
      for row in own.values():
        self.assertEqual([r["seed"] for r in row["seeds"]], list(training.SEEDS))
        json.dumps(row, allow_nan=False)


if __name__ == "__main__":
  absltest.main()
