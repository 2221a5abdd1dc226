"""Data sets chosen on the command line."""

import sys
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from experiments import configuration, data, errors

_CONFIGS = Path(__file__).parent.parent.parent / "configs"


def _data(config, *arguments):
  """The section `data` of a command line."""
  line = ["run", "--config", str(_CONFIGS / config), *arguments]
  with mock.patch.object(sys, "argv", line):
    values = configuration.parse(lambda values: None)
    return configuration.read_config(values).data.to_dict()


class NamedDataTest(parameterized.TestCase):
  @parameterized.parameters("--config.data.name=parity", "--config.data.name parity")
  def test_another_set_brings_its_options(self, argument):
    found = _data("recall.py", *argument.split())
    want = {"name": "parity", "batch": 64} | data.defaults("parity")
    self.assertEqual(found, want)
    data.load("parity", {n: v for n, v in found.items() if n not in ("name", "batch")})

  def test_its_options_can_be_overridden(self):
    more = ("--config.data.name=modular_counting", "--config.data.modulus=5")
    for order in (more, more[::-1]):
      found = _data("lm.py:lightning2", *order)
      self.assertEqual((found["modulus"], found["length"]), (5, 40))
    self.assertNotIn("documents", found)

  def test_what_the_config_changed_stays(self):
    config = configuration.default("dot_product", host="language", dataset="mqar")
    config.data.length, config.data.batch = 96, 8
    found = configuration.with_dataset(config, "induction").data.to_dict()
    self.assertEqual((found["length"], found["batch"], found["vocab"]), (96, 8, 16))

  def test_the_same_set(self):
    self.assertEqual(_data("recall.py", "--config.data.name=mqar"), _data("recall.py"))

  @parameterized.parameters(
    (["--config.data.name=pairty"], "data set 'pairty'; did you mean parity"),
    (["--config.data.name=parity", "--config.data.pairs=2"], "option .*'pairs'"),
  )
  def test_errors(self, arguments, message):
    with self.assertRaisesRegex(errors.UserError, message):
      _data("recall.py", *arguments)


if __name__ == "__main__":
  absltest.main()
