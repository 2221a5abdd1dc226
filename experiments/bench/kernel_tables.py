"""Tables of compiled kernels: printed as rows come, and what their rows share."""

from collections.abc import Iterable, Iterator
from typing import Any

from experiments.bench import gpu, gpu_calls, tpu

# Compute capabilities whose rows a table shows, and all that kernels are compiled for.
SHOWN, CHIPS = (80, 90, 100), (80, 89, 90, 100, 120)
# Multiplications of the matrix units in a cycle, four of 128 x 128 and of 256 x 256,
# which at 1.5 and 1.75 GHz are the 197 and 918 TFLOPS of Cloud TPU's documentation.
MACS = {"v5e": 4 * 128**2, "v6e": 4 * 256**2}
_CALL = "triton_kernel_call"
# Bytes of fast memory of TPUs.
_FAST = {"v5e": 128 << 20, "v6e": 128 << 20}
_LEAST = 64 << 20


def of_tpu(rows: Iterable[dict]) -> tuple[list[dict], bool]:
  """Prints rows of TPU kernels; returns them, and whether none has a problem."""
  found: list[dict] = []
  for row in rows:
    tpu.show([row], head=not found)
    found.append(row)
  return found, not any(row["problems"] for row in found)


def of_gpu(rows: Iterable[dict]) -> tuple[list[dict], bool]:
  """Prints rows of GPU kernels; returns them, and whether none has a problem."""
  found = list(rows)
  print(gpu.show(found))
  return found, not any(row["problems"] for row in found)


def tpu_end(machine: str, read: Any) -> dict[str, Any]:
  """Returns the last columns of a kernel that states no estimate of its memory.

  Args:
    machine: it is compiled for.
    read: as `tpu_schedule.compile_for` reads it.
  """
  size = sum(read.memory.values())
  row = {"unit": read.bound, "slots": read.used[read.bound]}
  problem = "fast memory" if size > _FAST.get(machine, _LEAST) else ""
  return row | {"MiB": round(size / 2**20, 2), "problems": problem}


def launches(jaxpr) -> Iterator[Any]:
  """Yields the equations that call Triton, also those inside of others."""
  from jax.extend import core

  for equation in jaxpr.eqns:
    if equation.primitive.name == _CALL:
      yield equation
    for inner in core.jaxprs_in_params(equation.params):
      yield from launches(inner)


def gpu_row(
  kernel: str, call: gpu_calls.Call, capability: int, block: tuple[int, int], **more
) -> dict:
  """Returns the row of a kernel whose tiles are not chosen by shared memory.

  Args:
    kernel: its name in the table.
    call: to compile.
    capability: compute capability.
    block: what the inner loop takes in a trip.
    **more: columns to add.
  """
  from pallas_kernels.flash.triton_gpu.tiles import limit

  row = gpu.row("attnjax", kernel, call, capability, block, **more)
  row["estimate"] = limit(capability)
  return row | {"problems": gpu.problems(row, row["estimate"])}
