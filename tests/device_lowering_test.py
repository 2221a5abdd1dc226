"""Exports carry their kernels: they run where neither Triton nor attnjax can be had."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from experiments.bench.device import bounds, carried, collecting, dry
from tests.compiling import child

# A machine that has jax alone.
BLOCK = """
import sys

class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ("triton", "jax_triton", "attnjax", "pallas_kernels",
                              "experiments"):
      raise ImportError(f"{name} is not on this machine")

sys.meta_path.insert(0, Absent())
"""
EXPORT = """
import json
from pathlib import Path
from experiments.bench.device import cases, exporting
chosen = "right_flash_t49$|system_aaren_one_token$"
found, fine = exporting.rows(Path({folder!r}), chosen, jobs=1)
print(json.dumps([fine, found]))
"""
LOWER = """
import gzip, json, sys
import jax
from jax import export
data = gzip.decompress(open(sys.argv[1], "rb").read())
loaded = export.deserialize(bytearray(data))
arguments, named = jax.tree.unflatten(loaded.in_tree, loaded.in_avals)

def loop(x):
  def body(carry, _):
    out = loaded.call(x | {"q": carry})
    return out["d_q"].astype(carry.dtype), None
  return jax.lax.scan(body, x["q"], length=3)[0]

shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
lowered = jax.jit(loop).trace(*shapes).lower(lowering_platforms=("cuda",))
print(lowered.as_text().count("@triton_kernel_call_ffi"))
"""
OTHERS = """
import json
import jax
import jax.numpy as jnp
import attnjax

def norm(x):
  return attnjax.dot_product_attention(x, x, x, is_causal=True).sum()

def near(x):
  # A static mask's blocks are tested on this host, whatever the program is for.
  return attnjax.dot_product_attention(x, x, x, is_causal=True, local_window_size=40)

shape = jax.ShapeDtypeStruct((1, 16, 2, 64), jnp.float32)
made = [attnjax.export(jax.grad(norm), device=d)(shape) for d in ("cpu", "TPU v5 lite")]
long = jax.ShapeDtypeStruct((1, 1500, 2, 64), jnp.float32)
made.append(attnjax.export(near, device="TPU v5 lite")(long))
try:
  attnjax.export(norm, device="Voodoo 3")
except ValueError as error:
  said = str(error)
print(json.dumps([
  [list(e.platforms), "tpu_custom_call" in e.mlir_module(), e.nr_devices] for e in made
] + [said]))
"""


class DeviceTest(parameterized.TestCase):
  def test_kernels_run_where_there_is_only_jax(self):
    with tempfile.TemporaryDirectory() as folder:
      fine, (case, system) = child(EXPORT.format(folder=folder))
      self.assertTrue(fine, case["said"] + system["said"])
      self.assertIn("inputs", system["files"])
      self.assertLen(case["kernels"], 3)
      for kernel in case["kernels"]:
        self.assertEqual((kernel["ptx"], kernel["chip"]), ("8.8", "sm_90a"))
        self.assertEqual(kernel["spilled"], 0)
      (Path(folder) / "sitecustomize.py").write_text(BLOCK)
      own = os.environ | {"PYTHONPATH": folder, "JAX_PLATFORMS": "cpu"}
      run = {"cwd": folder, "env": own, "capture_output": True, "text": True}
      kernel = str(Path(folder) / case["files"]["kernel"])
      lowered = subprocess.run([sys.executable, "-c", LOWER, kernel], **run)
      self.assertEqual(lowered.stdout.strip(), "3", lowered.stderr[-2000:])
      command = [sys.executable, "check.py", "--folder", ".", "--out", "o"]
      done = subprocess.run([*command, "--dry"], **run)
      self.assertIn("2 of 2 are right", done.stdout, done.stderr[-2000:])
      self.assertFalse(collecting.rows(Path(folder) / "o")[2])
      done = subprocess.run([*command, "--platform", "cpu"], **run)
      self.assertIn("1 of 1 are right", done.stdout, done.stderr[-2000:])
      name, rows, holds = collecting.rows(Path(folder) / "o")
      self.assertTrue(holds)
      self.assertEqual([row["who"] for row in rows], ["machine", "right"])
      self._timed(folder, case, run)

  def _timed(self, folder, case, run):
    """Runs the steps of a GPU on this host: another program in the kernels' place."""
    case["files"]["kernel"] = case["files"]["dry"]
    shape = {"shape": [1, 49, 49, 4, 2, 64], "flops": 1e12, "bytes": 1e6}
    timed = case | shape | {"group": "time", "name": "time_flash_t49"}
    manifest = {"cases": [case, timed | {"options": {"is_causal": False}}]}
    (Path(folder) / "manifest.json").write_text(json.dumps(manifest))
    command = [sys.executable, "check.py", "--folder", ".", "--out", "o"]
    who = "^(right|kernel|cudnn|torch_flash|memcheck)$"
    done = subprocess.run([*command, "--who", who], **run)
    self.assertEqual(done.returncode, 0, done.stderr[-2000:])
    rows = {(r["who"], r["case"]): r for r in collecting.rows(Path(folder) / "o")[1]}
    self.assertTrue(rows["right", "right_flash_t49"]["ok"])
    self.assertGreater(rows["kernel", "time_flash_t49"]["ms"], 0)
    for who, why in (
      (("cudnn", "time_flash_t49"), "cuDNN"),
      (("torch_flash", "time_flash_t49"), "torch"),
      (("memcheck", "right_flash_t49"), "compute-sanitizer"),
    ):
      self.assertIn(why, rows[who]["failed"])

  def test_a_dry_check_finds_what_does_not_fit(self):
    with tempfile.TemporaryDirectory() as folder:
      out = Path(folder) / "case.npz"
      for found, wrong in (
        ({"out": np.zeros(4), "lse": np.zeros(2)}, 0),
        ({"out": np.zeros(3), "lse": np.zeros(2)}, 1),
        ({"out": np.full(4, np.nan), "lse": np.zeros(2)}, 1),
        ({"out": np.zeros(4)}, 1),
      ):
        np.savez(out, **found)
        case = {"seed": 1, "inputs": {"q": [[2, 2], "float32", "normal"]}}
        case |= {"files": {"reference": out.name}}
        case["checksum"] = carried.checksum(carried.inputs(case))
        outputs = {"out": [[2, 2], "float32"], "lse": [[2], "float32"]}
        said = list(dry._reference(Path(folder), case, outputs))
        self.assertLen(said, wrong)
        other = dry._reference(Path(folder), case | {"checksum": 0}, outputs)
        self.assertIn("inputs are not those", next(other))

  def test_other_devices(self):
    cpu, tpu, near, said = child(OTHERS)
    self.assertEqual(cpu, [["cpu"], False, 1])
    for found in (tpu, near):
      self.assertEqual(found, [["tpu"], True, 1])
    self.assertIn("'Voodoo 3'", said)

  @parameterized.parameters(
    ("NVIDIA H100 80GB HBM3, 580.95.05", "h100"),
    ("NVIDIA H200, 580.95.05", "h200"),
    ("NVIDIA GeForce RTX 5090, 580.1", "rtx5090"),
    ("NVIDIA A100-SXM4-80GB, 580.1", "a100"),
  )
  def test_the_file_is_named_for_the_chip(self, machine, name):
    self.assertEqual(collecting.chip(machine), name)

  def test_errors_are_judged_by_those_of_plain_jax(self):
    for out, slope, equal, name, ok in (
      (2e-3, 3e-3, True, "right_flash_t1", True),
      (2.1e-3, 3e-3, True, "right_flash_t1", False),
      (2e-3, 3.1e-3, True, "right_flash_t1", False),
      (2e-3, 3e-3, False, "right_flash_t1", False),
      (2e-3, 3e-3, False, "system_halo_placed", True),
    ):
      errors = {"out": (out, 1e-3), "d_q": (slope, 1e-3)}
      self.assertEqual(bounds.right(name, errors, equal)[0], ok, (name, errors))
    # Steps of bfloat16 are 2^-5 from 4 to 8, and 2^-8 from 0.5 to 1.
    for error, size, ok in ((2**-5, 6.1, True), (2**-4.9, 6.1, False), (2**-7, 0.6, 0)):
      self.assertEqual(bounds.limit(error, size), bool(ok))

  def test_a_later_run_replaces_what_it_took_again(self):
    with tempfile.TemporaryDirectory() as folder:
      first, second = Path(folder) / "1", Path(folder) / "2"
      machine = {"who": "machine", "case": "", "gpu": "NVIDIA H200"}
      right = {"who": "right", "case": "right_flash_t1", "ok": False}
      limit = {"who": "limit", "case": "limit_flash", "ok": True}
      for out, rows in (
        (first, [machine, right, limit]),
        (second, [right | {"ok": True}, limit | {"failed": collecting.LATE}]),
      ):
        out.mkdir()
        (out / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
      chip, rows, holds = collecting.rows(first, second)
      self.assertEqual((chip, len(rows), holds), ("h200", 3, True))

  def test_what_is_wrong_does_not_hold(self):
    with tempfile.TemporaryDirectory() as folder:
      rows = [
        {"who": "machine", "case": "", "gpu": "NVIDIA H100"},
        {"who": "right", "case": "right_flash_t1", "ok": True},
        {"who": "limit", "case": "limit_flash", "failed": "CUDA_ERROR"},
      ]
      lines = "\n".join(map(json.dumps, rows))
      (Path(folder) / "results.jsonl").write_text(lines)
      self.assertFalse(collecting.rows(Path(folder))[2])


if __name__ == "__main__":
  absltest.main()
