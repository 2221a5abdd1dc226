"""Chunked linear attention's kernels (`pallas_kernels.decayed_linear`), compiled, read.

The TPU table has the bundles, which are cycles, that a token of a head takes, the least
that the matrix units need for its products, their ratio, and the cycles in which the
chip's memory delivers what is read and written: where that is more, memory bounds.
No other library has such a kernel for TPUs.

The GPU table has, beside the kernels of flash-linear-attention with its own tiles,
the instructions that warps issue for a token of a head: all of a program, its loop as
often as it turns.
"""

import functools
import re
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench import bundles, cubin, gpu_calls
from experiments.bench import gpu as machine_code
from experiments.bench import tpu as schedules

HEADS = ((64, 64), (80, 80), (96, 96), (128, 128), (192, 128), (256, 256))
CAPABILITIES = (80, 90)
KERNELS = ("forward", "states", "backward")
T, N = 4096, 16
# Products a cycle of the matrix units, and bytes a cycle of the memory: 819 GB/s at
# 1.5 GHz and 1640 GB/s at 1.75 GHz.
PRODUCTS = {"v5e": 4 * 128 * 128, "v6e": 2 * 256 * 256}
MEMORY = {"v5e": 546, "v6e": 937}
# The least part of the matrix units' time that is used on v5e.
USED = 0.5


def call(module, direction: str, H: int, E: int, dtype="bfloat16", capability=0):
  """(a backend's forward or backward pass as a function, the shapes it takes)."""

  def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))

  q, v = shape(1, T, N, H, dtype=dtype), shape(1, T, N, E, dtype=dtype)
  state = shape(1, N, H, E)
  x = q, q, v, shape(1, T, N), state
  which = capability or bundles.TOPOLOGIES["v5e"][1]
  how: dict[str, Any] = {"scale": 1.0, "tiles": module.defaults(q, q, v, which)}
  if direction == "forward":
    return functools.partial(module.forward, **how), (x, None)
  how["decay"] = True
  return functools.partial(module.backward, **how), (x, None, (v, state))


def tpu() -> tuple[list[dict], bool]:
  """(the table, whether v5e's matrix units are used enough); prints it."""
  rows, fine = _shown(row for m in PRODUCTS for row in _tpu_rows(m, 128, 128))
  # The states' pass has one product for all that it reads: memory bounds it.
  used = [r["used"] for r in rows if (r["machine"], r["states"]) == ("v5e", "")]
  return rows, fine and min(used) >= USED


def gpu() -> tuple[list[dict], bool]:
  """(the table, whether nothing spills or needs more than fla); prints it."""
  rows, holds = [], True
  for capability in CAPABILITIES:
    ours = list(_gpu_rows(capability, 128, 128))
    theirs = list(_peers(capability))
    sums = (sum(row["a token"] for row in part) for part in (ours, theirs))
    holds &= not theirs or next(sums) <= next(sums)
    holds &= not any(row["problems"] for row in ours)
    rows += ours + theirs
  print(machine_code.show(rows))
  return rows, holds


def lowering() -> tuple[list[dict], bool]:
  """(the table, whether all compile within their machines' limits); prints it."""
  rows, fine = _shown(
    row for m in bundles.TOPOLOGIES for H, E in HEADS for row in _tpu_rows(m, H, E)
  )
  more = [row for c in CAPABILITIES for H, E in HEADS for row in _gpu_rows(c, H, E)]
  print(machine_code.show(more))
  return rows + more, fine and not any(row["problems"] for row in more)


def _tpu_rows(machine: str, H: int, E: int) -> Iterator[dict]:
  from pallas_kernels.decayed_linear import mosaic_tpu

  for direction in ("forward", "backward"):
    function, given = call(mosaic_tpu, direction, H, E)
    tiles = function.keywords["tiles"]
    tile = getattr(tiles, direction)
    estimate = mosaic_tpu.estimate(tile, direction, given[0][0], given[0][2])
    _, kernels = bundles.compile_for(machine, function, given)
    for read in kernels:
      kernel = read.name.removeprefix("decayed_linear_")
      if kernel not in KERNELS:
        continue
      tokens = tile.chunk * tile.heads
      size = sum(read.memory.values())
      row = {"machine": machine, "kernel": kernel, "H": H, "E": E}
      row |= {"chunk": tile.chunk, "heads": tile.heads, "bundles": read.bundles}
      row |= {"a token": round(read.bundles / tokens, 2)}
      if machine in PRODUCTS:
        least = _products(kernel, tile, H, E) / PRODUCTS[machine]
        row |= {
          "products": round(least, 2),
          "used": round(least * tokens / read.bundles, 3),
          "memory": round(_bytes(kernel, tile, H, E) / MEMORY[machine], 2),
        }
      row |= {"slots": read.used["MATMUL"], "unit": read.bound}
      row |= {"MiB": round(size / 2**20, 1), "estimate": round(estimate / 2**20, 1)}
      row["states"] = "pass" if kernel == "states" else ""
      yield row | {"problems": "estimate too low" if estimate < size else ""}


def _products(kernel: str, tile, H: int, E: int) -> float:
  """Of two numbers, a token of a head: with its parts and with the state."""
  parts = tile.chunk // tile.inner
  seen = tile.inner * (parts + 1) / 2
  within = {"forward": seen * (H + E), "states": 0, "backward": seen * (3 * H + 2 * E)}
  return within[kernel] + {"forward": 2, "states": 1, "backward": 4}[kernel] * H * E


def _bytes(kernel: str, tile, H: int, E: int) -> float:
  """Read and written, a token of a head."""
  state = H * E / tile.chunk
  return (
    2
    * {
      "forward": 2 * H + 2 * E,
      "states": H + E + state,
      "backward": 4 * H + 3 * E + state,
    }[kernel]
  )


def _gpu_rows(capability: int, H: int, E: int) -> Iterator[dict]:
  from pallas_kernels.decayed_linear import triton_gpu

  found: dict[str, Any] = {}
  for direction in ("forward", "backward"):
    function, given = call(triton_gpu, direction, H, E, capability=capability)
    traced = jax.make_jaxpr(function)(*given)
    for equation in traced.jaxpr.eqns:
      if equation.primitive.name == "triton_kernel_call":
        one: Any = gpu_calls.from_equation(equation)
        name = one.function.__name__.removesuffix("_kernel")
        name += " back" if one.constants["F"].reverse else ""
        found[name] = one
  tiles = function.keywords["tiles"]
  for name, one in found.items():
    form = one.constants["F"]
    row = _gpu_row("attnjax", name, one, form.chunk, form.tile_h, form.tile_e, H, E,
                   capability)  # fmt: skip
    row["estimate"] = triton_gpu.estimate(tiles, name.split()[0], "bfloat16")
    faults = {
      "spills": row["stack"] or row["spills"],
      "no tensor cores": not row["tensor"],
      "shared memory": row["shared"] > row["estimate"],
    }
    yield row | {"problems": ", ".join(k for k, fault in faults.items() if fault)}


def _gpu_row(whose, part, one, chunk, tile_h, tile_e, H, E, capability) -> dict:
  compiled = one.compile(capability)
  found = cubin.read(compiled.ptx)
  loops, warps = found.pop("loops"), one.options["num_warps"]
  down, along = -(-H // tile_h), -(-E // tile_e)
  kind = part.split()[0]
  # A program of the states' kernel turns once a chunk, all others belong to one.
  trips = {"output": down, "values": down, "keys": along}.get(kind, 1)
  programs = {"output": along, "values": along, "keys": down}.get(kind, down * along)
  turn = sum(loop["total"] for loop in loops)
  issued = turn if kind == "states" else found["instructions"] + (trips - 1) * turn
  return {
    "kernel": whose,
    "part": part,
    "chip": f"sm_{capability}",
    "H": H,
    "E": E,
    "tile": f"{chunk}x{tile_h}x{tile_e}",
    "warps": warps,
    "stages": one.options["num_stages"],
    **found,
    "shared": compiled.shared,
    "resident": machine_code.occupancy(
      capability, found["registers"], warps, compiled.shared
    ),
    "tensor": len(re.findall(r"wgmma\.mma_async|mma\.sync", compiled.ptx)),
    "a token": round(issued * warps * programs / chunk, 1),
  }


def _peers(capability: int) -> Iterator[dict]:
  """Rows of fla's kernels, with its choices."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      from fla.ops.common import chunk_h, chunk_o
  except ImportError:
    return
  wide = 128 if capability >= 90 else 64
  kernels = {
    "states": (chunk_h.chunk_fwd_kernel_h, 64, {}),
    "output": (chunk_o.chunk_fwd_kernel_o, 64, {}),
    "states back": (chunk_h.chunk_bwd_kernel_dh, 64, {"dh": "*fp32"}),
    "keys": (chunk_o.chunk_bwd_kernel_dqkwg, wide, {"h": "*fp32", "dh": "*fp32"}),
    "values": (chunk_o.chunk_bwd_kernel_dv, wide, {"dh": "*fp32"}),
  }
  for part, (kernel, width, kinds) in kernels.items():
    while not hasattr(kernel, "params"):
      kernel = kernel.fn
    one = _peer(kernel, width, kinds)
    yield _gpu_row("fla", part, one, 64, width, width, 128, 128, capability)


def _peer(function, width: int, kinds) -> gpu_calls.Call:
  constants: dict[str, Any] = dict(H=N, HV=N, HQ=N, NG=1, B=1, K=128, V=128)
  constants |= dict(BT=64, BS=64, BK=width, BV=width, USE_G=True)
  constants |= dict(USE_INITIAL_STATE=True, STORE_FINAL_STATE=True)
  constants |= dict(STORE_INITIAL_STATE_GRADIENT=True, USE_FINAL_STATE_GRADIENT=True)
  names = [p.name for p in function.params]
  wide = dict.fromkeys(("g", "dg", "h0", "ht", "dht", "dh0"), "*fp32")
  kinds = {"scale": "fp32", "T": "i32"} | wide | kinds
  absent = ("g_gamma", "gk", "gv", "cu_seqlens", "split_offsets", "chunk_indices", "dw")
  absent += ("dv",) if "dw" in names else ()
  constants |= dict.fromkeys(absent)
  switches = [n for n in names if n.isupper() and n not in constants and len(n) > 2]
  constants = {n: c for n, c in constants.items() if n in names}
  constants |= dict.fromkeys(switches, False)
  signature = {
    n: "constexpr" if n in constants else kinds.get(n, "*bf16") for n in names
  }
  attributes = {
    (i,): [["tt.divisibility", 16]]
    for i, kind in enumerate(signature.values())
    if kind.startswith("*")
  }
  how = dict(num_warps=4, num_stages=3, ptx_version=88)
  return gpu_calls.Call(function, signature, constants, attributes, how)


def _shown(rows) -> tuple[list[dict], bool]:
  found: list[dict] = []
  for row in rows:
    schedules.show([row], head=not found)
    found.append(row)
  return found, not any(row["problems"] for row in found)
