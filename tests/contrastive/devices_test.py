"""Eight devices give the contrastive loss of one, each with scores of its own rows."""

import json
import subprocess
import sys
from pathlib import Path

from absl.testing import absltest

_ROOT = Path(__file__).parent.parent.parent


class DevicesTest(absltest.TestCase):
  def test_eight_are_one(self):
    command = [sys.executable, "-m", "tests.contrastive.eight_devices"]
    done = subprocess.run(
      command, cwd=_ROOT, capture_output=True, text=True, check=False
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("auto", "explicit"):
      self.assertEqual(found[name]["scores"], [True, False], name)
      self.assertEqual(found[name]["kept"], [True] * 3, name)
      self.assertEqual(found[name]["said"], [], name)
    self.assertFalse(found["gathered"]["ring"])
    self.assertTrue(found["ring"]["ring"])
    for name, one in found.items():
      self.assertLess(one["error"], 5e-6, name)


if __name__ == "__main__":
  absltest.main()
