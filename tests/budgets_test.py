"""Budgets of policies as shares: the checks see what is wrong, systems by hand."""

import dataclasses
import types
from typing import Any

from absl.testing import absltest, parameterized

from attnjax import contract
from attnjax.contract import budget_checks
from attnjax.contract.subject import Subject
from attnjax.core import budgets
from tests.policies_test import Recent


@dataclasses.dataclass(frozen=True)
class _Share(Recent):
  def of_fraction(self, fraction, length) -> Any:
    return dataclasses.replace(self, keys=budgets.keys(fraction, length))


class _TooMuch(_Share):
  def of_fraction(self, fraction, length):
    return type(self)(min(budgets.keys(fraction, length) + 1, length))


class _NeverAll(_Share):
  def of_fraction(self, fraction, length):
    return type(self)(max(budgets.keys(fraction, length) - 1, 1))


class _Reversed(_Share):
  def of_fraction(self, fraction, length):
    least = fraction if fraction in (0.05, 1) else 0.01 / fraction
    return type(self)(budgets.keys(least, length))


class _Lax(_Share):
  def of_fraction(self, fraction, length):
    return type(self)(max(min(int(fraction * length), length), 1))


class _Other(_Share):
  def of_fraction(self, fraction, length):
    return Recent(budgets.keys(fraction, length))


class _Dense(_Share):
  def reads(self, places, layers):
    return places * layers, 0


def _run(kind):
  module = types.ModuleType("attnjax.toys.share")
  vars(module).update(Policy=kind)
  for check in budget_checks.BUDGETS:
    check(Subject(module, "policy"))


class ChecksTest(parameterized.TestCase):
  @parameterized.parameters(Recent, _Share)
  def test_pass(self, kind):
    _run(kind)

  @parameterized.parameters(
    (_TooMuch, "of a budget of"),
    (_NeverAll, "for the share 1"),
    (_Reversed, "for the shares"),
    (_Lax, "is not refused"),
    (_Other, "Recent.* of .*_Other"),
    (_Dense, "leaves no key out"),
  )
  def test_fail(self, kind, message):
    with self.assertRaisesRegex(AssertionError, message):
      _run(kind)


class ByHandTest(parameterized.TestCase):
  def test_keys(self):
    self.assertEqual([budgets.keys(f, 30) for f in (0.01, 0.1, 0.5, 1)], [1, 3, 15, 30])
    for fraction in (0, -0.1, 1.1, float("nan")):
      with self.assertRaisesRegex(ValueError, f"fraction = {fraction}; .* at most 1"):
        budgets.keys(fraction, 30)
    with self.assertRaisesRegex(ValueError, "length = 0; a row"):
      budgets.keys(0.5, 0)

  @parameterized.parameters(
    # The paper's 64 pages of 16 tokens, 8 of them recent, are a quarter of 4,096.
    (0.25, 4096, {"pages": 64, "page": 16, "recent_pages": 8}),
    (0.1, 512, {"pages": 4, "page": 12, "recent_pages": 1}),
    (0.05, 64, {"pages": 3, "page": 1, "recent_pages": 1}),
    (1.0, 100, {"pages": 7, "page": 16, "recent_pages": 1}),
  )
  def test_delta(self, fraction, length, want):
    given = contract.load("delta").Policy(tokens="max", full_layers=(0, 2))
    want = dataclasses.replace(given, **want)
    self.assertEqual(given.of_fraction(fraction, length), want)

  @parameterized.parameters(
    # 1,024 keys: 4, a fifth of them local, and blocks of 16 for the rest but 15.
    (0.25, 4096, {"blocks": 50, "block": 16, "local": 204, "sink": 4}),
    (0.1, 512, {"blocks": 12, "block": 3, "local": 10, "sink": 3}),
    (0.05, 20, {"blocks": 0, "block": 1, "local": 1, "sink": 0}),
    (1.0, 100, {"blocks": 17, "block": 6, "local": 19, "sink": 4}),
  )
  def test_kinetics(self, fraction, length, want):
    given = contract.load("kinetics").Policy(dense_layers=())
    want = dataclasses.replace(given, **want)
    self.assertEqual(given.of_fraction(fraction, length), want)


if __name__ == "__main__":
  absltest.main()
