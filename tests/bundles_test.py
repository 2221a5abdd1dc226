"""What is read of a compiled TPU kernel."""

from absl.testing import absltest

from experiments.bench import tpu_schedule

_LINES = """
PF: predicated region fallthrough
     0   :  { %1 = vsyncpa [#allocation10], 0 } /* Start region 9 */
0x1 LB: > { %s2 = sadd.s32 1, %s3 } /* Start region 60 */
0x2   : > { %3 = sbr.rel (%p3) target = $region70 }
0x3   :  {}
0x4   :  {}
0x5   :  {}
0x6   :  {} /* End region 61 */
0x7   : > { %4 = sbr.rel (%p5) target = $region32 }
0x8   : > { %s5 = sadd.s32 1, %s3 }
0x9   :  {}
0xa   :  {}
0xb   :  {}
0xc   : > { %v6 = vld [vmem:[#allocation3]] } /* Start region 31 */
0xd   : > { %7 = vst [vmem:%s7] %v6 ;;  %9 = sbr.rel (%p1) target = $region48 }
0xe   :  {}
0xf   :  {}
0x10   :  {}
0x11   :  {}
0x12 LB: >> { %v11 = vld [vmem:[#allocation4]] } /* Start region 50 */
0x13   : >> { %12 = sbr.rel (!%p2) target = $region50 }
0x14   :  {}
0x15   :  {}
0x16   :  {}
0x17   :  {}
0x18 PF: > {} /* Start/End empty region 48 :: Start region 49 */
0x19 PF: > { %s8 = sld [smem:[#allocation1]] } /* Start/End empty region 32 */
0x1a   : > { %13 = sbr.rel (%p10) target = $region33 }
0x1b   :  {}
0x1c   :  {}
0x1d   :  {}
0x1e   :  {}
0x1f   : > { %v14 = vld [vmem:[#allocation5]] }
0x20 PF: > { %s8 = sld [smem:[#allocation2]] } /* Start region 33 */
0x21 PF: > {} /* Start/End empty region 70 */
0x22   :  { %15 = sbr.rel (%p12) target = $region60 }
"""


class BundlesTest(absltest.TestCase):
  def test_regions_under_a_condition_are_told_apart(self):
    """The whole step is no region, a loop neither; one lies inside another."""
    inner = tpu_schedule.Region(6)
    found = tpu_schedule.Region(7, (inner,)), tpu_schedule.Region(1)
    self.assertEqual(tpu_schedule._counted(_LINES.splitlines()), (35, found))
    self.assertEqual([region.all for region in found], [13, 1])
    self.assertEqual(tpu_schedule.Kernel("k", 35, {}, {}, found).always, 21)


if __name__ == "__main__":
  absltest.main()
