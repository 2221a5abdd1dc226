"""The table of all kernels for all machines: its jobs, and what becomes of failures."""

import functools
import json
import pathlib
import pickle
import tempfile
from unittest import mock

import jax
from absl.testing import absltest, parameterized

from attnjax.core import masks
from experiments.bench import gpu, gpu_code, lowering, tokamax_peer
from experiments.bench import targets as machines
from experiments.bench.kernels import decayed_linear, flash, neighbourhood
from experiments.bench.kernels import prefix_softmax as prefix
from experiments.bench.tpu import features

# A loop over .L_x_1 whose products, from .L_x_2 on, wait behind all other code.
_CODE = """
        /*0000*/                   STL [R1], R5 ;
.L_x_1:
        /*0010*/                   SYNCS.PHASECHK.TRYWAIT P0, [UR4], R0 ;
        /*0020*/              @!P0 BRA `(.L_x_3) ;
.L_x_2:
        /*0030*/                   UTCHMMA gdesc[UR8], gdesc[UR12], tmem[UR6] ;
        /*0040*/                   LDL R4, [R1] ;
        /*0050*/                   BRA.U UP0, `(.L_x_1) ;
        /*0060*/                   LDL R5, [R1] ;
        /*0070*/                   EXIT ;
.L_x_3:
        /*0080*/                   SYNCS.PHASECHK.TRYWAIT P0, [UR4], R0 ;
        /*0090*/              @!P0 BRA `(.L_x_3) ;
        /*00a0*/                   BRA `(.L_x_2) ;
"""
_TPUS, _GPUS = {"v5e", "v6e", "tpu7x"}, {80, 89, 90, 100, 120}


class JobsTest(parameterized.TestCase):
  @parameterized.parameters("forward", "backward")
  def test_neighbourhoods_give_a_kernel_what_it_takes(self, kernel):
    mask = masks.Neighborhood(neighbourhood.GRID, (13, 13))
    run, given, visits = neighbourhood.call(kernel, (512, 512), mask)
    found = jax.tree.leaves(jax.eval_shape(run, *given))
    self.assertEqual(found[0].shape, given[0].shape)
    self.assertGreater(visits["partial"], 0)

  @parameterized.parameters(flash, decayed_linear, prefix, neighbourhood)
  def test_every_machine(self, module):
    machines = {job.args[0] for _, job in module.jobs()}
    self.assertEqual(
      machines, _TPUS | (_GPUS if module is not neighbourhood else set())
    )

  def test_sizes_and_features_of_flash_attention(self):
    calls = [job.args for _, job in flash.jobs()]
    for machine in _TPUS | _GPUS:
      sizes = {args[1:3] for args in calls if args[0] == machine}
      for size in (32, 64, 80, 96, 128, 256):
        self.assertIn((size, size), sizes)
      self.assertIn((192, 128), sizes)
    for chip in _GPUS - {89}:
      cases = {args[4] for args in calls if args[0] == chip and len(args) > 4}
      self.assertEqual(cases, set(features()) | {"causal"})

  def test_jobs_can_be_sent(self):
    for module in (flash, decayed_linear, prefix, neighbourhood):
      for job in module.jobs():
        self.assertEqual(pickle.loads(pickle.dumps(job))[1].args, job[1].args)

  def test_a_failure_is_a_row_and_leaves_the_others(self):
    good = json.dumps([{"machine": "v5e", "MiB": 1.5, "problems": ""}])
    jobs = [
      ("a", functools.partial(int, "x")),
      ("b", functools.partial(json.loads, good)),
    ]
    rows, holds = lowering.rows(jobs, workers=1)
    self.assertFalse(holds)
    self.assertEqual([row["package"] for row in rows], ["a", "b"])
    self.assertIn("ValueError: invalid literal", rows[0]["problems"])
    self.assertEqual(lowering.described(rows[1]), "v5e: MiB 1.5")
    self.assertTrue(lowering.rows(jobs[1:], workers=1)[1])

  def test_what_waits_behind_a_loop_is_none(self):
    code, labels = gpu_code._parse(_CODE)
    self.assertEqual(sorted(gpu_code.loops(code, labels)), [(1, 5), (8, 9)])
    (loop,) = gpu_code.steady(code, labels)
    self.assertEqual((loop["total"], loop["tensor"], loop["spill"]), (5, 1, 1))

  def test_a_fused_base_is_counted(self):
    decay = """
      {base}
      fma.rn.f32 	%r5, %r3, 0f3FB8AA3B, 0f41800000;
      min.f32 	%r6, %r4, %r5;
    """
    fused = decay.format(base="fma.rn.f32 	%r4, %r1, %r2, %r3;")
    self.assertEqual(gpu_code.fused(fused), 1)
    apart = decay.format(base="sub.f32 	%r4, %r1, %r2;")
    self.assertEqual(gpu_code.fused(apart), 0)

  def test_loops_of_another_kind(self):
    code, labels = gpu_code._parse(_CODE)
    found = [loop["total"] for loop in gpu_code.steady(code, labels, "barrier")]
    self.assertEqual(found, [5, 2])
    self.assertEqual(gpu_code.steady(code, labels, "exp2"), [])

  def test_warps_with_other_tasks_share_no_trip(self):
    kernel = tokamax_peer.Kernel("keys", "", (64, 64), 12, 2, 131072)
    loop = {"total": 512, "exp2": 32, "spill": 3}
    found = {"registers": 168, "loops": [loop]}
    with (
      mock.patch.object(tokamax_peer, "kernels", return_value=[kernel]),
      mock.patch.object(gpu_code, "read", return_value=found) as read,
    ):
      (line,) = gpu.mosaic(90, 128, 128)
    read.assert_called_once_with("", "exp2")
    expected = {"part": "keys", "tile": "64x64", "warps": 12, "resident": 12}
    expected |= {"loop": 512, "in loops": 3, "a score": 0.5}
    self.assertEqual({name: line[name] for name in expected}, expected)

  @parameterized.parameters(
    (90, True, True), (90, False, True), (90, True, False), (80, True, True)
  )
  def test_tokamax_is_left_out_where_it_cannot_be_compiled(self, chip, peer, runtime):
    pool = mock.MagicMock()
    submitted = pool.return_value.submit
    submitted.return_value.result.return_value = ["compiled"]
    with (
      tempfile.TemporaryDirectory() as folder,
      mock.patch.object(machines, "FOLDER", pathlib.Path(folder)),
      mock.patch("importlib.util.find_spec", return_value=peer or None),
      mock.patch("concurrent.futures.ProcessPoolExecutor", pool),
    ):
      if runtime:
        (pathlib.Path(folder) / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
      found = tokamax_peer.kernels(chip, 128, 128)
    possible = chip == 90 and peer and runtime
    self.assertEqual(found, ["compiled"] if possible else [])


if __name__ == "__main__":
  absltest.main()
