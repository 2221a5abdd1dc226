"""What the machine code of a GPU kernel says, read without a GPU.

The Triton wheel carries NVIDIA's `cuobjdump` and `nvdisasm`. A loop is a branch to an
earlier address; the innermost loops with tensor-core instructions are the kernel's
steady state.
"""

import collections
import pathlib
import re
import subprocess
import tempfile

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


def read(cubin: bytes) -> dict:
  """Registers, stack bytes, instructions, and the loops of a compiled kernel.

  Args:
    cubin: of one kernel.

  Returns:
    {registers, stack, instructions, spills, loops}; `stack` counts the bytes of local
    memory a thread has, `loops` are those of `steady`.
  """
  usage, text = _dump(cubin)
  code, labels = _parse(text)
  return {
    "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
    "stack": int(re.findall(r"STACK:(\d+)", usage)[0]),
    "instructions": len(code),
    "spills": sum(_kind(name) == "spill" for name, _ in code),
    "loops": steady(code, labels),
  }


def steady(code, labels) -> list[dict]:
  """The innermost loops that use tensor cores: {total, kind: instructions}."""
  spans = []
  for end, (name, target) in enumerate(code):
    start = labels.get(target, end + 1)
    if name.startswith("BRA") and start < end:
      body = [_kind(n) for n, _ in code[start : end + 1]]
      if "tensor" in body:
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


def _kind(name: str) -> str:
  base = name.split(".")[0]
  return next((k for k, p in KINDS.items() if re.fullmatch(p, base)), "integer")


def _parse(text: str):
  """([(instruction, label that it names)], {label: place})."""
  code, labels = [], {}
  for line in text.splitlines():
    if label := re.match(r"\s*(\.L_\w+):", line):
      labels[label[1]] = len(code)
    elif found := re.match(r"\s*/\*\w+\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)(.*)", line):
      target = re.search(r"\.L_\w+", found[2])
      code.append((found[1], target[0] if target else ""))
  return code, labels


def _dump(cubin: bytes) -> tuple[str, str]:
  import triton

  tools = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "kernel.cubin"
    path.write_bytes(cubin)
    commands = (["cuobjdump", "--dump-resource-usage"], ["nvdisasm", "-c"])
    usage, text = (
      subprocess.run(
        [tools / name, option, path], capture_output=True, text=True, check=True
      ).stdout
      for name, option in commands
    )
  return usage, text
