"""The benchmark of fewer tokens: a tiny run, and its records."""

import json
import tempfile
from pathlib import Path
from unittest import mock

from absl.testing import absltest

from experiments.bench import records, tokens

EVIT = "token_reorganization"


class TokensTest(absltest.TestCase):
  def test_a_tiny_run(self):
    self.assertIn(EVIT, tokens.systems())
    small = {"DIM": 8, "DEPTH": 3, "HEADS": 2, "PATCHES": 4, "CUTS": (1, 2)}
    with mock.patch.multiple(tokens, **small):
      own = mock.patch.object(
        tokens, "_networks", lambda slug: [("vision", lambda k: tokens._host(slug, k))]
      )
      with own:
        rows = tokens.rows([EVIT], (1.0, 0.5), seconds=0.01)
    self.assertEqual([row["keep_ratio"] for row in rows], [1.0, 0.5])
    whole, half = rows
    self.assertEqual(whole["share"], 1.0)
    # Of 3 blocks on 16, 9 and 6 tokens; patches and scores are products as well.
    self.assertLess(half["share"], 0.95)
    self.assertGreater(min(half["seconds"], half["full_seconds"]), 0)
    root = Path(self.enterContext(tempfile.TemporaryDirectory()))
    (path,) = records.written("tokens", rows, root)
    self.assertEqual(path.name, f"{EVIT}.json")
    self.assertEqual(json.loads(path.read_text(encoding="utf-8"))["rows"], rows)

  def test_networks_of_the_published_size(self):
    names = [name for name, _ in tokens._networks(EVIT)]
    self.assertEqual(names, ["vision", "tiny"])

  def test_no_other_systems(self):
    with self.assertRaisesRegex(ValueError, "dot_product.* of the form tokens"):
      tokens.rows(["dot_product"])


if __name__ == "__main__":
  absltest.main()
