"""The softmax engine's TPU kernels, compiled for chips that are not here, and read.

Columns: bundles, which are cycles, of a grid step of 1,024 queries and 2,048 keys (all
that the kernel has, start and end included), beside jax's splash attention
for the same work; the unit that bounds and how full its slots are; fast memory. A mask
gives partial blocks their own code: `full` is a step without it, `partial` with it,
without the `rare` bundles that only blocks with NaN, infinity or huge elements run
(code of a loop, counted once).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core import masks
from attnjax.core.masks.schedule import Schedule
from attnjax.core.scalar_functions import elementwise
from attnjax.core.scores import Program
from experiments.bench import tpu_peer, tpu_schedule
from pallas_kernels.flash import mosaic_tpu

MACHINES = ("v5e", "v6e")
KERNELS = ("forward", "backward")
T = 4096
# The most bundles of a causal partial step over a full one: masks, the test for NaN.
PRICE = 1.06
# Queries and keys of the grid step that kernels are compared by.
STEP = (1024, 2048)
_PLACES = ("int32", "int32")


@dataclasses.dataclass(frozen=True)
class Problem:
  """A problem that a kernel is compiled for: T queries and keys, bfloat16.

  Attributes:
    program: the program of the scores.
    walk: whether the grid walks along the lists of a causal mask.
    sinks: whether there are sinks.
    N, K, H, V: query heads, key heads and the sizes of both.
  """

  program: Program = Program()
  walk: bool = False
  sinks: bool = False
  N: int = 1
  K: int = 1
  H: int = 128
  V: int = 128

  def arrays(self) -> tuple[Any, Any, Any]:
    """Returns the shapes of q, k and v."""
    return (
      _shape(1, T, self.N, self.H, dtype="bfloat16"),
      _shape(1, T, self.K, self.H, dtype="bfloat16"),
      _shape(1, T, self.K, self.V, dtype="bfloat16"),
    )


def _shape(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def _causal(t, s, *_):
  return s <= t


def _program(operands=(), score=None, seen=None, keep=None) -> Program:
  """Builds a Program from functions of scalars, with shapes for operands."""
  dtypes = [
    "float32" if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype for x in operands
  ]

  def traced(function, *first):
    return function and elementwise(function, (*first, *_PLACES), dtypes)

  return Program(tuple(operands), traced(score, "float32"), traced(seen), traced(keep))


def _kept(t, s, seed):
  bits = ((t * 4096 + s).astype(jnp.uint32) ^ seed) * jnp.uint32(0x9E3779B1)
  bits = (bits ^ (bits >> 15)) * jnp.uint32(0x85EBCA6B)
  return jnp.where(bits < jnp.uint32(0xE6666666), 1 / 0.9, 0.0)


def features() -> dict[str, Problem]:
  """Returns a problem for each feature, the plain one first."""
  cell = _shape(1, 1, T, T, dtype="bfloat16")
  lines = (_shape(1, 1, T, 1, dtype="int32"), _shape(1, 1, 1, T, dtype="int32"))
  slope, seed = _shape(1, 1, 1, 1), _shape(1, 1, 1, 1, dtype="uint32")
  programs = {
    "plain": _program(),
    "causal": _program(seen=_causal),
    "segments": _program(lines, seen=lambda t, s, a, b: (s <= t) & (a == b)),
    "bias": _program((cell,), score=lambda x, t, s, b: x + b),
    "slope": _program((slope,), score=lambda x, t, s, a: x - a * (t - s)),
    "softcap": _program(score=lambda x, t, s: 50 * jnp.tanh(x / 50)),
    "dropout": _program((seed,), keep=_kept),
  }
  problems = {
    name: Problem(program, walk=name == "causal") for name, program in programs.items()
  }
  return problems | {"sinks": Problem(sinks=True)}


def tiles(forward: mosaic_tpu.Tile, backward: mosaic_tpu.Tile) -> mosaic_tpu.Tiles:
  """Returns the tiles with the fast memory that every machine here has."""
  return mosaic_tpu.Tiles(forward, backward, 48 << 20)


def call(
  kernel: str, problem: Problem, cut: mosaic_tpu.Tiles
) -> tuple[Callable, tuple[Any, ...]]:
  """Returns (a kernel as a function, the shapes of its arguments)."""
  q, k, v = problem.arrays()
  lines = _shape(1, T, problem.N)
  tile = getattr(cut, kernel)
  schedule = _schedule(tile)
  if problem.walk:
    schedule = _walked(schedule, problem)
  scale = problem.H**-0.5
  if kernel == "forward":
    sinks = _shape(problem.N) if problem.sinks else None

    def forward(q, k, v, sinks, program, schedule):
      return mosaic_tpu.forward(
        q, k, v, sinks, program, schedule, scale=scale, tiles=cut
      )

    return forward, (q, k, v, sinks, problem.program, schedule)

  def backward(q, k, v, g, top, total, delta, program, schedule):
    return mosaic_tpu.backward(
      q, k, v, g, top, total, delta, program, schedule, scale=scale, tiles=cut
    )

  g = _shape(1, T, problem.N, problem.V, dtype="bfloat16")
  return backward, (q, k, v, g, *[lines] * 3, problem.program, schedule)


def _schedule(tile: mosaic_tpu.Tile) -> Schedule:
  """Returns the shapes of a schedule that lists all blocks."""
  queries, keys = -(-T // tile.block_q), -(-T // tile.block_k)

  def lists(lines, length):
    shapes = ((1, 1, lines, length), (1, 1, lines), (1, 1, lines))
    return tuple(_shape(*shape, dtype="int32") for shape in shapes)

  forward, backward = lists(queries, keys), lists(keys, queries)
  return Schedule(*forward, *backward, block_q=tile.block_q, block_k=tile.block_k)


def _walked(schedule: Schedule, problem: Problem) -> Schedule:
  """Returns the schedule with the shapes of the walks of a causal mask."""
  sides = schedule.block_q, schedule.block_k
  lists = masks.schedule(masks.Causal(), (1, problem.N, T, T), *sides)
  lists = mosaic_tpu.prepared(lists, *problem.arrays()[:2])
  walk, walk_t = (
    x if x is None else _shape(*x.shape, dtype="int32")
    for x in (lists.walk, lists.walk_t)
  )
  return dataclasses.replace(schedule, walk=walk, walk_t=walk_t)


def compiled(
  machine: str, kernel: str, problem: Problem, cut: mosaic_tpu.Tiles
) -> tpu_schedule.Kernel:
  """Compiles and reads one of our kernels."""
  _, kernels = tpu_schedule.compile_for(machine, *call(kernel, problem, cut))
  (found,) = (x for x in kernels if x.name == f"flash_{kernel}")
  return found


def rows() -> tuple[list[dict], bool]:
  """Returns (the table, whether its bounds hold); prints rows as they come.

  Plain steps must be within splash's, causal partial steps within PRICE of full ones.
  """
  found, holds = [], True
  for row in _rows():
    show([row], head=not found)
    found.append(row)
    if row["kernel"] != "splash" and row["feature"] == "plain":
      holds &= row["full"] <= row["splash"]
    if row["feature"] == "causal":
      holds &= row["partial"] <= PRICE * row["full"]
  print("bounds hold" if holds else "a plain or a causal step takes too many bundles")
  return found, holds


def _rows() -> Iterator[dict]:
  for machine in MACHINES:
    peers = tpu_peer.splash(machine, T, STEP)
    for kernel in KERNELS:
      peer = peers[kernel].bundles
      base = None
      for feature, problem in features().items():
        if feature == "sinks" and kernel == "backward":
          continue  # Their gradient is computed from lse outside the kernel.
        read = compiled(machine, kernel, problem, _cut(machine))
        base = base or read.bundles
        masked = problem.program.seen is not None
        rare = steps(read)["rare"] if masked else 0
        yield {
          "machine": machine,
          "kernel": kernel,
          "feature": feature,
          "full": base if masked else read.bundles,
          "partial": read.bundles - base - rare if masked else None,
          "rare": rare if masked else None,
          "splash": peer,
          "ratio": round((base if masked else read.bundles) / peer, 3),
          "unit": read.bound,
          "slots": read.used[read.bound],
          "MiB": round(sum(read.memory.values()) / 2**20, 1),
        }


def steps(read: tpu_schedule.Kernel) -> dict[str, int]:
  """Returns the bundles of a full and a partial step, and those that are `rare` in one.

  Only the region of a partial step has nested regions, two ways to compute it: the rare
  one, a loop over small parts, has less code.
  """
  ways = [region for region in read.regions if region.inside]
  full = max(r.bundles for r in read.regions if not r.inside)
  if not ways:
    return {"full": full, "partial": 0, "rare": 0}
  (masked,) = ways
  quick = max(way.all for way in masked.inside)
  partial = masked.bundles + quick
  return {"full": full, "partial": partial, "rare": masked.all - partial}


def _cut(machine: str) -> mosaic_tpu.Tiles:
  """Returns the default tiles of the plain problem, for all features."""
  problem, (_, kind) = Problem(), tpu_schedule.TOPOLOGIES[machine]
  return mosaic_tpu.defaults(*problem.arrays(), problem.program, kind)


def show(rows: list[dict], head: bool = True) -> None:
  """Prints rows under their columns."""
  if head and rows:
    print(" ".join(f"{name:>9}" for name in rows[0]), flush=True)
  for row in rows:
    cells = ("" if value is None else value for value in row.values())
    print(" ".join(f"{cell!s:>9}" for cell in cells), flush=True)
