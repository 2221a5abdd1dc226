"""What is read of a compiled TPU kernel."""

from absl.testing import absltest

from experiments.bench import bundles

_LINES = """
PF: predicated region fallthrough
     0   :  { %1 = vsyncpa [#allocation10], 0 }
0x1 LB: > { %s2 = sadd.s32 1, %s3 }
0x2   : > { %4 = sbr.rel (%p5) target = $region32 }
0x3   :  {}
0x4   : > { %v6 = vld [vmem:[#allocation3]] }
0x5   : > { %7 = vst [vmem:[#allocation3]] %v6 }
0x6 PF: > { %s8 = sld [smem:[#allocation1]] }
0x7 PF: > { %9 = sbr.rel (%p10) target = $region48 }
0x8   :  {}
0x9   : > { %v11 = vld [vmem:[#allocation4]] }
0xa PF: > {}
"""


class BundlesTest(absltest.TestCase):
  def test_regions_under_a_condition_are_told_apart(self):
    self.assertEqual(bundles._counted(_LINES.splitlines()), (11, (2, 1)))


if __name__ == "__main__":
  absltest.main()
