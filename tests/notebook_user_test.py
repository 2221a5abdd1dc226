"""What a notebook shows of attnjax: names, signatures, tables, types."""

import inspect
import runpy
import sys
import types
from pathlib import Path
from unittest import mock

import jax
from absl.testing import absltest, parameterized

import attnjax
from attnjax import contract

_ROOT = Path(__file__).parent.parent


class NotebookUserTest(parameterized.TestCase):
  @parameterized.parameters(
    (attnjax.halo, "Layer", {"block": 8, "halo": 3, "impl": "auto"}),
    (attnjax.lightning2, "Layer", {"form": "causal", "heads": 4}),
    (attnjax.halo, "Model", {"depths": (3, 3, 10, 3)}),
  )
  def test_a_signature_tells_the_options(self, module, name, options):
    parameters = inspect.signature(getattr(module, name)).parameters
    self.assertNotIn("self", parameters)
    for option, default in options.items():
      self.assertEqual(parameters[option].default, default)

  def test_a_number_is_a_seed(self):
    one, two, other = (
      attnjax.soft.Layer(8, form="image", heads=2, rngs=n) for n in (0, 0, 1)
    )
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), one, two)
    self.assertTrue(all(jax.tree.leaves(equal)))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), one, other)
    self.assertFalse(all(jax.tree.leaves(same)))

  def test_near_names(self):
    with self.assertRaisesRegex(
      AttributeError, "'lightning3'; did you mean lightning2"
    ):
      _ = attnjax.lightning3
    with self.assertRaisesRegex(AttributeError, "no attribute '_private'"):
      _ = attnjax._private
    self.assertFalse(hasattr(attnjax, "nothing_like_it"))

  def test_names_are_the_public_ones(self):
    names = dir(attnjax)
    self.assertContainsSubset(["dot_product_attention", "halo", "masks"], names)
    self.assertNoCommonElements(["ModuleType", "core", "contract"], names)
    self.assertEqual(set(names), {*attnjax.__all__, *contract.systems()})

  def test_a_table_of_systems(self):
    every = attnjax.systems()
    self.assertEqual(dict(every), contract.systems())
    self.assertIn("agent_attention", attnjax.systems(family="linear", impl="triton"))
    linear = attnjax.systems(family="linear", form="causal", impl="triton")
    self.assertEqual(list(linear), ["lightning2"])
    self.assertRegex(repr(linear), r"lightning2 +linear +causal +reference, xla")
    self.assertNotIn("halo", attnjax.systems(form="causal"))
    self.assertIn("https://arxiv.org/abs/2401.04658", linear._repr_html_())
    for options, near in (
      ({"family": "linea"}, "linear"),
      ({"form": "casual"}, "caus"),
    ):
      with self.assertRaisesRegex(ValueError, near):
        attnjax.systems(**options)

  def test_a_stub_has_the_types_of_all_names(self):
    build = types.ModuleType("setuptools.command.build_py")
    setattr(build, "build_py", object)  # noqa: B010
    tools = mock.MagicMock(find_packages=lambda **_: [])
    fakes = {"setuptools": tools, "setuptools.command.build_py": build}
    fakes["setuptools.command"] = mock.MagicMock()
    missing = [name for name in fakes if name not in sys.modules]
    with mock.patch.dict(sys.modules, fakes):
      text = runpy.run_path(str(_ROOT / "setup.py"))["stub"](_ROOT / "attnjax")
    self.assertLen(missing, 3)
    found = set()
    for line in text.splitlines()[1:]:
      exec(line, own := {})
      found |= set(own) - {"__builtins__"}
    self.assertEqual(found, set(dir(attnjax)))
    self.assertTrue((_ROOT / "attnjax" / "py.typed").exists())


if __name__ == "__main__":
  absltest.main()
