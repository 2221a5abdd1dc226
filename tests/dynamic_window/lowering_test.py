"""The kernels compile for chips that are not here, within their memory, unspilled."""

from absl.testing import absltest, parameterized

from tests.compiling import child

_ROWS = """
import json
from experiments.bench.kernels import dynamic_window as bench

print(json.dumps(bench.{kind}_rows({machine!r}, {window}, *{sizes})))
"""
_KERNELS = {"tpu": ["forward", "backward"], "gpu": ["forward", "values", "queries"]}


class LoweringTest(parameterized.TestCase):
  @parameterized.parameters(("tpu", "v5e", 3, 6, 4), ("gpu", 80, 13, 56, 16))
  def test_compiles(self, kind, machine, window, *sizes):
    given = {"kind": kind, "machine": machine, "window": window, "sizes": sizes}
    rows = child(_ROWS.format(**given))
    names = [row["kernel" if kind == "tpu" else "part"] for row in rows]
    self.assertEqual(names, _KERNELS[kind])
    for row in rows:
      self.assertEqual(row["problems"], "", row)


if __name__ == "__main__":
  absltest.main()
