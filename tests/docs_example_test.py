"""The files of docs/add_a_system.md, added as they stand there, keep the contract."""

import importlib
import importlib.util
import sys
import unittest
from pathlib import Path

from absl.testing import absltest

from attnjax import contract, variants
from attnjax.variants import softmax
from experiments.claims import claim, systems
from tests import adding

_ROOT = Path(__file__).parent.parent
_PACKAGES = {
  "attnjax/variants/softmax": softmax,
  "experiments/claims/systems": systems,
}


class DocsExampleTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.files = dict(adding.python(_ROOT / "docs" / "add_a_system.md"))
    self.folder = self.enterContext(adding.added(self.files, _PACKAGES))
    for name in ("attnjax.variants.softmax.alibi", "experiments.claims.systems.alibi"):
      self.addCleanup(sys.modules.pop, name, None)

  def test_the_page_has_a_module_a_test_and_a_claim(self):
    self.assertEqual([Path(name).stem for name in self.files],
                     ["alibi", "alibi_test", "alibi"])  # fmt: skip
    self.assertIn("alibi", contract.systems())
    self.assertTrue(contract.systems()["alibi"].startswith(variants.__name__))

  def test_the_module_keeps_its_contract(self):
    adding.keeps_its_contract(self, "alibi")

  def test_its_own_test_passes(self):
    path = self.folder / "tests/softmax/alibi_test.py"
    spec = importlib.util.spec_from_file_location("alibi_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = unittest.defaultTestLoader.loadTestsFromModule(module)
    self.assertEqual(found.countTestCases(), 2)
    result = unittest.TestResult()
    found.run(result)
    self.assertEmpty(result.errors + result.failures)

  def test_its_claim_can_be_measured(self):
    module = importlib.import_module("experiments.claims.systems.alibi")
    (quality,) = module.CLAIMS
    self.assertIsInstance(quality, claim.Quality)
    (score,), (untrained,) = (
      quality.rows[i].train([(1e-2, 0)]) for i in (0, len(quality.rows) - 1)
    )
    self.assertBetween(score.value, 0, 0.8 * untrained.value)
    self.assertEqual(score.parameters, 4 * 16 * 16)


if __name__ == "__main__":
  absltest.main()
