"""The softmax engine's GPU kernels, compiled for chips that are not here, and read.

Columns: registers and stack bytes (spills) of a thread, shared memory and resident
warps of a processor, and the instructions that one warp issues for a trip of the inner
loop over full blocks. `a score` compares kernels of different tiles: these instructions
times the warps, over the scores of a trip.
"""

import dataclasses

import jax

from experiments.bench import gpu_code, gpu_peer, tokamax_peer
from experiments.bench import tpu as schedules
from experiments.bench.gpu_calls import Call, calls

CAPABILITIES = (80, 90, 100)
# Bytes of a thread's stack that a kernel may have, if no loop reads or writes them.
STACK = 32
# Kernels whose memory is estimated as that of another kernel.
PARTS = {"values": "keys"}
# Threads, blocks and bytes of shared memory of a processor.
_PROCESSOR = {80: (2048, 32, 164 * 1024), 90: (2048, 32, 228 * 1024)}
_PROCESSOR[100] = _PROCESSOR[90]
_PROCESSOR[89] = _PROCESSOR[120] = 1536, 24, 100 * 1024


def row(name, kernel: str, call: Call, capability: int, block, loop=0, **more) -> dict:
  """Returns one line of the table.

  Args:
    name: whose kernel it is.
    kernel: the kernel's name.
    call: the call to compile.
    capability: compute capability.
    block: (queries, keys) of a trip of the loop over full blocks.
    loop: that loop's place among the innermost loops; the others have masks.
    **more: columns to add.
  """
  compiled = call.compile(capability)
  warps, stages = call.options["num_warps"], call.options.get("num_stages", 3)
  found = gpu_code.read(compiled.ptx)
  line = _line(found, capability, block, loop, warps, compiled.shared, stages)
  return {"kernel": name, "part": kernel, **line, **more}


def _line(found, capability, block, loop, warps, shared, stages, computing=None):
  """Returns a kernel's columns; `computing` of its warps share a trip (None: all)."""
  loops = found.pop("loops")
  found["in loops"] = sum(each.get("spill", 0) for each in loops)
  steady = loops[loop] if loops else {"total": 0}
  scores = block[0] * block[1]
  return {
    "chip": f"sm_{capability}",
    "tile": f"{block[0]}x{block[1]}",
    "warps": warps,
    "stages": stages,
    **found,
    "shared": shared,
    "resident": occupancy(capability, found["registers"], warps, shared),
    "loop": steady["total"],
    **{k: steady.get(k, 0) for k in (*gpu_code.KINDS, "integer") if k != "spill"},
    "a score": round(steady["total"] * (computing or warps) / scores, 4),
  }


def mosaic(capability: int, H: int, V: int) -> list[dict]:
  """Returns the lines of tokamax's kernels, [] where they cannot be compiled."""
  table = []
  for each in tokamax_peer.kernels(capability, H, V):
    sizes = each.block, 0, each.warps, each.shared, each.stages
    line = _line(gpu_code.read(each.ptx, "exp2"), capability, *sizes, computing=4)
    table.append({"kernel": "tokamax", "part": each.part, **line, "H": H, "V": V})
  return table


def occupancy(capability: int, registers: int, warps: int, shared: int) -> int:
  """Returns how many warps, of 64, fit on a processor at a time."""
  threads, blocks, memory = _PROCESSOR[capability]
  each = -(-registers // 8) * 8 * 32 * warps
  fit = (threads // (32 * warps), blocks, 65536 // each, memory // (shared + 1024))
  return min(fit) * warps


def rows(capabilities=CAPABILITIES, H: int = 128, V: int = 128):
  """Returns (the table, whether it holds) of the plain causal case in bfloat16.

  It holds if no loop of ours spills and no kernel needs over 5 % more instructions a
  score than fla's, which is compiled in the same run where it is installed. Tokamax's
  kernels, in Mosaic GPU, are listed where they can be compiled, and set no bound.

  Args:
    capabilities: compute capabilities.
    H: size of a head of queries and keys.
    V: size of a head of values.
  """
  table, holds = [], True
  for capability in capabilities:
    ours, theirs = [], []
    for kernel, call in calls(capability, H, V).items():
      form = call.constants["F"]
      block = form.block_q, form.block_k
      ours.append(row("attnjax", kernel, call, capability, block, H=H, V=V))
    for part, call, block, loop in gpu_peer.calls(capability, H, V):
      theirs.append(row("fla", part, call, capability, block, loop, H=H, V=V))
    most = {line["part"]: line["a score"] for line in theirs}
    for line in ours:
      spilled = line["in loops"] or line["stack"] > STACK
      bound = 1.05 * most.get(line["part"], float("inf"))
      holds &= not spilled and line["a score"] <= bound
    table += ours + theirs + mosaic(capability, H, V)
  print(show(table))
  return table, holds


def lowered(
  capability: int, H: int, V: int, dtype="bfloat16", case="causal", T: int = 4001
) -> list[dict]:
  """Compiles every kernel of a case with its default tiles; `problems` names faults.

  Args:
    capability: compute capability.
    H: size of a head of queries and keys.
    V: size of a head of values.
    dtype: the type of the inputs.
    case: one of `tpu.features()`.
    T: number of queries and, unless they are few, of keys. No tile divides the default,
      so that the kernels also mask the edges.
  """
  from pallas_kernels.flash.triton_gpu import tiles as sizes

  problem = schedules.features()[case]
  S = 4001 if T <= sizes.FEW else T
  operands = tuple(_resized(x, T, S) for x in problem.program.operands)
  program = dataclasses.replace(problem.program, operands=operands)
  shape = 1, T, S, 16, 4
  given = dict(dtype=dtype, program=program, shape=shape, sinks=problem.sinks)
  table, cells = [], sizes.cells_of(program)
  for kernel, call in calls(capability, H, V, **given).items():
    form, options = call.constants["F"], call.options
    block = form.block_q, form.block_k
    more = {"dtype": dtype, "case": case, "T": T, "H": H, "V": V}
    line = row("attnjax", kernel, call, capability, block, **more)
    part = PARTS.get(kernel, kernel)
    warps, stages = options["num_warps"], options["num_stages"]
    tile = sizes.Tile(*block, warps, stages, form.masked)
    line["estimate"] = sizes.estimate(tile, part, H, V, dtype, capability, cells)
    line["problems"] = problems(line, sizes.limit(capability))
    table.append(line)
  return table


def _resized(x, T: int, S: int):
  """Returns an operand's shape for T queries and S keys."""
  shape = *x.shape[:2], min(x.shape[2], T), min(x.shape[3], S)
  return jax.ShapeDtypeStruct(shape, x.dtype)


def problems(line: dict, limit: int) -> str:
  """Returns the names of a line's faults, with commas between."""
  faults = {
    # A few registers spilled outside the loops have no visible cost.
    "spills": line["in loops"] or line["stack"] > STACK,
    "no tensor cores": not line["tensor"],
    "products wait": line["serialized"],
    "a product is fused into a difference of bases": line["fused"],
    "shared memory": line["shared"] > limit,
    "estimate too low": line["estimate"] < line["shared"],
  }
  return ", ".join(name for name, fault in faults.items() if fault)


def show(table: list[dict]) -> str:
  """Formats the rows as a table of text."""
  names = list(dict.fromkeys(name for line in table for name in line))
  cells = [names] + [[str(line.get(n, "")) for n in names] for line in table]
  widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
  return "\n".join(
    "  ".join(text.rjust(width) for text, width in zip(row, widths)).rstrip()
    for row in cells
  )
