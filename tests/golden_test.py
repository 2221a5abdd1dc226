"""Parity with the authors' code: golden files of its runs.

Every module `tests/golden/<slug>.py` maps the arrays of `<slug>.npz` onto attnjax. The
files are read from the folder in the environment variable ATTNJAX_GOLDEN, or from
tests/golden.
"""

import importlib
import json
import os
import pkgutil
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from tests import golden

_FOLDER = Path(os.environ.get("ATTNJAX_GOLDEN", Path(golden.__file__).parent))
_SYSTEMS = sorted(module.name for module in pkgutil.iter_modules(golden.__path__))


class GoldenTest(parameterized.TestCase):
  @parameterized.named_parameters((slug, slug) for slug in _SYSTEMS)
  def test_agrees_with_the_authors_code(self, slug):
    compare = importlib.import_module(f"tests.golden.{slug}").compare
    with np.load(_FOLDER / f"{slug}.npz") as file:
      arrays = dict(file)
    meta = json.loads(str(arrays.pop("meta")))
    seen = set()
    for name, got, want in compare(arrays, meta):
      self.assertEqual(np.shape(got), np.shape(want), name)
      error = np.max(np.abs(np.asarray(got, np.float64) - want), initial=0)
      bound = 1e-4 * max(np.max(np.abs(want), initial=0), 1e-6)
      self.assertLessEqual(error, bound, name)
      seen.add(name)
    results = {name for name in arrays if name.startswith(("out.", "grad."))}
    self.assertEqual(results - seen, set(), "results of the file not compared")


if __name__ == "__main__":
  absltest.main()
