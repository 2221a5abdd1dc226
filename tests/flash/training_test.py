"""The language model trains with the fused kernels as it does without them."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import tempfile
from pathlib import Path

import numpy as np
from absl.testing import absltest

from experiments import run
from tests.run_test import losses, tiny


class TrainingTest(absltest.TestCase):
  def test_losses_are_those_of_the_other_implementations(self):
    found = {}
    for impl in ("reference", "xla", "pallas", "triton"):
      with tempfile.TemporaryDirectory() as folder:
        config = tiny(steps=3, data__length=24, attention__impl=impl)
        with simulate.accelerators(detect_races=False):
          run.run(config, Path(folder))
        found[impl] = [x[2] for x in losses(folder)]
    for impl in ("xla", "pallas", "triton"):
      np.testing.assert_allclose(found[impl], found["reference"], rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
