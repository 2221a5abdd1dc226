"""Tokamax's Mosaic GPU kernels of attention, compiled where they are installed.

`pip install -e .[bench]` installs tokamax. Its kernels are compiled as parts of whole
programs, for which jax's CUDA runtime must lie beside the other compilers (400 MB):

  pip install --no-deps --target .venv/machines jax-cuda13-pjrt==0.11.2

Their warps have different tasks. The loop that is read is that of the warpgroup that
computes the exponentials: on Hopper it also issues the products and rescales the sums,
on Blackwell others do. The forward kernel is compiled as causal, since it has a
separate loop for full blocks, the backward kernels without a mask, which they would
test in each trip.
"""

import concurrent.futures
import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import pathlib
import re
import tempfile

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from experiments.bench import targets

_LENGTH, _HEADS = 4096, 16
_ALL = "feature_extension: ACCELERATED_FEATURES"
# (name, processors, bytes of memory, capability) of the chips that have all kernels.
_CHIPS = {
  90: ("NVIDIA H100 80GB HBM3", 132, 84978434048, "major: 9"),
  100: ("NVIDIA B200", 148, 191505498112, "major: 10 " + _ALL),
}
_TARGET = """
platform_name: "CUDA"
device_description_str: "%s"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  core_count: %d device_memory_size: %d
  cuda_compute_capability { %s }
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 fpus_per_core: 128
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
"""


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A compiled kernel; `shared` counts bytes of buffers, without barriers."""

  part: str
  ptx: str
  block: tuple[int, int]  # of a trip of the loop of one warpgroup, 4 warps
  warps: int  # of all tasks together
  stages: int
  shared: int


def kernels(capability: int, H: int, V: int) -> list[Kernel]:
  """Compiles the three kernels in bfloat16 with default tiles; [] where that fails.

  Args:
    capability: compute capability.
    H: size of a head of queries and keys.
    V: size of a head of values.
  """
  runtime = (targets.FOLDER / "jax_plugins" / "xla_cuda13").is_dir()
  if not (runtime and importlib.util.find_spec("tokamax") and capability in _CHIPS):
    return []
  # A process a chip: after another's, Blackwell's kernels were not assembled.
  pool = concurrent.futures.ProcessPoolExecutor(
    1, multiprocessing.get_context("spawn"), targets.enable
  )
  with pool, tempfile.TemporaryDirectory() as folder:
    return pool.submit(_compiled, capability, H, V, pathlib.Path(folder)).result()


def _compiled(capability: int, H: int, V: int, folder: pathlib.Path) -> list[Kernel]:
  """Compiles the kernels, in a process of its own that leaves its code in a folder."""
  os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # hides advice about memory
  name = "tokamax._src.ops.attention.pallas_mosaic_gpu"
  operation = importlib.import_module(name).PallasMosaicGpuFlashAttention()
  _tools(folder)
  described = topologies.get_topology_desc(
    platform="cuda", target_config=_TARGET % _CHIPS[capability], topology="1x1x1"
  )
  at = jax.sharding.SingleDeviceSharding(described.devices[0])
  x, y = (
    jax.ShapeDtypeStruct((1, _LENGTH, _HEADS, size), jnp.bfloat16, sharding=at)
    for size in (H, V)
  )
  with jax.default_device(described.devices[0]):
    attend, tiles, _ = _configured(operation, x, y, is_causal=True)
    run = functools.partial(attend, is_causal=True, return_residuals=True)
    found = _written(folder / "forward", run, (x, x, y), {"forward": tiles})
    attend, tiles, back = _configured(operation, x, y, is_causal=False)
    queries = (back.block_q_dq, back.block_kv_dq), back.num_stages
    keys = (back.block_q_dkv, back.block_kv_dkv), back.num_stages
    tiles = {"forward": tiles, "queries": queries, "keys": keys}
    run = functools.partial(_gradient, attend)
    return found + _written(folder / "backward", run, (x, x, y, y), tiles)[1:]


def _gradient(attend, q, k, v, g):
  return jax.vjp(attend, q, k, v)[1](g)


def _configured(operation, x, y, is_causal: bool):
  """Returns (operation, its forward kernel's tiles, its backward kernels' settings)."""
  bound = operation.bind(x, x, y, is_causal=is_causal)
  rows = jax.ShapeDtypeStruct((1, _HEADS, _LENGTH), jnp.float32)
  back = operation.vjp.bind((rows, rows), y, y, *bound.args, **bound.kwargs)
  first, second = bound.heuristics_config, back.heuristics_config
  vjp = operation.vjp.replace(config=second)
  tile = (first.block_q, first.block_kv), first.num_stages
  return operation.replace(config=first, vjp=vjp), tile, second


def _written(out: pathlib.Path, run, given, tiles) -> list[Kernel]:
  """Compiles a program and reads its kernels, which are numbered in its order."""
  out.mkdir()
  os.environ["MOSAIC_GPU_DUMP_TO"] = str(out)
  jax.jit(run).lower(*given).compile()
  found = []
  paths = sorted(out.glob("*.ptx"), key=lambda path: int(path.stem.split("_")[-1]))
  for path, (part, (block, stages)) in zip(paths, tiles.items(), strict=True):
    ptx = path.read_text(encoding="utf-8")
    resources = path.with_suffix(".resources.txt").read_text(encoding="utf-8")
    shared = int(re.findall(r"smem_scratch_bytes=(\d+)", resources)[0])
    warps = int(re.findall(r"\.maxntid (\d+)", ptx)[0]) // 32
    found.append(Kernel(part, ptx, block, warps, stages, shared))
  return found


def _tools(folder: pathlib.Path) -> None:
  """Has Mosaic GPU use `cubin`'s assembler and reader."""
  import triton

  carried = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
  (folder / "bin").mkdir()
  (folder / "bin" / "nvdisasm").symlink_to(carried / "nvdisasm")
  (folder / "bin" / "ptxas").symlink_to(targets.PTXAS)
  os.environ["MOSAIC_GPU_CUDA_ROOT"] = str(folder)
