"""Dynamic windows on GPUs: Triton kernels called through jax-triton."""

from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.dynamic_window.triton_gpu.forward_kernel import forward_kernel
from pallas_kernels.dynamic_window.triton_gpu.queries_kernel import queries_kernel
from pallas_kernels.dynamic_window.triton_gpu.tiles import Tiles, check, defaults, power
from pallas_kernels.dynamic_window.triton_gpu.values_kernel import values_kernel

__all__ = ["KERNEL", "Tiles", "backward", "fitting", "forward", "supports"]
WIDEST = 256  # bytes of a query, and of a value


def supports(q, v, window: int) -> None:
  """Raises NotImplementedError with the reason for what these kernels cannot do."""
  for name, size in (("d", q.shape[4]), ("c", v.shape[4])):
    most = WIDEST // jnp.result_type(q.dtype, v.dtype).itemsize
    if size > most:
      raise NotImplementedError(f"impl 'triton': {name} is {size}, at most {most}")
  B, H, W, G, _ = q.shape
  programs = B * G * H * -(-W // fitting(q, v, window).pixels)
  if programs >= 2**31:
    raise NotImplementedError(
      f"impl 'triton': a program for some pixels of a row, {programs}; a grid has fewer"
      " than 2^31"
    )


def fitting(q, v, window: int) -> Tiles:
  """Returns the default tiles for arrays, or their shapes."""
  del window
  channels = max(q.shape[4], v.shape[4])
  return defaults(q.shape[2], channels, jnp.result_type(q.dtype, v.dtype).itemsize)


def forward(
  q, keys, tap_bias, relative, v, *, window: int, tiles: Tiles | None
) -> tuple[Any, Any]:
  """Computes (out, lse), see `pallas_kernels.dynamic_window`."""
  tiles = tiles or fitting(q, v, window)
  how = _constants(q, v, window, tiles)
  arrays = _arrays(q, keys, tap_bias, relative, v)
  out, lse = calling.triton(
    *arrays,
    kernel=forward_kernel,
    out_type=(
      jax.ShapeDtypeStruct(v.shape, arrays[4].dtype),
      jax.ShapeDtypeStruct(v.shape[:4], jnp.float32),
    ),
    grid=_grid(q, tiles),
    name="dynamic_window_forward",
    **how,
  )
  return out.astype(v.dtype), lse


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
) -> tuple[Any, ...]:
  """Computes the gradients, see `pallas_kernels.dynamic_window`."""
  tiles = tiles or fitting(q, v, window)
  how = _constants(q, v, window, tiles)
  *given, values = _arrays(q, keys, tap_bias, relative, v)
  g = g.astype(values.dtype)
  dv = calling.triton(
    *given,
    g,
    lse,
    kernel=values_kernel,
    out_type=jax.ShapeDtypeStruct(v.shape, values.dtype),
    grid=_grid(q, tiles),
    name="dynamic_window_values",
    **how,
  )
  dq, *sums = _queries((*given, values, g, lse, delta), window, tiles, how)
  return dq.astype(q.dtype), *sums, dv.astype(v.dtype)


def _queries(arrays, window: int, tiles: Tiles, how):
  """Computes dq, dkeys, dtap_bias and drelative."""
  q = arrays[0]
  B, H, _, G, d = q.shape
  share = min(H, -(-tiles.programs // (B * G)))
  X, distances = 2 * window - 1, power(2 * window - 1)
  each = (window**2, d), (window**2,), (X, distances)
  sums = [jax.ShapeDtypeStruct((B * G * share, *s), jnp.float32) for s in each]
  how = how | {"warps": tiles.queries_warps or tiles.warps}
  dq, *sums = calling.triton(
    *arrays,
    kernel=queries_kernel,
    out_type=(jax.ShapeDtypeStruct(q.shape, q.dtype), *sums),
    grid=(B * G * share,),
    name="dynamic_window_queries",
    parts_of_map=share,
    DISTANCES=distances,
    **how,
  )
  sums = [x.reshape(B, G, share, *x.shape[1:]).sum(axis=2) for x in sums]
  return dq, sums[0], sums[1], sums[2][..., :X]


def _grid(q, tiles: Tiles) -> tuple[int]:
  B, H, W, G, _ = q.shape
  return (B * G * H * -(-W // tiles.pixels),)


def _arrays(q, keys, tap_bias, relative, v):
  """Returns the arrays that all kernels read; products are of one type."""
  dtype = jnp.result_type(q.dtype, v.dtype)
  return q.astype(dtype), keys.astype(dtype), tap_bias, relative, v.astype(dtype)


def _constants(q, v, window: int, tiles: Tiles) -> dict[str, Any]:
  """Returns a kernel's scalars, constants and options by name."""
  _, H, W, G, d = q.shape
  check(tiles, W, window)
  return dict(
    H=H,
    W=W,
    G=G,
    K=window,
    D=d,
    C=v.shape[4],
    PIXELS=tiles.pixels,
    NEAR=tiles.near,
    TAPS=power(window),
    WIDE_D=power(d),
    WIDE_C=power(v.shape[4]),
    # Three products of the tensor cores' 19-bit floats give float32's precision.
    PRECISION="tf32x3" if jnp.result_type(q.dtype, v.dtype) == jnp.float32 else "ieee",
    warps=tiles.warps,
    stages=tiles.stages,
  )


KERNEL = calling.Kernel("triton", forward, backward, supports, fitting)
