"""Linear attention with decay on TPUs: Pallas kernels for Mosaic.

Chunks follow each other on the grid's last axis and hand the state over in fast
memory. The backward pass recomputes the states before each chunk, by one product a
chunk, and then goes through the chunks in reverse: the forward pass saves nothing.
"""

import jax
import jax.numpy as jnp

from attnjax.core.platform import target_kind, target_platform
from pallas_kernels import calling, decayed_linear
from pallas_kernels.decayed_linear import decays
from pallas_kernels.decayed_linear.mosaic_tpu import (
  backward_kernel,
  forward_kernel,
  slopes,
)
from pallas_kernels.decayed_linear.mosaic_tpu.plan import Plan
from pallas_kernels.decayed_linear.mosaic_tpu.tiles import (
  Tile,
  Tiles,
  check,
  defaults,
  estimate,
)
from pallas_kernels.flash.mosaic_tpu import layout

__all__ = ["KERNEL", "Tile", "Tiles", "backward", "check"]
__all__ += ["defaults", "estimate", "fitting", "forward", "supports"]


def supports(q, k, v) -> None:
  """Raises NotImplementedError, with the reason, for what the kernels cannot do."""
  decayed_linear.supports(q, k, v, "pallas", 512)


def fitting(q, k, v) -> Tiles:
  """Returns the default tiles for arrays, or their shapes, on the target device."""
  return defaults(q, k, v, target_kind() if target_platform() == "tpu" else "")


def forward(q, k, v, log_decay, state, documents, *, scale, tiles):
  """Computes the outputs and the last state, see `pallas_kernels.decayed_linear`."""
  tiles = tiles or fitting(q, k, v)
  check(tiles, q, k, v)
  (B, T, N, _), dtype = q.shape, v.dtype
  plan = _plan(tiles.forward, q, k, v, scale)
  vmem = _limit(estimate(tiles.forward, "forward", q, v))
  out, last = forward_kernel.call(
    plan,
    tuple(_packed(x, plan) for x in (q, k, v)),
    _lines(log_decay, documents, plan),
    state,
    (B, N),
    vmem,
  )
  return layout.unpack(out, T).astype(dtype), last


def backward(q, k, v, log_decay, state, documents, g, g_state, *, scale, tiles, decay):
  """Computes the gradients of `forward`, see `pallas_kernels.decayed_linear`."""
  tiles = tiles or fitting(q, k, v)
  check(tiles, q, k, v)
  heads, plan = (q.shape[0], q.shape[2]), _plan(tiles.backward, q, k, v, scale)
  vmem = _limit(estimate(tiles.backward, "backward", q, v))
  lines = _lines(log_decay, documents, plan)
  rows, keys, values, g = (_packed(x, plan) for x in (q, k, v, g.astype(v.dtype)))
  given = None, keys, values
  states, _ = forward_kernel.call(plan, given, lines, state, heads, vmem)
  arrays = rows, keys, values, g, states, g_state.astype(jnp.float32)
  *d, slope, first = backward_kernel.call(plan, arrays, lines, heads, vmem, decay)
  dq, dk, dv = (_gradient(*x) for x in zip(d, (q, k, v)))
  if slope is not None:
    slope = slopes.passing(slope, plan.inner)[:, :, : q.shape[1]].swapaxes(1, 2)
  return dq, dk, dv, slope, first


def _gradient(x, like):
  """Returns a packed gradient in the shape of `like`, summed over grouped heads."""
  x = layout.unpack(x, like.shape[1])
  if x.shape[2] > like.shape[2]:
    x = x.reshape(*like.shape[:3], -1, x.shape[3]).sum(axis=3)
  return x.astype(like.dtype)


def _plan(tile: Tile, q, k, v, scale: float) -> Plan:
  return Plan(
    chunk=tile.chunk,
    heads=tile.heads,
    inner=tile.inner,
    chunks=-(-q.shape[1] // tile.chunk),
    group=q.shape[2] // k.shape[2],
    H=q.shape[3],
    E=v.shape[3],
    scale=scale,
    exact=q.dtype != jnp.bfloat16,
  )


def _packed(x: jax.Array, plan: Plan) -> jax.Array:
  # The matrix unit takes bfloat16 and float32.
  x = x.astype(jnp.float32) if x.dtype == jnp.float16 else x
  return layout.pack(x, plan.chunks * plan.chunk)


def _lines(log_decay, documents, plan: Plan):
  """Returns (sums, documents, ends), the arguments of `plan.decays`, of all chunks."""
  sums = None if log_decay is None else decays.sums(log_decay, plan.chunk)
  return sums, *_documents(documents, plan)


def _documents(documents, plan: Plan):
  """Returns documents (B, 1, tokens), and those before each chunk and last, flat."""
  if documents is None:
    return None, None
  beyond = plan.chunks * plan.chunk - documents.shape[1]
  x = jnp.pad(documents, ((0, 0), (0, beyond)), mode="edge").astype(jnp.int32)
  ends = jnp.concatenate([x[:, :1], x[:, plan.chunk - 1 :: plan.chunk]], axis=1)
  return x[:, None], ends.reshape(-1)


def _limit(memory: int) -> int:
  """Returns the compiler's VMEM limit in bytes: the estimate and 8 MiB of slack."""
  return memory + (8 << 20)


KERNEL = calling.Kernel("pallas", forward, backward, supports, fitting)
