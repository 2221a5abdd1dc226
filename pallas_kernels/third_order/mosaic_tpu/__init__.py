"""Third-order attention on TPUs: Pallas kernels for Mosaic, forward and backward."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from attnjax.core.third_order import Sight, unfolded
from pallas_kernels import calling
from pallas_kernels.third_order.mosaic_tpu import (
  forward_kernel,
  gradients_kernel,
  operands,
)
from pallas_kernels.third_order.mosaic_tpu.plan import (
  LANES,
  ROWS,
  Plan,
  Tiles,
  ceil,
  check,
)

__all__ = ["KERNEL", "Tiles", "backward", "estimate", "fitting", "forward", "supports"]
DTYPES = ("float32", "bfloat16", "float16")


def supports(q, k1, k2, v1, v2) -> None:
  """Raises NotImplementedError with the reason for what these kernels cannot do."""
  given = {"q": q, "k1": k1, "k2": k2, "v1": v1, "v2": v2}
  calling.check_types("pallas", DTYPES, **given)
  tiles = Tiles(LANES, ROWS, LANES)
  if estimate(tiles, q.shape[3], v1.shape[3], q.dtype) > tiles.memory:
    raise NotImplementedError(
      f"impl 'pallas': H is {q.shape[3]}, V is {v1.shape[3]}; fast memory holds no tile"
    )


def fitting(q, k1, k2, v1, v2) -> Tiles:
  """Returns the default tiles for arrays, or their shapes."""
  S, rows, second = k1.shape[1], 256, 512
  if any(x.dtype != jnp.bfloat16 for x in (q, k1, k2, v1, v2)):
    rows, second = 128, 256  # six products for each: as much code as for 512 x 768
  tiles = Tiles(rows, min(ceil(S, ROWS), 32), min(ceil(S, LANES), second))
  rows = ceil(q.shape[1] * (q.shape[2] // k1.shape[2]), LANES)
  tiles = dataclasses.replace(tiles, rows=min(tiles.rows, rows))
  while estimate(tiles, q.shape[3], v1.shape[3], q.dtype) > 32 << 20:
    if tiles.second > LANES:
      tiles = dataclasses.replace(tiles, second=ceil(tiles.second // 2, LANES))
    elif tiles.rows > LANES:
      tiles = dataclasses.replace(tiles, rows=ceil(tiles.rows // 2, LANES))
    else:
      break
  return tiles


def estimate(tiles: Tiles, H: int, V: int, dtype) -> int:
  """Returns an upper bound of the kernels' VMEM in bytes."""
  H, V = ceil(H, LANES), ceil(V, LANES)
  size = 4 if jnp.dtype(dtype).itemsize == 4 or dtype == jnp.float16 else 2
  wide = H + V
  arrays = 2 * size * wide * (tiles.rows + tiles.second)
  arrays += 2 * 4 * wide * 2 * tiles.first + 4 * wide * 8 * tiles.first
  sums = 4 * tiles.rows * (wide + 4 * LANES)
  live = (2 * tiles.joint + 4) * 4 * tiles.rows * tiles.second + 16 * tiles.rows * wide
  return arrays + sums + live + (1 << 20)


def forward(
  q, k1, k2, v1, v2, data, *, sight: Sight, tiles: Tiles | None
) -> tuple[Any, Any, Any]:
  """Computes (out, top, total), see `attnjax.core.third_order.gradients`."""
  tiles = tiles or fitting(q, k1, k2, v1, v2)
  plan = _plan(q, k1, k2, v1, v2, data, sight, tiles)
  arrays = operands.arrays(plan, q, k1, k2, v1, v2)
  rows, wide = arrays[0].shape[1], [x.shape[2] for x in (arrays[0], arrays[3])]
  specs = operands.Specs(plan)
  line = jax.ShapeDtypeStruct((plan.units, 1, rows), jnp.float32)
  out, top, total = _call(
    plan,
    forward_kernel.forward,
    (plan.units, plan.blocks, plan.steps(0), plan.steps(1)),
    [
      specs.rows(wide[0]),
      *(specs.keys(wide[0], n) for n in (0, 1)),
      *(specs.keys(wide[1], n) for n in (0, 1)),
      *specs.ids(),
    ],
    [specs.rows(wide[1]), specs.line(), specs.line()],
    (jax.ShapeDtypeStruct((plan.units, rows, wide[1]), arrays[4].dtype), line, line),
    [
      *[(tiles.rows, LANES)] * 2,
      (tiles.rows, wide[1]),
    ],
    "third_order_forward",
    4,
  )(operands.start(sight, data), *arrays, *operands.ids(plan, data))
  out = unfolded(out[..., : v1.shape[3]], q).astype(v1.dtype)
  return out, *(unfolded(x[:, 0], q) for x in (top, total))


def backward(
  q, k1, k2, v1, v2, g, top, share, delta, data, *, sight: Sight, tiles: Tiles | None
) -> tuple[Any, ...]:
  """Computes the gradients, see `attnjax.core.third_order.gradients`."""
  tiles = tiles or fitting(q, k1, k2, v1, v2)
  lines = g, top, share, delta
  dq = _queries(q, k1, k2, v1, v2, lines, data, sight, tiles)
  dk1, dv1 = _keys(q, k1, k2, v1, v2, lines, data, sight, tiles)
  exchanged = k2, k1, v2, v1, lines, data, sight.swapped, tiles
  dk2, dv2 = _keys(q, *exchanged)
  return dq, dk1, dk2, dv1, dv2


def _queries(q, k1, k2, v1, v2, lines, data, sight: Sight, tiles: Tiles):
  """Computes dq."""
  plan = _plan(q, k1, k2, v1, v2, data, sight, tiles)
  arrays = *operands.arrays(plan, q, k1, k2, v1, v2), *operands.lines(plan, lines)
  wide, specs = [arrays[n].shape[2] for n in (0, 3)], operands.Specs(plan)
  dq = _call(
    plan,
    gradients_kernel.queries,
    (plan.units, plan.blocks, plan.steps(0), plan.steps(1)),
    [*_given(specs, wide), *specs.ids()],
    specs.rows(wide[0]),
    jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype),
    [(tiles.rows, wide[0]), (3, tiles.rows, LANES)],
    "third_order_queries",
    6,
  )(operands.start(sight, data), *arrays, *operands.ids(plan, data))
  return unfolded(dq[..., : q.shape[3]], q).astype(q.dtype)


def _keys(q, k1, k2, v1, v2, lines, data, sight: Sight, tiles: Tiles):
  """Computes dk and dv of the first stream."""
  plan = _plan(q, k1, k2, v1, v2, data, sight, tiles)
  arrays = *operands.arrays(plan, q, k1, k2, v1, v2), *operands.lines(plan, lines)
  wide, specs = [arrays[n].shape[2] for n in (0, 3)], operands.Specs(plan, of_keys=True)
  found = _call(
    plan,
    gradients_kernel.keys,
    (plan.units, arrays[1].shape[1] // tiles.first, plan.row_steps(), plan.steps(1)),
    [*_given(specs, wide), *specs.ids()],
    [specs.keys(n, 0) for n in wide],
    [jax.ShapeDtypeStruct(arrays[n].shape, jnp.float32) for n in (1, 3)],
    [*((tiles.first, ROWS, n) for n in wide), (3, tiles.rows, LANES)],
    "third_order_keys",
    8,
  )(operands.start(sight, data), *arrays, *operands.ids(plan, data))
  dk, dv = (unfolded(x[..., : y.shape[3]], y) for x, y in zip(found, (k1, v1)))
  return (dk * sight.scale).astype(k1.dtype), dv.astype(v1.dtype)


def _given(specs, wide):
  """Returns the specs of q, k1, k2, v1, v2, g, top, share, delta."""
  keys = [specs.keys(n, stream) for n in wide for stream in (0, 1)]
  return [specs.rows(wide[0]), *keys, specs.rows(wide[1]), *[specs.line()] * 3]


def _call(plan: Plan, kernel, grid, inputs, outputs, shapes, scratch, name, products):
  """Returns the Pallas call of a kernel; `scratch` has shapes, of float32."""
  marks = (plan.tiles.rows, LANES) if plan.packed else (ROWS, LANES)
  steps = grid[0] * grid[1] * grid[2] * grid[3] * plan.tiles.rows
  triples = steps * plan.tiles.first * plan.tiles.second
  return pl.pallas_call(
    functools.partial(kernel, plan),
    out_shape=shapes,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=grid,
      in_specs=inputs,
      out_specs=outputs,
      scratch_shapes=[
        *(pltpu.VMEM(shape, jnp.float32) for shape in scratch),
        pltpu.VMEM(marks, jnp.int32),
      ],
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"),
      vmem_limit_bytes=plan.tiles.memory + (8 << 20),
    ),
    cost_estimate=calling.cost(products * triples * LANES, triples, shapes),
    name=name,
  )


def _plan(q, k1, k2, v1, v2, data, sight: Sight, tiles: Tiles) -> Plan:
  """Returns the plan of a kernel; raises ValueError for tiles that cannot run."""
  check(tiles)
  (B, T, N, _), (S, K) = q.shape, k1.shape[1:3]
  exact = any(x.dtype != jnp.bfloat16 for x in (q, k1, k2, v1, v2))
  return Plan(sight, tiles, B * K, K, T, N // K, S, exact, data[0] is not None)


KERNEL = calling.Kernel("pallas", forward, backward, supports, fitting)
