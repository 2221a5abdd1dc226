"""The report of pruning, from saved runs of routed heads and of plain attention."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

from absl.testing import absltest, parameterized

from attnjax.variants.heads import specialized_heads as heads
from experiments import errors, run
from experiments.pruning import __main__ as pruning
from tests.pages import check_alone
from tests.run_test import tiny


class PruningTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    run.run(tiny("specialized_heads", steps=4, model__mlp_ratio=0.0), cls.folder / "a")
    run.run(tiny(steps=4, model__depth=2), cls.folder / "b")

  def report(self, name, *arguments):
    """The exit status, what is printed, and the record."""
    where = ["--output", str(self.folder / "p.html"), "--json", str(self.folder / "p")]
    given = ["--workdir", str(self.folder / name), "--batches", "2", *arguments, *where]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = errors.guard(pruning.main, given)
    if status:
      return status, err.getvalue(), {}
    return status, out.getvalue(), json.loads((self.folder / "p").read_text())

  def test_routed_heads(self):
    status, out, record = self.report("a")
    self.assertEqual(status, 0, out)
    self.assertIn("1 of each layer's heads, by usage", record["kept"])
    before, after = record["before"], record["after"]
    depth, dim, N, H = len(before["blocks"]), 16, 8, 2
    self.assertEqual([one["heads"] for one in before["blocks"]], [N] * depth)
    self.assertEqual(after["model"]["heads"], depth)
    for one, count in ((before, N), (after, 1)):
      sizes = heads.parameters(dim, count, H, 16 * H)
      for block in one["blocks"]:
        own = {f"mixer/{n}": size for n, size in sizes.items() if size}
        self.assertEqual({n: block["modules"].get(n) for n in own}, own)
        self.assertEqual(block["parameters"], sum(block["modules"].values()))
    # A causal token takes one of all heads, which are computed.
    each = [
      heads.flops(record["tokens"], dim, n, H, 16 * H, granularity="token")
      for n in (N, 1)
    ]
    got = [one["blocks"][0]["flops"] for one in (before, after)]
    self.assertEqual(got, [sum(x.values()) for x in each])
    self.assertIn("loss", before["quality"])
    page = (self.folder / "p.html").read_text()
    check_alone(self, page)
    for part in ("mixer/expander", "mixer/router", "flops", "heads"):
      self.assertIn(part, page)
    self.assertRegex(out, rf"heads +{depth * N} +{depth} +12.5%")

  @parameterized.parameters(("gate", "2"), ("magnitude", "1"))
  def test_heads_of_plain_attention(self, by, keep):
    status, out, record = self.report("b", "--by", by, "--keep", keep)
    self.assertEqual(status, 0, out)
    before, after = (record[n]["blocks"][0]["modules"] for n in ("before", "after"))
    share = record["after"]["model"]["heads"] / record["before"]["model"]["heads"]
    self.assertEqual(after["mixer/qkv"], share * before["mixer/qkv"])
    self.assertEqual(after["mixer/out"], share * before["mixer/out"])

  @parameterized.parameters("module", "layer")
  def test_weights(self, pool):
    arguments = "--sparsity", "0.75", "--pool", pool
    status, out, record = self.report("b", *arguments)
    self.assertEqual(status, 0, out)
    self.assertIn(f"all but 0.75 of the weights, by dimap in a {pool}", record["kept"])
    rows = record["weights"]
    self.assertEqual(set(rows), {"qkv", "projection", "rest", "model"})
    for name in ("qkv", "projection"):
      self.assertEqual(rows[name]["left"], rows[name]["parameters"] // 4)
    self.assertEqual(rows["rest"]["left"], rows["rest"]["parameters"])
    size = record["before"]["model"]["parameters"]
    self.assertEqual(rows["model"]["parameters"], size)
    self.assertRegex(out, r"weights of qkv +[\d,]+ +[\d,]+ +25.0%")
    losses = [record[n]["quality"]["loss"] for n in ("before", "after")]
    self.assertNotEqual(*losses)

  def test_layers(self):
    status, out, record = self.report("b", "--keep-layers", "1")
    self.assertEqual(status, 0, out)
    self.assertLen(record["after"]["blocks"], 1)
    self.assertLess(
      record["after"]["model"]["flops"], record["before"]["model"]["flops"]
    )

  @parameterized.parameters(
    (("--keep", "9"), "keep = 9 of"),
    (("--by", "usage"), "layer 0 has no router"),
    (("--keep-layers", "7"), "keep = 7 of 2 layers"),
    (("--keep-layers", "-1"), "--keep-layers = -1"),
  )
  def test_messages(self, arguments, message):
    status, err, _ = self.report("b", *arguments)
    self.assertEqual(status, 2)
    self.assertIn(message, err)

  def test_help(self):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), self.assertRaises(SystemExit):
      pruning.main(["--help"])
    self.assertIn("--keep-layers", out.getvalue())


if __name__ == "__main__":
  absltest.main()
