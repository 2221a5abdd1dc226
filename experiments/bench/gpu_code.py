"""Reads the machine code of a GPU kernel, without a GPU.

The kernel is assembled as jaxlib does on the user's machine, with the oldest assembler
that jax[cuda13] allows. The Triton wheel carries NVIDIA's `nvdisasm`. The innermost
loops with tensor-core instructions are the kernel's steady state.
"""

import collections
import pathlib
import re
import subprocess
import tempfile

from experiments.bench import targets

KINDS = {
  "tensor": r"[HIQO]?G?MMA|UTC\w*MMA",
  "exp2": r"MUFU",
  "global": r"LDG|LDGSTS|STG|UBLKCP|UTMA\w+|LD|ST",
  "scratch": r"LDS|STS|LDSM|STSM|LDTM|STTM|MOVM",
  "spill": r"LDL|STL",
  "shuffle": r"SHFL|REDUX",
  "barrier": r"BAR|SYNCS|WARPSYNC|WARPGROUP|DEPBAR|LDGDEPBAR|FENCE|ERRBAR|MEMBAR",
  "float": r"F\w*(ADD|MUL|FMA|MNMX|SETP|SEL|SET)\d?|HADD2|HFMA2|HMUL2|F2F|F2FP|I2F\w*",
}


def read(ptx: str, kind: str = "tensor") -> dict:
  """Reads the registers, spills, instructions and loops of a kernel.

  Args:
    ptx: the text of one kernel.
    kind: one of `KINDS`, whose instructions its loops have.

  Returns:
    {registers, stack, spilled, instructions, spills, serialized, fused, loops}:
    `stack` is the bytes of a thread's local memory, `spilled` the bytes of spill stores
    and loads, both by the assembler's report; `spills` counts the spill instructions;
    `serialized` is whether the assembler serialises products of Hopper's tensor cores;
    `fused` is the result of `fused`; `loops` is the result of `steady`.
  """
  report, text = _assemble(ptx)
  code, labels = _parse(text)
  numbers = {
    "registers": r"Used (\d+) registers",
    "stack": r"(\d+) bytes stack frame",
    "spilled": r"(\d+) bytes spill (?:stores|loads)",
  }
  return {
    **{k: sum(map(int, re.findall(p, report))) for k, p in numbers.items()},
    "instructions": len(code),
    "spills": sum(_kind(name) == "spill" for name, *_ in code),
    "serialized": "wgmma.mma_async instructions are serialized" in report,
    "fused": fused(ptx),
    "loops": steady(code, labels, kind),
  }


def fused(ptx: str) -> int:
  """Returns how many decays of an online softmax are differences of fused products.

  The decay of what was summed so far is 2^min(base - next, x + 16). Both bases are
  rounded products, and weights were computed with what was rounded. A compiler that
  makes base - next of the factors of `next`, by a fused multiply-add, loses the
  rounding of one of them: an error in each tile, as large as the last place of a score.
  """
  made = {}
  for name, to, given in re.findall(r"^\s*([\w.]+)\s+(%\w+), (.*);$", ptx, re.M):
    made[to] = name, given.split(", ")
  count = 0
  for name, given in made.values():
    if name == "min.f32":
      terms = [made.get(x, ("", [])) for x in given]
      sixteen = [
        x for x in terms if x[0].startswith("fma") and x[1][-1] == "0f41800000"
      ]
      count += len(sixteen) == 1 and all(x[0].startswith("fma") for x in terms)
  return count


def steady(code, labels, kind: str = "tensor") -> list[dict]:
  """Returns the innermost loops with instructions of a kind: {total, kind: number}."""
  spans = []
  for start, end in loops(code, labels):
    body = [_kind(name) for name, *_ in code[start : end + 1]]
    if kind in body:
      spans.append((start, end, body))
  inner = [
    (start, end, body)
    for start, end, body in spans
    if not any(
      (start <= s and e <= end) and (s, e) != (start, end) for s, e, _ in spans
    )
  ]
  return [
    {"total": len(body), **collections.Counter(body)} for _, _, body in sorted(inner)
  ]


def loops(code, labels) -> list[tuple[int, int]]:
  """Returns (first, last instruction) of each loop.

  A backward branch closes a loop if its target dominates it. Code that waits for a
  barrier lies behind all other code and only jumps back from there: it is no loop.
  """
  jumps = {i: labels.get(target) for i, (name, target, _) in enumerate(code)
           if name.startswith("BRA")}  # fmt: skip
  ends = {i + 1 for i in jumps} | {i + 1 for i, (*_, last) in enumerate(code) if last}
  starts = sorted(({0, *jumps.values()} | ends) - {None, len(code)})
  place = {start: number for number, start in enumerate(starts)}
  after = []
  for end in [*starts[1:], len(code)]:
    ways = [jumps[end - 1]] if end - 1 in jumps else []
    ways += [] if code[end - 1][2] or end == len(code) else [end]
    after.append([place[way] for way in ways if way is not None])
  through = _dominators(after)
  found: dict[int, int] = {}
  for block, ways in enumerate(after):
    for way in ways:
      if through[block] >> way & 1:
        last = [*starts, len(code)][block + 1] - 1
        found[starts[way]] = max(last, found.get(starts[way], 0))
  return list(found.items())


def _dominators(after: list[list[int]]) -> list[int]:
  """Returns for each block the blocks on all paths to it from the first, as bits."""
  through = [1] + [(1 << len(after)) - 1] * (len(after) - 1)
  changed = True
  while changed:
    changed = False
    for block, ways in enumerate(after):
      for way in ways:
        common = through[way] & (through[block] | 1 << way)
        changed |= common != through[way]
        through[way] = common
  return through


def _kind(name: str) -> str:
  base = name.split(".")[0]
  return next((k for k, p in KINDS.items() if re.fullmatch(p, base)), "integer")


def _parse(text: str):
  """Returns ([(instruction, label it names, whether control ends)], {label: place})."""
  code, labels = [], {}
  for line in text.splitlines():
    if label := re.match(r"\s*(\.L_\w+):", line):
      labels[label[1]] = len(code)
    elif found := re.match(r"\s*/\*\w+\*/\s+(@!?\w+\s+)?([A-Z][\w.]*)(.*)", line):
      target = re.search(r"\.L_\w+", found[3])
      leaves = re.match(r"(BRA(?!\.DIV|\.CONV)|EXIT|RET)\b", found[2])
      sure = not found[1] and not re.match(r"\s*!?U?P\w*\s*,", found[3])
      code.append((found[2], target[0] if target else "", bool(leaves and sure)))
  return code, labels


def _assemble(ptx: str) -> tuple[str, str]:
  """Returns (the assembler's report, the machine code as text).

  Raises:
    RuntimeError: if the assembler refuses the text, or is not there.
  """
  import triton

  if not targets.PTXAS.exists():
    raise RuntimeError(f"{targets.PTXAS} is missing: `make` installs it")
  target = re.findall(r"\.target (\w+)", ptx)[0]
  reader = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
  with tempfile.TemporaryDirectory() as folder:
    source, code = (pathlib.Path(folder) / n for n in ("kernel.ptx", "kernel.cubin"))
    source.write_text(ptx, encoding="utf-8")
    command = [targets.PTXAS, "-v", f"-arch={target}", "-o", code, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      raise RuntimeError(f"ptxas: {done.stderr[-2000:]}")
    text = subprocess.run(
      [reader / "nvdisasm", "-c", code], capture_output=True, text=True, check=True
    ).stdout
  return done.stderr, text
