"""What a change touches, for files that stay."""

from absl.testing import absltest, parameterized

from tests import scopes, since

_CONTRACT = "tests/contract_test.py::FunctionTest::test_vmap_is_a_loop_lightning2"
_OTHER = "tests/contract_test.py::FunctionTest::test_vmap_is_a_loop_halo"
_ROUNDS = "tests/core/toeplitz_test.py::ToeplitzTest::test_a"


class SinceTest(parameterized.TestCase):
  @parameterized.parameters(
    (_CONTRACT, "attnjax/variants/linear/lightning2/__init__.py", True),
    (_OTHER, "attnjax/variants/linear/lightning2/__init__.py", False),
    (_OTHER, "attnjax/contract/case.py", True),
    (_OTHER, "pallas_kernels/flash/triton_gpu/tiles.py", True),  # it runs kernels
    ("tests/run_test.py::A::b", "pallas_kernels/flash/triton_gpu/tiles.py", False),
    (_ROUNDS, "attnjax/core/toeplitz.py", True),
    (_ROUNDS, "attnjax/nn/stack.py", False),
    (_ROUNDS, "setup.py", True),
    (_ROUNDS, "README.md", False),
    ("tests/layout_test.py::A::b", "README.md", True),
    ("tests/golden_test.py::A::test_b_soft", "tests/golden/soft.npz", True),
    ("tests/golden_test.py::A::test_b_halo", "tests/golden/soft.npz", False),
    ("tests/golden_test.py::A::test_b_halo", "tests/golden/halo_model.npz", True),
    ("tests/golden_test.py::A::test_b_halo", "tests/networks.py", True),
    # A program that a test starts is named in a string.
    ("tests/compare_test.py::A::b", "experiments/compare.py", True),
  )
  def test_touched(self, nodeid, file, wanted):
    self.assertEqual(since.touched(nodeid, [file]), wanted)

  def test_an_unknown_revision_is_named(self):
    with self.assertRaisesRegex(ValueError, "SINCE=no-such-revision"):
      since.changed("no-such-revision")


class ScopesTest(parameterized.TestCase):
  @parameterized.parameters(
    (_CONTRACT, "lightning2"),
    ("tests/linear/lightning2_test.py::A::test_b", "lightning2"),
    ("tests/local/neighborhood_fused_test.py::A::test_b", "neighborhood"),
    ("tests/golden_test.py::A::test_agrees_soft", "soft"),
    ("tests/core/softmax_test.py::A::test_soft", None),
  )
  def test_a_system_pays_for_its_tests(self, nodeid, slug):
    self.assertEqual(scopes.system(nodeid), slug)
    file = nodeid.partition("::")[0]
    self.assertEqual(scopes.process(nodeid), slug or file)


if __name__ == "__main__":
  absltest.main()
