"""Every kernel with its default tiles, compiled for every machine and head size."""

from experiments.bench import gpu, tpu


def rows() -> tuple[list[dict], bool]:
  """(the table, whether all compile within their machines' limits); prints it."""
  found: list[dict] = []
  for row in tpu.lowering():
    row["problems"] = "estimate too low" if row["estimate"] < row["MiB"] else ""
    tpu.show([row], head=not found)
    found.append(row)
  table = gpu.lowering()
  print(gpu.show(table))
  found += table
  faults = [row for row in found if row["problems"]]
  print(f"{len(found)} kernels compiled, {len(faults)} with problems")
  return found, not faults
