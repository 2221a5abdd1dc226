"""Dynamic windows on TPUs: Pallas kernels for Mosaic, forward and backward.

Entries of the batch and groups are lanes: 128 of them cost as much as one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnjax.core.platform import target_kind, target_platform
from pallas_kernels import calling
from pallas_kernels.dynamic_window.mosaic_tpu import (
  backward_kernel,
  forward_kernel,
  operands,
)
from pallas_kernels.dynamic_window.mosaic_tpu.plan import (
  LANES,
  SUBLANES,
  Axis,
  Plan,
  Tiles,
  ceil,
  memory,
)

__all__ = ["KERNEL", "Tiles", "backward", "estimate", "fitting", "forward", "supports"]


def supports(q, v, window: int) -> None:
  """Raises NotImplementedError with the reason for what these kernels cannot do."""
  tiles = _least(q, window)
  if estimate(tiles, q, v, window) > tiles.memory:
    raise NotImplementedError(
      f"impl 'pallas': d is {q.shape[4]}, c is {v.shape[4]}, the window {window}; fast"
      " memory holds no halo"
    )


def fitting(q, v, window: int) -> Tiles:
  """Returns the default tiles for arrays, or their shapes."""
  H, W = q.shape[1:3]
  least = _least(q, window)
  tiles = dataclasses.replace(least, rows=H, columns=W)
  while estimate(tiles, q, v, window) > tiles.memory:
    sides = {
      "rows": (tiles.rows, least.rows),
      "columns": (tiles.columns, least.columns),
    }
    sides = {name: side for name, side in sides.items() if side[0] > side[1]}
    if not sides:
      break
    name = max(sides, key=lambda n: sides[n][0])
    size, most = sides[name][0], (H if name == "rows" else W)
    # As few tiles as one more, so that they hardly overlap.
    size = min(size - 1, -(-most // (-(-most // size) + 1)))
    tiles = dataclasses.replace(tiles, **{name: max(size, sides[name][1])})
  return tiles


def _least(q, window: int) -> Tiles:
  """Returns the smallest tiles whose halos hold their windows."""
  rows, columns = (min(n, window // 2 + 1) for n in q.shape[1:3])
  room = memory(target_kind() if target_platform() == "tpu" else "")
  return Tiles(rows, columns, room)


def estimate(tiles: Tiles, q, v, window: int) -> int:
  """Returns an upper bound of the backward kernel's VMEM in bytes; it takes more."""
  plan = _plan(q, v, window, tiles)
  line = 4 * LANES
  halo = plan.rows.halo * plan.c * plan.width * line
  pixels = plan.rows.size * plan.columns.size
  maps = 2 * pixels * (2 * ceil(plan.d, 16) + ceil(plan.c, 16)) * line
  maps += 4 * plan.rows.size * ceil(plan.columns.size, SUBLANES) * line
  tables = 4 * plan.window * (plan.d + 1) * plan.taps * line
  tables += 4 * (2 * plan.window - 1) * plan.distances * line
  # Twice a halo's gradient; twice a halo, or once more in float32 if it is narrow.
  return maps + tables + 4 * halo + (1 << 20)


def forward(q, keys, tap_bias, relative, v, *, window: int, tiles: Tiles | None):
  """Computes (out, lse), see `pallas_kernels.dynamic_window`."""
  tiles = tiles or fitting(q, v, window)
  plan, arrays = _given(q, keys, tap_bias, relative, v, window, tiles)
  specs, shape = _specs(plan), functools.partial(_like, arrays[0])
  out, lse = _call(
    plan,
    forward_kernel.forward,
    arrays,
    [specs["q"], specs["keys"], specs["bias"], specs["distances"], specs["v"]],
    [specs["out"], specs["line"]],
    (shape(plan.c, dtype=arrays[4].dtype), shape(dtype=jnp.float32)),
    tiles,
    "dynamic_window_forward",
  )
  return operands.joined(plan, out, v).astype(v.dtype), operands.joined(plan, lse, v)


def backward(
  q,
  keys,
  tap_bias,
  relative,
  v,
  g,
  lse,
  delta,
  *,
  window: int,
  tiles: Tiles | None,
):
  """Computes the gradients, see `pallas_kernels.dynamic_window`."""
  tiles = tiles or fitting(q, v, window)
  plan, arrays = _given(q, keys, tap_bias, relative, v, window, tiles)
  # A pixel of two tiles has a gradient in one of them.
  slopes = operands.pixels(plan, g.astype(arrays[4].dtype), fresh=True)
  less = operands.pixels(plan, delta, fresh=True)
  arrays = *arrays, slopes, operands.pixels(plan, lse), less
  specs = _specs(plan)
  names = "q keys bias distances v out line line".split()
  given = [specs[name] for name in names]
  results = [specs[n] for n in ("q", "keys", "lane_bias", "distances", "v")]
  lanes = arrays[0].shape[-1]
  whole = [(plan.window, plan.taps, lanes), arrays[3].shape, arrays[4].shape]
  shapes = [jax.ShapeDtypeStruct(x, jnp.float32) for x in (arrays[1].shape, *whole)]
  dq, dkeys, dbias, drelative, dv = _call(
    plan,
    backward_kernel.backward,
    arrays,
    given,
    results,
    (jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype), *shapes),
    tiles,
    "dynamic_window_backward",
  )
  return (
    operands.joined(plan, dq, q).astype(q.dtype),
    operands.keys_back(plan, dkeys, keys),
    operands.bias_back(plan, dbias, keys),
    operands.distances_back(plan, drelative, keys),
    operands.added(plan, dv, v).astype(v.dtype),
  )


def _given(q, keys, tap_bias, relative, v, window: int, tiles: Tiles):
  """Returns the plan, and what both kernels read."""
  plan = _plan(q, v, window, tiles)
  dtype = jnp.bfloat16 if plan.narrow else jnp.float32
  return plan, (
    operands.pixels(plan, q.astype(dtype)),
    operands.keys(plan, keys),
    operands.bias(plan, tap_bias),
    operands.distances(plan, relative, q.shape[0]),
    operands.halos(plan, v.astype(dtype)),
  )


def _plan(q, v, window: int, tiles: Tiles) -> Plan:
  """Returns the plan of a kernel; raises ValueError for tiles that cannot run."""
  axes: list[Axis] = []
  for name, length in zip(("rows", "columns"), q.shape[1:3], strict=True):
    size = getattr(tiles, name)
    if not min(length, window // 2 + 1) <= size <= length:
      raise ValueError(
        f"tiles.{name} {size}: it must be from window // 2 + 1 = {window // 2 + 1} to"
        f" {length}, the map's"
      )
    axes.append(Axis(length, size, window))
  narrow = q.dtype == v.dtype == jnp.bfloat16
  return Plan(axes[0], axes[1], q.shape[4], v.shape[4], narrow)


def _like(q, *channels, dtype):
  """Returns the shape of pixels with so many channels."""
  return jax.ShapeDtypeStruct((*q.shape[:4], *channels, q.shape[-1]), dtype)


def _specs(plan: Plan) -> dict[str, pl.BlockSpec]:
  """Returns the blocks of a grid step by the name of what they hold."""

  def of_tile(*sizes):
    zeros = (0,) * (len(sizes) - 1)
    return pl.BlockSpec((None, None, *sizes), lambda n, i, j: (i, j, *zeros, n))

  def of_lanes(*sizes):
    zeros = (0,) * (len(sizes) - 1)
    return pl.BlockSpec(sizes, lambda n, i, j: (*zeros, n))

  size, k = (plan.rows.size, plan.columns.size), plan.window
  return {
    "q": of_tile(*size, plan.d, LANES),
    "out": of_tile(*size, plan.c, LANES),
    "line": of_tile(*size, LANES),
    "v": of_tile(plan.rows.halo, plan.c, plan.width, LANES),
    "keys": of_lanes(k, plan.d, plan.taps, LANES),
    "lane_bias": of_lanes(k, plan.taps, LANES),
    "distances": of_lanes(2 * k - 1, plan.distances, LANES),
    "bias": pl.BlockSpec((k, plan.taps, LANES), lambda n, i, j: (0, 0, 0)),
  }


def _call(plan, kernel, arrays, given, results, shapes, tiles: Tiles, name):
  """Computes a kernel's results."""
  lanes = arrays[0].shape[-1]
  pixels = plan.rows.length * plan.columns.length * lanes
  taps = pixels * plan.window**2
  products = 2 * (plan.d + plan.c) * (1 if len(arrays) == 5 else 2.5)
  wide = (plan.rows.halo, plan.c, plan.width, LANES) if plan.narrow else (8, LANES)
  return pl.pallas_call(
    functools.partial(kernel, plan),
    out_shape=shapes,
    grid=(lanes // LANES, *plan.tiles),
    in_specs=given,
    out_specs=results,
    scratch_shapes=[
      pltpu.VMEM((plan.window, plan.taps, LANES), jnp.float32),
      pltpu.VMEM(wide, jnp.float32),
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary", "arbitrary"),
      vmem_limit_bytes=tiles.memory + (8 << 20),
    ),
    cost_estimate=calling.cost(products * taps, taps, (arrays, shapes)),
    name=name,
  )(*arrays)


KERNEL = calling.Kernel("pallas", forward, backward, supports, fitting)
