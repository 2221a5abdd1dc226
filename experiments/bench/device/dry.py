"""The step of check.py that needs no GPU: exports are read and lowered, none is run."""

import sys
from pathlib import Path

import numpy as np

try:
  from experiments.bench.device import carried
except ImportError:  # as it lies beside the exports, without the project
  import carried  # pyrefly: ignore[missing-import]

ABSENT = ("triton", "jax_triton", "attnjax", "pallas_kernels")
_CALL = "@triton_kernel_call_ffi"


class _Absent:
  """A finder that refuses the modules of ABSENT, as on a machine without them."""

  def find_spec(self, name, path=None, target=None):
    """Raises ImportError for a module of ABSENT; leaves others to the next finder."""
    if name.split(".")[0] in ABSENT:
      raise ImportError(f"{name} is not to be had in a dry check")


def read(folder: Path, case: dict) -> dict:
  """Checks that a case's files are whole and fit each other.

  Args:
    folder: the folder of the exports.
    case: an entry of the manifest.

  Returns:
    {ok, wrong, calls}: what does not fit, and the kernel calls in the program.
  """
  if not any(isinstance(finder, _Absent) for finder in sys.meta_path):
    there = [name for name in ABSENT if name in sys.modules]
    if there:
      raise RuntimeError(f"{there} are imported: this would prove nothing")
    sys.meta_path.insert(0, _Absent())
  wrong, programs = [], {}
  given = {n: [list(a.shape), a.dtype.name] for n, a in _drawn(folder, case).items()}
  for kind in case["files"].keys() - {"reference", "inputs"}:
    programs[kind] = carried.exported(folder, case, kind)
    wrong += [f"{kind}: {what}" for what in _inputs(programs[kind], given)]
  calls = _lowered(programs["kernel"]).count(_CALL)
  if calls < len(case["kernels"]):
    wrong.append(f"kernel: {calls} calls of {len(case['kernels'])} kernels")
  outputs = _outputs(programs["kernel"])
  if "plain" in programs and _CALL in _lowered(programs["plain"]):
    wrong.append("plain: calls a kernel")
  for kind, program in programs.items():
    if _outputs(program) != outputs:
      wrong.append(f"{kind}: gives {_outputs(program)}, the kernel {outputs}")
  if "reference" in case["files"]:
    wrong += _reference(folder, case, outputs)
  return {"ok": not wrong, "wrong": wrong, "calls": calls}


def _lowered(program) -> str:
  """Lowers an exported program for a GPU again, and returns its text."""
  import jax

  arguments, _ = _shapes(program)
  traced = jax.jit(program.call).trace(*arguments)
  return traced.lower(lowering_platforms=("cuda",)).as_text()


def _shapes(program):
  """Returns a program's (positional, named) arguments, as shapes."""
  import jax

  shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in program.in_avals]
  return jax.tree.unflatten(program.in_tree, shapes)


def _drawn(folder: Path, case: dict) -> dict:
  """Returns the inputs that are carried along, or the types of those to be drawn."""
  import jax

  if "inputs" in case["files"]:
    return carried.given(folder, case)
  return {n: jax.ShapeDtypeStruct(s, d) for n, (s, d, _) in case["inputs"].items()}


def _inputs(program, given: dict):
  """Yields each difference between a program's inputs and those that it will have."""
  ((taken,), _) = _shapes(program)
  found = {name: [list(x.shape), x.dtype.name] for name, x in taken.items()}
  for name, kind in given.items():
    if found.get(name) != kind:
      yield f"{name} is {found.get(name)}, drawn as {kind}"
  for name in found.keys() - given.keys():
    yield f"{name} is not drawn"


def _outputs(program) -> dict:
  """Returns {output: [shape, type]} of a program."""
  import jax

  found = jax.tree.unflatten(program.out_tree, program.out_avals)
  return {name: [list(x.shape), x.dtype.name] for name, x in found.items()}


def _reference(folder: Path, case: dict, outputs: dict):
  """Yields each fault of a case's reference, or of the inputs it was made from."""
  drawn = "inputs" not in case["files"]
  if drawn and carried.checksum(carried.inputs(case)) != case["checksum"]:
    yield "the inputs are not those of the reference: another NumPy?"
  with np.load(folder / case["files"]["reference"]) as want:
    if set(want) != set(outputs):
      yield f"the reference has {sorted(want)}, the kernel {sorted(outputs)}"
    for name in set(want) & set(outputs):
      size = int(np.prod(outputs[name][0]))
      compared = np.arange(size)[carried.places(size)].size
      if want[name].size != compared:
        yield f"{name}: {want[name].size} numbers, of which {compared} are compared"
      if np.isnan(want[name]).any():
        yield f"{name}: the reference has NaN"
