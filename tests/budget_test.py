"""What systems may take of the suite's time."""

from absl.testing import absltest

from tests import budget

_FORM = "tests/contract_test.py::FormTest::test_form_"


class BudgetTest(absltest.TestCase):
  def test_a_system_above_its_budget_is_named(self):
    counted = budget.Budget()
    counted.slower = 1.0
    counted.seconds |= {
      f"{_FORM}davit_image_trains": 36.0,
      f"{_FORM}duoformer_image_composes": 20.0,
      f"{_FORM}duoformer_backbone_trains": 29.0,
      f"{_FORM}halo_image_trains": 79.0,
      "tests/core/toeplitz_test.py::A::test_b": 999.0,
    }
    self.assertEqual(counted.allowed("davit"), budget.BUDGET)
    self.assertEqual(counted.allowed("duoformer"), budget.BUDGET + budget.NETWORK)
    self.assertEqual(counted.over(), {"davit": 36.0})
    counted.slower = 2.0
    self.assertEqual(counted.over(), {})


if __name__ == "__main__":
  absltest.main()
