"""The notebooks and the README's Python run, as a user would run them."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from tests import listing
from tests.contract_test import finite_loss

_ROOT = Path(__file__).parent.parent
_NOTEBOOKS = sorted((_ROOT / "experiments" / "notebooks").glob("*.py"))
_SNIPPETS = re.findall(
  r"```python\n(.*?)```", (_ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
)


class NotebooksTest(parameterized.TestCase):
  @parameterized.named_parameters((path.stem, path) for path in _NOTEBOOKS)
  def test_notebook_runs(self, path):
    runpy.run_path(str(path))

  @parameterized.named_parameters((str(i), text) for i, text in enumerate(_SNIPPETS))
  def test_snippet_of_the_readme_runs(self, text):
    exec(compile(text, "README.md", "exec"), {})

  def test_the_readme_has_the_linen_snippet(self):
    self.assertTrue(any("to_linen" in text for text in _SNIPPETS))

  @parameterized.named_parameters(*listing.each())
  def test_functions_under_every_transformation(self, module, error):
    listing.check(error)
    case = module.CASES[0]
    arrays, options = case.arrays(), case.arguments()
    function = case.implemented(module)

    def loss(arrays):
      return finite_loss(function(**arrays, **options))

    want = jax.jit(jax.grad(loss))(arrays)
    batched = jax.jit(jax.vmap(jax.grad(loss)))(jax.tree.map(lambda x: x[None], arrays))
    tangent = jax.jit(lambda a, t: jax.jvp(loss, (a,), (t,))[1])(arrays, want)
    for one, other in zip(jax.tree.leaves(batched), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(one[0], other, rtol=1e-4, atol=1e-5)
    squares = sum(jnp.vdot(g, g) for g in jax.tree.leaves(want))
    np.testing.assert_allclose(tangent, squares, rtol=1e-3)

  def test_importing_attnjax_imports_no_system_and_no_experiment(self):
    code = (
      "import attnjax, sys; "
      "bad = [m for m in sys.modules if m.startswith(('experiments', 'tensorflow',"
      " 'attnjax.variants.softmax.', 'jax_triton', 'triton', 'matplotlib'))]; "
      "assert not bad, bad; assert 'lightning2' in dir(attnjax)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=False)
    self.assertEqual(done.returncode, 0)

  def test_an_unknown_system_is_named(self):
    import attnjax

    with self.assertRaisesRegex(ValueError, "'lightning'.*did you mean lightning2"):
      attnjax.load("lightning")
    with self.assertRaises(AttributeError):
      attnjax.lightning  # noqa: B018


if __name__ == "__main__":
  absltest.main()
