"""Attention to pages on TPUs: a Pallas kernel for Mosaic."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import calling
from pallas_kernels.paged_decode import mosaic_tpu_kernel as kernels
from pallas_kernels.paged_decode.lists import visited
from pallas_kernels.paged_decode.plan import LANES, Plan

DTYPES = ("float32", "bfloat16")
# Bytes of the scalar memory that lists of pages may take.
LISTS = 512 << 10


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tile sizes of the kernel.

  Attributes:
    pages: that are multiplied at once, while as many are read.
    memory: bytes of fast memory (VMEM) that the kernel may take.
  """

  pages: int
  memory: int = 48 << 20


def supports(q, k, v, starts, page: int) -> None:
  """Raises NotImplementedError with the reason for what the kernel cannot do."""
  calling.check_types("pallas", DTYPES, q=q, k=k, v=v)
  if not q.dtype == k.dtype == v.dtype:
    raise NotImplementedError(
      f"impl 'pallas': the types {q.dtype}, {k.dtype} and {v.dtype} differ"
    )
  if starts.shape[1] > 1:
    raise NotImplementedError(
      f"impl 'pallas': {starts.shape[1]} lists a row; a page is read with all its heads"
    )
  _check_rows(page, k)
  if k.shape[0] * k.shape[1] >= 2**31:
    raise NotImplementedError(
      f"impl 'pallas': {k.shape[0]} tokens of {k.shape[1]} heads; a row's number is"
      " below 2^31"
    )
  if 8 * starts.size > LISTS:
    raise NotImplementedError(
      f"impl 'pallas': lists of {starts.size} pages; scalar memory holds {LISTS // 8}"
    )


def _check_rows(page: int, k) -> None:
  """Raises NotImplementedError if pages do not begin with a tile of memory."""
  rows, tile = page * k.shape[1], 32 // jnp.dtype(k.dtype).itemsize
  if rows % tile:
    raise NotImplementedError(
      f"impl 'pallas': a page has {page} x {k.shape[1]} rows of {k.dtype}; they must"
      f" divide by {tile}, the rows of a tile"
    )


def fitting(q, k, v, starts, page: int) -> Tiles:
  """Returns the default tiles for these arrays, or their shapes."""
  rows, most = page * k.shape[1], max(starts.shape[2], 1)
  pages = max(1, 4096 // rows)
  while pages > 1 and estimate(pages * rows, q, k, v) > 24 << 20:
    pages //= 2
  return Tiles(min(pages, most))


def estimate(rows: int, q, k, v) -> int:
  """Returns an upper bound of the kernel's VMEM in bytes, for tiles of `rows` rows."""
  N, K, size = q.shape[1], k.shape[1], q.dtype.itemsize
  heads = _ceil(K * _ceil(N // K, 8), 16)
  widths = _ceil(q.shape[2], LANES) + _ceil(v.shape[2], LANES)
  lanes = _ceil(rows, LANES)
  return 2 * rows * widths * size + 4 * heads * (2 * lanes + widths) + 64 * 4 * lanes


def forward(q, k, v, starts, counts, *, page: int, scale: float, scores: bool, tiles):
  """Computes (out, lse) and, with `scores`, the tokens' greatest weights in groups.

  Args:
    q: (B, N, H).
    k: (Z, K, H).
    v: (Z, K, V).
    starts: int32, (B, 1, M), first tokens of pages, at the beginning of a tile.
    counts: int32, (B, 1, M), tokens of pages, 0 to `page`.
    page: tokens of a page at most.
    scale: what q . k is multiplied by.
    scores: whether the weights (B, K, M page) float32 are computed.
    tiles: sizes; None for `fitting`.
  """
  (B, N, H), (Z, K, V), M = q.shape, v.shape, starts.shape[2]
  _check_rows(page, k)  # devices may have divided the heads
  tiles = tiles or fitting(q, k, v, starts, page)
  plan = Plan.of(N, K, page, tiles.pages, M, scores, scale)
  starts, counts = (plan.whole(x[:, 0]) for x in (starts, counts))
  least = counts.reshape(B, plan.blocks, plan.pages).min(axis=2)
  shapes = [((B, plan.rows, V), v.dtype), ((B, plan.rows, LANES), jnp.float32)]
  if scores:
    shapes.append(((B, plan.blocks, plan.group, plan.columns), jnp.float32))
  found = pl.pallas_call(
    functools.partial(kernels.paged, plan),
    out_shape=tuple(jax.ShapeDtypeStruct(*shape) for shape in shapes),
    grid_spec=_grid(plan, B, H, V, k.dtype),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("arbitrary",),
      vmem_limit_bytes=tiles.memory,
      disable_bounds_checks=True,  # they cost a quarter of all bundles
    ),
    cost_estimate=calling.cost(
      2 * plan.rows * B * M * page * K * (H + V),
      plan.rows * B * M * page * K,
      [jax.ShapeDtypeStruct((B * M * page, K, H + V), k.dtype)],
    ),
    name="paged_decode",
  )(
    starts.reshape(-1) * K,
    counts.reshape(-1),
    visited(counts),
    least.reshape(-1),
    *plan.patterns(),
    plan.by_group(q),
    k.reshape(Z * K, H),
    v.reshape(Z * K, V),
  )
  out, lse = plan.by_head(found[0]), plan.by_head(found[1])[..., 0]
  return out, lse, *(plan.weights(x, lse, counts) for x in found[2:])


def _grid(plan: Plan, B: int, H: int, V: int, dtype):
  """Returns the grid, a step for each row, the arrays' places and the buffers."""
  anywhere = pl.BlockSpec(memory_space=pl.ANY)

  def rows(size):
    return pl.BlockSpec((None, plan.rows, size), lambda b, *_: (b, 0, 0))

  def constant(*shape):
    return pl.BlockSpec(shape, lambda b, *_: (0, 0))

  own = [
    constant(plan.rows, LANES),
    constant(8, plan.columns),
    rows(H),
  ]
  scratch = [
    pltpu.VMEM((2, plan.columns, H), dtype),
    pltpu.VMEM((2, plan.columns, V), dtype),
    pltpu.SemaphoreType.DMA((2, 2)),
    pltpu.SMEM((2,), jnp.int32),
    pltpu.VMEM((1, plan.columns), jnp.int32),
  ]
  if plan.scores:
    scratch.append(pltpu.VMEM((plan.group, plan.columns), jnp.float32))
    scratch.append(pltpu.SemaphoreType.DMA(()))
  return pltpu.PrefetchScalarGridSpec(
    num_scalar_prefetch=4,
    grid=(B,),
    in_specs=[*own, anywhere, anywhere],
    out_specs=[rows(V), rows(LANES), *[anywhere] * plan.scores],
    scratch_shapes=scratch,
  )


def backward(*arrays, **constants):
  """Raises NotImplementedError: derivatives are those of the plain form."""
  raise NotImplementedError("the derivatives of attention to pages are in plain JAX")


def _ceil(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


KERNEL = calling.Kernel("pallas", forward, backward, supports, fitting)
