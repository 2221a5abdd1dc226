"""The softmax engine's kernels (`pallas_kernels.flash`)."""

import functools
from typing import Any

from experiments.bench import gpu as machine_code
from experiments.bench import lowering, tpu_schedule
from experiments.bench import tpu as schedules

HEADS = (32, 64, 80, 96, 128, (192, 128), 256)
# GPUs; features are compiled for KINDS, one of each kind of tensor-core product.
CAPABILITIES, KINDS = (80, 89, 90, 100, 120), (80, 90, 100, 120)


def tpu() -> tuple[list[dict], bool]:
  """Compiles the TPU kernels and splash attention; prints and compares schedules.

  Returns (rows, whether the bounds hold).
  """
  return schedules.rows()


def gpu() -> tuple[list[dict], bool]:
  """Compiles the GPU kernels, fla's and tokamax's; prints and compares machine code.

  Returns (rows, whether the bounds hold).
  """
  return machine_code.rows()


def jobs() -> list[lowering.Job]:
  """Returns jobs for all head sizes on all machines, and for each feature at size 128.

  Other numbers of queries, and features in float32, are tried where they choose tiles
  that the rest does not have.
  """
  found = []
  heads = [head if isinstance(head, tuple) else (head, head) for head in HEADS]
  for machine in tpu_schedule.TOPOLOGIES:
    found += [(tpu_rows, machine, H, V, "causal") for H, V in heads]
    found += [(tpu_rows, machine, 128, 128, name) for name in schedules.features()]
  gpu_rows = machine_code.lowered
  for chip in CAPABILITIES:
    found += [(gpu_rows, chip, H, V) for H, V in heads]
  for chip in KINDS:
    found += [(gpu_rows, chip, H, V, "float32") for H, V in heads if H <= 128]
    for name in schedules.features():
      found.append((gpu_rows, chip, 128, 128, "bfloat16", name))
    for name in ("bias", "softcap", "dropout"):
      found.append((gpu_rows, chip, 64, 64, "float32", name))
      found.append((gpu_rows, chip, 256, 256, "bfloat16", name))
    for size, dtype in ((64, "float32"), (128, "bfloat16"), (256, "bfloat16")):
      found.append((gpu_rows, chip, size, size, dtype, "causal", 1))
    found.append((gpu_rows, chip, 128, 128, "bfloat16", "causal", 16))
    found += [(gpu_rows, chip, 128, 128, "bfloat16", "causal", T) for T in (300, 50)]
  return [("flash", functools.partial(*job)) for job in found]


def tpu_rows(machine: str, H: int, V: int, feature: str) -> list[dict]:
  """Compiles both kernels with a feature and the default tiles."""
  given = schedules.features()[feature]
  sizes = {"N": 4, "K": 2, "H": H, "V": V}
  problem = schedules.Problem(given.program, given.sinks, **sizes)
  kind = tpu_schedule.TOPOLOGIES[machine][1]
  cut = schedules.mosaic_tpu.defaults(*problem.arrays(), problem.program, kind)
  estimate = schedules.mosaic_tpu.estimate(cut, *problem.arrays(), problem.program)
  rows = []
  for kernel in schedules.KERNELS:
    read = schedules.compiled(machine, kernel, problem, cut)
    row: dict[str, Any] = {"machine": machine, "kernel": kernel, "case": feature}
    row |= {"H": H, "V": V, "bundles": read.bundles, "unit": read.bound}
    row["MiB"] = round(sum(read.memory.values()) / 2**20, 1)
    row["estimate"] = round(getattr(estimate, kernel) / 2**20, 1)
    row["problems"] = "estimate too low" if row["estimate"] < row["MiB"] else ""
    rows.append(row)
  return rows
