"""Where a program will run: abstract meshes, default devices, names of GPUs."""

# ruff: noqa: E402, I001
from tests import simulate  # noqa: F401  first: sets TRITON_INTERPRET

import contextlib
import types

import jax
from absl.testing import absltest, parameterized
from jax.sharding import AbstractDevice, AbstractMesh

from attnjax import attention, backends
from attnjax.core.recurrence import linear, prefix
from attnjax.core import platform
from attnjax.core.scores import Program
from pallas_kernels.flash import triton_gpu
from pallas_kernels.flash.triton_gpu import tiles as gpu_tiles

_CPU = ("", "cpu")


def _described(kind: str, name: str):
  """A context in which programs are made for a device that is not here."""
  mesh = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice(kind, None, name))
  return jax.sharding.use_abstract_mesh(mesh)


def _host(name: str):
  """A context in which JAX's first device is of another platform."""
  return absltest.mock.patch.object(jax, "default_backend", lambda: name)


class PlatformTest(parameterized.TestCase):
  def test_asks_mesh_then_default_device_then_backend(self):
    self.assertEqual(platform.target_platform(), "cpu")
    with _host("gpu"):
      self.assertEqual(platform.target_platform(), "gpu")
      for device in ("cpu", jax.devices("cpu")[0]):
        with jax.default_device(device):
          self.assertEqual(platform.target_platform(), "cpu")
          with _described("TPU v5 lite", "tpu"):
            self.assertEqual(platform.target_platform(), "tpu")
      with jax.set_mesh(jax.make_mesh((1,), ("x",), devices=jax.devices("cpu"))):
        self.assertEqual(platform.target_platform(), "cpu")
    with _described("NVIDIA H100", "cuda"):
      self.assertEqual(platform.target_platform(), "gpu")

  def test_a_host_with_a_gpu_evaluates_on_its_cpu(self):
    x = jax.numpy.zeros((1, 3, 2, 4))
    out = attention.dot_product_attention
    with _host("gpu"), jax.default_device("cpu"):
      self.assertIsNone(backends.kernels())
      self.assertIs(backends.linear_attention("auto", x, x, x), linear.chunked)
      self.assertEqual(prefix.fastest(), "sequential")
      self.assertNotIn("triton", str(jax.make_jaxpr(out)(x, x, x)))
    for name, wanted in (("gpu", "triton"), ("tpu", "pallas")):
      with _described(f"some {name}", name):
        self.assertEqual(backends.kernels(), wanted)
        self.assertEqual(prefix.fastest(), "chunked")

  @parameterized.parameters(
    ("NVIDIA H100 80GB HBM3", 90),
    ("NVIDIA H100", 90),
    ("NVIDIA H200", 90),
    ("NVIDIA GH200 480GB", 90),
    ("NVIDIA H20", 90),
    ("NVIDIA A100-SXM4-40GB", 80),
    ("NVIDIA A30", 80),
    ("NVIDIA A10G", 86),
    ("NVIDIA RTX A6000", 86),
    ("NVIDIA L4", 89),
    ("NVIDIA L40S", 89),
    ("NVIDIA GeForce RTX 4090", 89),
    ("NVIDIA RTX 6000 Ada Generation", 89),
    ("NVIDIA B200", 100),
    ("NVIDIA GB300", 103),
    ("NVIDIA GB10", 121),
    ("NVIDIA GeForce RTX 5090", 120),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 120),
    ("Tesla T4", 75),
  )
  def test_capability_by_name(self, kind, capability):
    with _described(kind, "gpu"):
      self.assertEqual(platform.target_capability(), capability)
      self.assertEqual(gpu_tiles.device(), capability)

  def test_capability_of_devices_that_are_here(self):
    for known, wanted in (("8.9", 89), ("12.0", 120), ("gfx942", None)):
      device = types.SimpleNamespace(platform="gpu", compute_capability=known)
      patched = absltest.mock.patch.object(platform, "_device", lambda d=device: d)
      with patched:
        self.assertEqual(platform.target_capability(), wanted)

  @parameterized.parameters(_CPU, ("NVIDIA of tomorrow", "gpu"), ("TPU7x", "tpu"))
  def test_tiles_of_unknown_gpus_are_those_of_an_h100(self, kind, name):
    with _described(kind, name) if kind else contextlib.nullcontext():
      self.assertIsNone(platform.target_capability())
      self.assertEqual(gpu_tiles.device(), 90)

  def test_tiles_fit_the_described_gpu(self):
    shape = jax.ShapeDtypeStruct((1, 2048, 4, 128), "bfloat16")
    for kind, capability in (("NVIDIA L4", 89), ("NVIDIA B200", 100)):
      with _described(kind, "gpu"):
        tiles = triton_gpu.fitting(shape, shape, shape, Program())
      gpu_tiles.check(tiles, 128, 128, "bfloat16", capability)
      wanted = triton_gpu.defaults((2048, 2048, 128, 128), "bfloat16", capability)
      self.assertEqual(tiles, wanted)


if __name__ == "__main__":
  absltest.main()
