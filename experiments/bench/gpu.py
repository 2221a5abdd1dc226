"""The softmax engine's GPU kernels, compiled for chips that are not here, and read.

Columns: registers and stack bytes (spills) of a thread, shared memory and resident
warps of a processor, and the instructions that one warp issues for a trip of the inner
loop over full blocks. Those times the warps, over the scores of a trip, compare
kernels of different tiles: `a score`.
"""

from experiments.bench import cubin, gpu_peer
from experiments.bench.gpu_calls import Call, calls

CAPABILITIES = (80, 90, 100)
HEADS = ((64, 64), (80, 80), (96, 96), (128, 128), (192, 128), (256, 256))
# Threads, blocks and bytes of shared memory of a processor.
_PROCESSOR = {80: (2048, 32, 164 * 1024), 90: (2048, 32, 228 * 1024)}
_PROCESSOR[100] = _PROCESSOR[90]


def row(name, kernel: str, call: Call, capability: int, block, loop=0, **more) -> dict:
  """One line of the table.

  Args:
    name: whose kernel it is.
    kernel: which one.
    call: to compile.
    capability: compute capability.
    block: (queries, keys) of a trip of the loop over full blocks.
    loop: which of the innermost loops that is; the others have masks.
    **more: columns to add.
  """
  compiled = call.compile(capability)
  found = cubin.read(compiled.ptx)
  warps = call.options["num_warps"]
  steady = found.pop("loops")[loop]
  scores = block[0] * block[1]
  shared = compiled.shared
  return {
    "kernel": name,
    "part": kernel,
    "chip": f"sm_{capability}",
    "tile": f"{block[0]}x{block[1]}",
    "warps": warps,
    "stages": call.options.get("num_stages", 3),
    **found,
    "shared": shared,
    "resident": occupancy(capability, found["registers"], warps, shared),
    "loop": steady["total"],
    **{k: steady.get(k, 0) for k in (*cubin.KINDS, "integer") if k != "spill"},
    "a score": round(steady["total"] * warps / scores, 4),
    **more,
  }


def occupancy(capability: int, registers: int, warps: int, shared: int) -> int:
  """Warps that fit on a processor at a time, of 64."""
  threads, blocks, memory = _PROCESSOR[capability]
  each = -(-registers // 8) * 8 * 32 * warps
  fit = (threads // (32 * warps), blocks, 65536 // each, memory // (shared + 1024))
  return min(fit) * warps


def rows(capabilities=CAPABILITIES, H: int = 128, V: int = 128):
  """(table, whether it holds) of the plain causal case in bfloat16.

  It holds if no kernel of ours spills or needs more instructions a score than fla's,
  which is read in the same run where it is installed.

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
      spilled = line["stack"] or line["spills"]
      holds &= not spilled and line["a score"] <= most.get(line["part"], float("inf"))
    table += ours + theirs
  print(show(table))
  return table, holds


def lowering(heads=HEADS, capabilities=CAPABILITIES, dtype="bfloat16") -> list[dict]:
  """Every kernel with its default tiles for all head sizes; `problems` names faults."""
  from pallas_kernels.flash.triton_gpu import tiles as sizes

  table = []
  for capability in capabilities:
    for H, V in heads:
      chosen = sizes.defaults((4096, 4096, H, V), dtype, capability)
      for kernel, call in calls(capability, H, V, dtype, tiles=chosen).items():
        form = call.constants["F"]
        block = form.block_q, form.block_k
        line = row("attnjax", kernel, call, capability, block, H=H, V=V)
        part = "keys" if kernel == "values" else kernel
        tile = getattr(chosen, part)
        line["estimate"] = sizes.estimate(tile, part, H, V, dtype, capability)
        line["problems"] = _problems(line, sizes.limit(capability))
        table.append(line)
  return table


def _problems(line: dict, limit: int) -> str:
  faults = {
    "spills": line["stack"] or line["spills"],
    "no tensor cores": not line["tensor"],
    "shared memory": line["shared"] > limit,
    "estimate too low": line["estimate"] < line["shared"],
  }
  return ", ".join(name for name, fault in faults.items() if fault)


def show(table: list[dict]) -> str:
  """The rows as a table of text."""
  names = list(dict.fromkeys(name for line in table for name in line))
  cells = [names] + [[str(line.get(n, "")) for n in names] for line in table]
  widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
  return "\n".join(
    "  ".join(text.rjust(width) for text, width in zip(row, widths)).rstrip()
    for row in cells
  )
