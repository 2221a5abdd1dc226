"""The softmax engine's kernels (`pallas_kernels.flash`)."""

from experiments.bench import gpu as machine_code
from experiments.bench import tpu as schedules


def tpu() -> tuple[list[dict], bool]:
  """Compiled schedules beside splash attention's."""
  return schedules.rows()


def gpu() -> tuple[list[dict], bool]:
  """Machine code beside that of fla's flash kernel."""
  return machine_code.rows()


def lowering() -> tuple[list[dict], bool]:
  """(the table, whether all compile within their machines' limits); prints it."""
  found: list[dict] = []
  for row in schedules.lowering():
    row["problems"] = "estimate too low" if row["estimate"] < row["MiB"] else ""
    schedules.show([row], head=not found)
    found.append(row)
  table = machine_code.lowering()
  print(machine_code.show(table))
  found += table
  faults = [row for row in found if row["problems"]]
  print(f"{len(found)} kernels compiled, {len(faults)} with problems")
  return found, not faults
