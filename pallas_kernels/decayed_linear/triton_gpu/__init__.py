"""Linear attention with decay on GPUs: Triton kernels called through jax-triton.

One kernel computes the states, one product a chunk; a second one computes the outputs
of all chunks in parallel. A single kernel for both would have B N programs of long
chains, too few for a GPU where batch and heads are few. Where the tiles of the states
are few as well, the states are computed in two passes over parts of the sequence
(`in_parts`). The backward pass recomputes the states. The public layout (B, T, N, H) is
read and written as it is: no transposed or padded copies.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import calling, decayed_linear, in_parts
from pallas_kernels.decayed_linear.triton_gpu import launch
from pallas_kernels.decayed_linear.triton_gpu.constants import Form
from pallas_kernels.decayed_linear.triton_gpu.gradients_kernel import (
  keys_kernel,
  values_kernel,
)
from pallas_kernels.decayed_linear.triton_gpu.output_kernel import output_kernel
from pallas_kernels.decayed_linear.triton_gpu.states_kernel import states_kernel
from pallas_kernels.decayed_linear.triton_gpu.tiles import (
  KERNELS,
  Tile,
  Tiles,
  check,
  defaults,
  device,
  estimate,
)

__all__ = ["KERNEL", "KERNELS", "Tile", "Tiles", "backward", "check"]
__all__ += ["defaults", "estimate", "fitting", "forward", "supports"]


def supports(q, k, v) -> None:
  """Raises NotImplementedError, with the reason, for what the kernels cannot do."""
  decayed_linear.supports(q, k, v, "triton", 1024)


def fitting(q, k, v) -> Tiles:
  """Returns the default tiles for arrays, or their shapes, on the default device."""
  return defaults(q, k, v, device())


def forward(q, k, v, log_decay, state, documents, *, scale, tiles):
  """Computes the outputs and the last state, see `pallas_kernels.decayed_linear`."""
  tiles = tiles or fitting(q, k, v)
  check(tiles, q.dtype, device())
  make = functools.partial(launch.form, q, k, v, log_decay, scale, tiles)
  lines = launch.lines(log_decay, documents, tiles)
  states, last = _states(k, v, lines, state, q.shape, make("states"), tiles.states)
  form = make("output")
  out = launch.call(
    output_kernel,
    (q, k, v, *lines, states),
    jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), v.dtype),
    form.tiles_e * form.chunks * q.shape[0] * form.N,
    tiles.output,
    "output",
    T=q.shape[1],
    F=form,
  )
  return out, last


def backward(q, k, v, log_decay, state, documents, g, g_state, *, scale, tiles, decay):
  """Computes the gradients of `forward`, see `pallas_kernels.decayed_linear`."""
  tiles = tiles or fitting(q, k, v)
  check(tiles, q.dtype, device())
  B, T, N, K = *q.shape[:3], k.shape[2]
  make = functools.partial(launch.form, q, k, v, log_decay, scale, tiles)
  lines, g = launch.lines(log_decay, documents, tiles), g.astype(v.dtype)
  form, back = make("states"), make("states", reverse=True)
  states, _ = _states(k, v, lines, state, q.shape, form, tiles.states)
  changes, first = _states(q, g, lines, g_state, q.shape, back, tiles.states)
  arrays = q, k, v, g, *lines, states, changes
  dq, dk, slopes = _by_keys(arrays, make("keys"), tiles.keys, decay)
  dv = _by_values(arrays, make("values"), tiles.values)
  if N > K:
    dk, dv = (x.reshape(B, T, K, N // K, -1).sum(axis=3) for x in (dk, dv))
  slopes = slopes.sum(axis=0)[:, :, :T].swapaxes(1, 2) if decay else None
  return *(d.astype(q.dtype) for d in (dq, dk, dv)), slopes, first


def _by_keys(arrays, form: Form, tile: Tile, decay: bool):
  """Computes dq, dk for each query head, and dlog_decay for each tile of H."""
  q = arrays[0]
  B, T, N, H = q.shape
  terms = (form.tiles_h, B, N, form.tokens) if decay else (1,)
  return launch.call(
    keys_kernel,
    arrays,
    (
      jax.ShapeDtypeStruct(q.shape, q.dtype),
      jax.ShapeDtypeStruct(q.shape, _summed_type(form, q)),
      jax.ShapeDtypeStruct(terms, jnp.float32),
    ),
    form.tiles_h * form.chunks * B * N,
    tile,
    "keys",
    T=T,
    F=form,
    SLOPES=decay,
  )


def _by_values(arrays, form: Form, tile: Tile):
  """Computes dv for each query head."""
  q, k, _, g, *lines, _, changes = arrays
  return launch.call(
    values_kernel,
    (q, k, g, *lines, changes),
    jax.ShapeDtypeStruct(g.shape, _summed_type(form, g)),
    form.tiles_e * form.chunks * q.shape[0] * form.N,
    tile,
    "values",
    T=q.shape[1],
    F=form,
  )


def _summed_type(form: Form, x):
  """Returns float32 if grouped heads' gradients are to be summed, else x's type."""
  return jnp.float32 if form.N > form.K else x.dtype


def _states(x, y, lines, state, shape, form: Form, tile: Tile):
  """Returns (the states before each chunk, in scan order, the state after the last)."""
  B, T, N, _ = shape
  # States grow beyond the range of float16.
  dtype = jnp.float32 if x.dtype == jnp.float16 else x.dtype

  def run(name, before, parts, states, last):
    return launch.call(
      states_kernel,
      (x, y, *lines, before),
      (states, jax.ShapeDtypeStruct(last, jnp.float32)),
      form.tiles_h * form.tiles_e * parts * B * N,
      tile,
      name,
      T=T,
      F=form,
      HEADS=x.shape[2],
      ENDS=name == "ends",
    )

  size, passed = (form.H, form.E), (form.parts - 1, B, N)
  if form.parts > 1:
    each = jax.ShapeDtypeStruct((*passed, *size), jnp.float32)
    ends, kept = run("ends", None, form.parts - 1, each, passed)
    state = in_parts.starts(kept, ends, state)
  each = jax.ShapeDtypeStruct((B, N, form.chunks, *size), dtype)
  return run("states", state, form.parts, each, (B, N, *size))


KERNEL = calling.Kernel("triton", forward, backward, supports, fitting)
