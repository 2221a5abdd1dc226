"""Prefix softmax on GPUs: Triton kernels called through jax-triton.

Where batch, heads and tiles of a value are few, the tokens are cut into parts that run
in parallel (`in_parts`), from states that sums over the parts before give (`ends`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.recurrence.prefix import Weights
from pallas_kernels import calling, in_parts
from pallas_kernels.prefix_softmax import ends
from pallas_kernels.prefix_softmax import triton_gpu_kernel as kernels

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tile sizes of the kernels.

  Attributes:
    size: tokens of a chunk.
    width: elements of a value that a program holds.
    warps: of 32 threads.
    stages: chunks in flight from memory, the current one included.
    parts: the most parts of whole chunks that run in parallel.
  """

  size: int
  width: int
  warps: int = 4
  stages: int = 2
  parts: int = 1


def supports(scores, values) -> None:
  """Raises NotImplementedError with the reason for what these kernels cannot do."""
  calling.check_types("triton", DTYPES, scores=scores, values=values)


def fitting(values) -> Tiles:
  """Returns the default tiles for values (B, T, N, E), an array or its shape."""
  B, T, N, E = values.shape
  size = 64 if jnp.dtype(values.dtype).itemsize == 2 else 32
  size, width = min(size, max(16, _power(T))), min(64, max(16, _power(E)))
  if jnp.dtype(values.dtype).itemsize == 4:  # wider ones fill the registers
    width = min(width, 32)
  parts = in_parts.number(-(-E // width) * B * N, -(-T // size))
  return Tiles(size, width, warps=max(1, min(4, size // 16)), parts=parts)


def forward(weights: Weights, values, start, *, tiles: Tiles | None):
  """Computes (out, its last row), see `attnjax.core.recurrence.prefix.Form`."""
  B, _, N, E = values.shape
  tiles = tiles or fitting(values)
  _check(tiles)
  span, parts, _ = _cut(values, tiles)
  start = start.astype(jnp.float32)
  if parts > 1:
    kept, after = ends.forward(weights, values, span * tiles.size, parts)
    start = in_parts.starts(kept, after, start)
  return calling.triton(
    *_lines(weights, tiles),
    values,
    start,
    kernel=kernels.forward_kernel,
    out_type=(
      jax.ShapeDtypeStruct(values.shape, values.dtype),
      jax.ShapeDtypeStruct((B, N, E), jnp.float32),
    ),
    grid=(-(-E // tiles.width) * parts * B * N,),
    name="prefix_softmax_forward",
    **_constants(values, tiles),
  )


def backward(weights: Weights, values, g, delta, a, b, *, tiles: Tiles | None):
  """Computes (dscores, dvalues, A, b), see `attnjax.core.recurrence.prefix.Form`."""
  B, T, N, E = values.shape
  tiles = tiles or fitting(values)
  _check(tiles)
  pieces = -(-E // tiles.width)
  span, parts, length = _cut(values, tiles)
  a, b = (x.astype(jnp.float32) for x in (a, b))
  if parts > 1:
    sums = ends.backward(weights, g, delta, span * tiles.size, parts, length)
    a, b = (in_parts.starts(sums[0], x, y) for x, y in zip(sums[1:], (a, b)))
  ds, dv, a, b = calling.triton(
    *_lines(weights, tiles),
    values,
    g.astype(values.dtype),
    _line(delta, length, 0.0),
    a,
    b,
    kernel=kernels.backward_kernel,
    out_type=(
      jax.ShapeDtypeStruct((pieces, B, N, length), jnp.float32),
      jax.ShapeDtypeStruct(values.shape, values.dtype),
      jax.ShapeDtypeStruct((B, N, E), jnp.float32),
      jax.ShapeDtypeStruct((pieces, B, N), jnp.float32),
    ),
    grid=(pieces * parts * B * N,),
    name="prefix_softmax_backward",
    **_constants(values, tiles),
  )
  return ds.sum(axis=0)[:, :, :T].swapaxes(1, 2), dv, a, b[0]


def _check(tiles: Tiles) -> None:
  """Raises ValueError, naming value and rule, for tiles that cannot run."""
  for field in ("size", "width"):
    value = getattr(tiles, field)
    if value < 16 or value & (value - 1):
      raise ValueError(f"tiles.{field} {value} must be a power of two, at least 16")
  if tiles.parts < 1:
    raise ValueError(f"tiles.parts {tiles.parts} must be at least 1")


def _cut(x, tiles: Tiles) -> tuple[int, int, int]:
  """Returns (chunks of a part, parts, tokens with the padding of the last part)."""
  chunks = -(-x.shape[1] // tiles.size)
  span = in_parts.span(tiles.parts, chunks)
  parts = -(-chunks // span)
  return span, parts, parts * span * tiles.size


def _constants(values, tiles: Tiles) -> dict:
  _, T, N, E = values.shape
  span, _, length = _cut(values, tiles)
  return dict(
    T=T,
    N=N,
    E=E,
    WIDTH=tiles.width,
    SIZE=tiles.size,
    LENGTH=length,
    SPAN=span,
    # Three products of the tensor cores' 19-bit floats give float32's precision.
    PRECISION="tf32x3" if values.dtype == jnp.float32 else "ieee",
    warps=tiles.warps,
    stages=tiles.stages,
  )


def _lines(weights: Weights, tiles: Tiles) -> tuple[Any, ...]:
  """Returns the weights (B, N, length) and documents; padding has the weight 0."""
  span, parts, length = _cut(weights.scores, tiles)
  first, before, now = weights.first, weights.before, (weights.top, weights.total)
  if first is not None:
    first = _line(first[..., None], length)[:, 0]
    first -= jnp.repeat(jnp.arange(parts) * span * tiles.size, span * tiles.size)
  if length > weights.scores.shape[1]:
    # `before` of the padding is the last token's: padding must not decay the state.
    before = (jnp.concatenate([x, y[:, -1:]], axis=1) for x, y in zip(before, now))
  return (
    _line(weights.scores, length, -jnp.inf),
    *(_line(x, length) for x in (weights.top, weights.share, *before)),
    first,
  )


def _line(x, length: int, fill: float | None = None):
  """Returns (B, T, N) as (B, N, length), padded with `fill` or the last element."""
  widths = ((0, 0), (0, 0), (0, length - x.shape[1]))
  x = x.swapaxes(1, 2)
  if fill is None:
    return jnp.pad(x, widths, mode="edge")
  return jnp.pad(x, widths, constant_values=fill)


def _power(size: int) -> int:
  """Returns the least power of two that is at least `size`."""
  return 1 << (size - 1).bit_length()


KERNEL = calling.Kernel("triton", forward, backward, supports, fitting)
