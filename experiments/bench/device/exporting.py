"""Exports the GPU kernels on a host without a GPU, with what proves them elsewhere.

Each case is one function, {input: array} to {output or gradient: array}, exported for
an H100 with the kernels' PTX in it: `check.py`, which is copied beside them, runs it
where neither this library nor Triton is installed. Cases whose results are checked also
have the function in plain JAX in the same type, exported for the GPU and this CPU, and
the definition's results in float64 (of large arrays, elements at places drawn from a
seed). Inputs are drawn again from the seed. manifest.json lists it all.
"""

import concurrent.futures
import gzip
import importlib.util
import json
import multiprocessing
import re
import shutil
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from attnjax import exporting
from experiments import errors
from experiments.bench import gpu_code, targets
from experiments.bench.device import (
  bounds,
  carried,
  cases,
  check,
  clock,
  dry,
  edges,
  peers,
  systems,
)

DEVICE = "NVIDIA H100"


def rows(folder: Path, only: str = "", jobs: int = 2) -> tuple[list[dict], bool]:
  """Exports cases to a folder; returns (the manifest's cases, whether all succeeded).

  Args:
    folder: made if it is not there; it is all that the other machine needs.
    only: a regular expression of the names of cases.
    jobs: number of processes.
  """
  if importlib.util.find_spec("flatbuffers") is None:
    raise errors.UserError("jax.export needs flatbuffers: pip install flatbuffers")
  chosen = [c for c in cases.cases() if re.search(only, c["name"])]
  if not chosen:
    raise errors.UserError(f"--only {only!r} is in no case's name")
  folder.mkdir(parents=True, exist_ok=True)
  for module in (bounds, carried, check, clock, dry, edges, peers):
    shutil.copy(str(module.__file__), folder)
  start, done = time.time(), []
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(jobs, context, targets.enable) as pool:
    # Cases of one key share kernels, which a process compiles once.
    keys = list(dict.fromkeys(c["key"] for c in chosen))
    groups = [[c for c in chosen if c["key"] == key] for key in keys]
    futures = [pool.submit(write_all, g, folder) for g in groups]
    for future in concurrent.futures.as_completed(futures):
      for case in future.result():
        done.append(case)
        now = time.time() - start
        print(f"{now:6.0f} s  {case['name']}: {case['said']}", flush=True)
  names = [c["name"] for c in chosen]
  done.sort(key=lambda case: names.index(case["name"]))
  made = {"jax": jax.__version__, "device": DEVICE, "cases": done}
  (folder / "manifest.json").write_text(json.dumps(made, indent=1) + "\n")
  size = sum(p.stat().st_size for p in folder.iterdir()) / 1e6
  failed = [case["name"] for case in done if "failed" in case]
  print(f"{len(done) - len(failed)} cases, {size:.1f} MB, {time.time() - start:.0f} s")
  if failed:
    print(f"not exported: {', '.join(failed)}")
  return done, not failed


def write_all(group: list[dict], folder: Path) -> list[dict]:
  """Exports a group of cases and returns their entries in the manifest."""
  return [written(case, folder) for case in group]


def written(case: dict, folder: Path) -> dict:
  """Exports a case; returns its entry in the manifest, with the reason in `failed`."""
  start, case = time.process_time(), case | {"files": {}}
  try:
    shapes = cases.shapes(case)
    function, system = cases.function(case, "triton"), case["group"] == "system"
    with jax.default_matmul_precision("highest" if system else None):
      exported = exporting.export(function, device=DEVICE)(shapes)
    _save(case, "kernel", exported, folder)
    if case["group"] == "right":
      _references(case, shapes, folder)
    if system:
      _carried(case, folder)
    case["kernels"] = [assembled(ptx) for ptx in kernels(exported)]
    spills = sum(kernel.get("spilled", 0) for kernel in case["kernels"])
    said = f"{len(case['kernels'])} kernels, {spills} bytes spilled"
  except Exception as error:  # the other cases go on
    while error.__cause__ is not None:  # compilers quote the source before the reason
      error = error.__cause__
    case["failed"] = said = f"{type(error).__name__}: {error}"[:300]
  size = sum((folder / f).stat().st_size for f in case["files"].values())
  used = time.process_time() - start
  return case | {"said": f"{said}, {size / 1e3:.0f} kB, {used:.0f} s of CPU time"}


def _references(case: dict, shapes: dict, folder: Path) -> None:
  """Saves the programs of plain JAX and of a dry run, and the definition's results."""
  with jax.default_matmul_precision("highest"):
    plain = export.export(
      jax.jit(cases.function(case, "plain")), platforms=["cpu", "cuda"]
    )(shapes)
    _save(case, "plain", plain, folder)
  if case["dry"]:
    other = jax.jit(cases.function(case, "xla"))
    _save(case, "dry", export.export(other, platforms=["cpu"])(shapes), folder)
  arrays = carried.inputs(case)
  case["checksum"] = carried.checksum(arrays)
  _definition(case, arrays, folder)


def _carried(case: dict, folder: Path) -> None:
  """Saves a system's arrays, its definition's results, and the errors of "xla"."""
  arrays = systems.arrays(case)
  case["files"]["inputs"] = f"{case['name']}.inputs.npz"
  np.savez_compressed(folder / case["files"]["inputs"], allow_pickle=False, **arrays)
  case["plain"] = systems.measured(case, _definition(case, arrays, folder))


def _definition(case: dict, arrays: dict, folder: Path) -> dict[str, np.ndarray]:
  """Saves and returns the definition's results in float64, at the compared places."""
  with jax.enable_x64(True):
    wide = {
      n: jnp.asarray(a, jnp.float64 if jnp.issubdtype(a.dtype, jnp.floating) else None)
      for n, a in arrays.items()
    }
    found = jax.jit(cases.function(case, "reference"))(wide)
    found = {n: np.asarray(a).ravel()[carried.places(a.size)] for n, a in found.items()}
  case["files"]["reference"] = f"{case['name']}.npz"
  narrow: dict[str, np.ndarray] = {n: a.astype("float32") for n, a in found.items()}
  np.savez_compressed(folder / case["files"]["reference"], allow_pickle=False, **narrow)
  return narrow


def _save(case: dict, kind: str, exported, folder: Path) -> None:
  """Writes an export, compressed: block lists are long and simple."""
  case["files"][kind] = f"{case['name']}.{kind}.gz"
  data = gzip.compress(bytes(exported.serialize()), 6, mtime=0)
  (folder / case["files"][kind]).write_bytes(data)


def kernels(exported: export.Exported) -> list[str]:
  """Returns the PTX of the Triton kernels that an export carries, each once."""
  found = {}
  for text in re.findall(r'opaque = "((?:[^"\\]|\\.)*)"', exported.mlir_module()):
    data = zlib.decompress(_bytes(text))
    ptx = re.search(rb"\.version \d[^\0]*?\.entry[^\0]*?\n}", data)
    assert ptx, "a kernel's call holds no PTX"
    # Without .loc lines: the source files that they name are listed behind the code.
    found[re.sub(r"\n\s*\.loc\s.*", "", ptx[0].decode())] = None
  return list(found)


def _bytes(text: str) -> bytes:
  """Returns the bytes of an MLIR string; a backslash and two digits are one byte."""
  plain = re.sub(
    r"\\([0-9A-Fa-f]{2}|.)",
    lambda m: chr(int(m[1], 16)) if len(m[1]) == 2 else m[1],
    text,
  )
  return plain.encode("latin-1")


def assembled(ptx: str) -> dict:
  """Assembles PTX with the oldest supported assembler: registers, spilled bytes."""
  name = re.search(r"\.entry (\w+)", ptx)
  version = re.search(r"\.version ([\d.]+)", ptx)
  chip = re.search(r"\.target (\w+)", ptx)
  assert name and version and chip, ptx[:200]
  found = {"name": name[1], "ptx": version[1], "chip": chip[1]}
  if not targets.PTXAS.exists():
    return found
  numbers = gpu_code.read(ptx)
  return found | {k: numbers[k] for k in ("registers", "spilled")}
