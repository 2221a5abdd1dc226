"""Reads what libtpu writes about a program compiled for a TPU that is not here.

A bundle is what the chip issues in one cycle, so a kernel's bundles are its cycles a
grid step while nothing waits for memory; the slots used by unit say which unit bounds
it. The same compiler gives the same numbers for the same program.
"""

import collections
import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

TOPOLOGIES = {
  "v5e": ("v5e:2x2", "TPU v5 lite"),
  "v6e": ("v6e:2x2", "TPU v6 lite"),
  "tpu7x": ("tpu7x:2x2x1", "TPU7x"),
}
# Loads and stores of spilled registers count among all loads and stores.
_UNITS = ("MATMUL", "MATPUSH", "XLU", "VALU", "VPOP", "EUP", "VLOAD", "VSTORE", "SALU")
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(?:[A-Z]{2})?:\s*(?:>\s*)*\{")
_BRANCH = re.compile(r"sbr\.rel\b.*? target = \$region(\d+)")
_PLACE = re.compile(r"Start(?:/End empty)? region (\d+)")
# Delay slots of a branch, in bundles.
_DELAY = 4
_ALLOCATION = re.compile(
  r"#(\S+) \[shape = '[^']*', space=vmem, size = (0x[0-9a-f]+)[^']*tag = '([^']*)"
)
_NAME = re.compile(r"(\d+-(.+?)(?:\.\d+)?)-\d+-final_bundles")
_DUMP = "--xla_jf_dump_to="
# Only the stages that are read: all of them are thousands of files.
_STAGES = "--xla_jf_dump_llo_pass_label_regex=original|post-ra|final.*"


@dataclasses.dataclass(frozen=True)
class Region:
  """A part of a kernel that a branch may jump over.

  Attributes:
    bundles: its own bundles, without those of nested regions.
    inside: the nested regions, in order.
  """

  bundles: int
  inside: tuple["Region", ...] = ()

  @property
  def all(self) -> int:
    """Returns the number of bundles, those of nested regions included."""
    return self.bundles + sum(region.all for region in self.inside)


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A compiled kernel.

  Attributes:
    name: the name of the Pallas call.
    bundles: all bundles; those of a loop's body are counted once.
    used: unit -> the fraction of its slots that is used.
    memory: purpose -> bytes of fast memory (VMEM).
    regions: regions that only some grid steps run, in order, with nested regions.
  """

  name: str
  bundles: int
  used: dict[str, float]
  memory: dict[str, int]
  regions: tuple[Region, ...] = ()

  @property
  def always(self) -> int:
    """Returns the number of bundles that are in no region."""
    return self.bundles - sum(region.all for region in self.regions)

  @property
  def bound(self) -> str:
    """Returns the unit whose slots are used most."""
    return max(self.used, key=lambda unit: self.used[unit])


def compile_for(
  machine: str, function: Callable, arguments: Any
) -> tuple[Any, list[Kernel]]:
  """Compiles a function for one chip.

  Args:
    machine: a key of TOPOLOGIES.
    function: the function to compile.
    arguments: its arguments' shapes (`jax.ShapeDtypeStruct`), a sequence of trees.

  Returns:
    (the compiled function, its kernels: Pallas calls by their names, and XLA's own).

  Raises:
    RuntimeError: if libtpu was loaded before its dumps were asked for.
  """
  folder = _folder()
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  topology, kind = TOPOLOGIES[machine]
  described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  sharding = SingleDeviceSharding(described.devices[0])
  # XLA chooses the layouts, as it would inside a larger program. A copy into another
  # layout is one more program, whose dump takes a minute.
  own = Format(Layout.AUTO, sharding)
  mesh = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice(kind, 1, "tpu"))
  with jax.sharding.use_abstract_mesh(mesh):
    call = jax.jit(function, in_shardings=own, out_shardings=own)
    compiled = call.lower(*arguments).compile()
  return compiled, read(folder)


def _folder() -> Path:
  """Returns the folder of libtpu's dumps; libtpu reads its flags once, when loaded."""
  flags = os.environ.get("LIBTPU_INIT_ARGS", "")
  if _DUMP in flags:
    return Path(flags.split(_DUMP)[1].split()[0])
  with open("/proc/self/maps", encoding="utf-8") as maps:
    if "libtpu" in maps.read():
      raise RuntimeError("libtpu was loaded before its dumps were asked for")
  folder = Path(tempfile.mkdtemp(prefix="bundles_")) / "dump"
  os.environ["LIBTPU_INIT_ARGS"] = (
    f"{flags} {_DUMP}{folder} --xla_jf_dump_llo_text=true {_STAGES}"
  )
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  return folder


def read(folder: Path) -> list[Kernel]:
  """Reads the kernels in a folder of libtpu's dumps, XLA's own programs among them."""
  kernels = []
  for path in sorted(folder.glob("*[0-9]-final_bundles.txt")):
    match = _NAME.fullmatch(path.stem)
    if match is None:
      continue
    prefix, name = match.groups()
    with path.open(encoding="utf-8") as lines:
      bundles, regions = _counted(lines)
    pattern = f"{prefix}*-final_hlo-static-per-bundle-utilization.txt"
    utilization = next(folder.glob(pattern), None)
    if utilization is not None:
      used = _used(utilization.read_text(encoding="utf-8"))
      kernels.append(Kernel(name, bundles, used, _memory(folder, prefix), regions))
  return kernels


def _counted(lines: Iterable[str]) -> tuple[int, tuple[Region, ...]]:
  """Returns (bundles, the regions of the grid's loop that a branch may jump over).

  A branch also issues the bundles in its delay slots; its region lies between these and
  its target. A backward branch closes a loop, and has no region.
  """
  count, places, branches = 0, {}, []
  for line in lines:
    count += bool(_BUNDLE.match(line))
    for name in _PLACE.findall(line):
      places.setdefault(name, count - 1)
    branches += [(count + _DELAY, name) for name in _BRANCH.findall(line)]
  ends = [(start, places.get(name, 0)) for start, name in branches]
  spans = sorted(((a, b) for a, b in ends if a <= b), key=lambda x: (x[0], -x[1]))
  found = _nested(spans)
  # One region may hold the whole step: the grid's loop runs on after the last step.
  whole = len(found) == 1 and len(found[0].inside) > 0
  return count, found[0].inside if whole else found


def _nested(spans: list[tuple[int, int]]) -> tuple[Region, ...]:
  """Converts spans, sorted by start and the longest first, to nested regions."""
  found = []
  while spans:
    (start, end), *rest = spans
    inside = _nested([span for span in rest if span[1] <= end])
    own = end - start - sum(region.all for region in inside)
    found.append(Region(own, inside))
    spans = [span for span in rest if span[1] > end]
  return tuple(found)


def _used(text: str) -> dict[str, float]:
  lines = text.splitlines()
  names = [name.strip() for name in lines[1].split(",")]
  slots = dict(zip(names, map(int, lines[2].split())))
  rows = [list(map(int, line.split())) for line in lines[4:] if line.strip()]
  sums = dict(zip(names, map(sum, zip(*rows))))
  return {u: round(sums[u] / (slots[u] * len(rows)), 3) for u in _UNITS if u in sums}


def _memory(folder: Path, prefix: str) -> dict[str, int]:
  """Returns the bytes of fast memory by purpose, the first words of a buffer's tag."""
  found: dict[str, tuple[int, str]] = {}
  for stage in ("original", "post-ra"):
    for path in folder.glob(f"{prefix}*[0-9]-{stage}.txt"):
      for name, size, tag in _ALLOCATION.findall(path.read_text(encoding="utf-8")):
        found[name] = (int(size, 16), tag)
  sums: dict[str, int] = collections.Counter()
  for size, tag in found.values():
    words = ("scratch operand", "input window", "output window", "spilled")
    sums[next((w for w in words if tag.startswith(w)), "other")] += size
  return dict(sums)
