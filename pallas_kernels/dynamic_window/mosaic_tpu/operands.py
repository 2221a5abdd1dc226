"""The operands of the TPU kernels: maps cut into tiles, batches and groups in lanes."""

import jax
import jax.numpy as jnp

from pallas_kernels.dynamic_window.mosaic_tpu.plan import LANES, LEAST, Axis, Plan, ceil


def pixels(plan: Plan, x, fresh: bool = False):
  """Returns (B, H, W, G, ...) as tiles (down, across, rows, columns, ..., lanes).

  Args:
    plan: of the kernel.
    x: a map of what pixels have.
    fresh: whether a pixel that an earlier tile has is 0.
  """
  x = _lanes(jnp.moveaxis(x, (0, 3), (-2, -1)))
  x = _cut(x, 1, plan.columns.starts, plan.columns.size, fresh)
  return _cut(x, 1, plan.rows.starts, plan.rows.size, fresh)


def joined(plan: Plan, x, like):
  """Returns tiles of pixels as a map like `like`, (B, H, W, G, ...)."""
  x = _joined(plan.columns, _joined(plan.rows, x, 1), 1)
  return jnp.moveaxis(_entries(x, like), (-2, -1), (0, 3))


def halos(plan: Plan, v):
  """Returns values as halos of tiles, (down, across, rows, c, columns, lanes)."""
  v = _lanes(v.transpose(1, 4, 2, 0, 3))
  v = _cut(v, 2, plan.columns.halo_starts, plan.columns.halo)
  v = _padded(v, -2, plan.width)
  return _cut(v, 1, plan.rows.halo_starts, plan.rows.halo)


def added(plan: Plan, x, like):
  """Returns the sums of halos as a map like `like`, (B, H, W, G, c)."""
  x = x[..., : plan.columns.halo, :]
  x = _added(plan.columns, _added(plan.rows, x, 1), 2)
  return _entries(x, like).transpose(3, 0, 2, 4, 1)


def keys(plan: Plan, x):
  """Returns keys (B, G, k^2, d) as (k, d, taps, lanes)."""
  B, G, _, d = x.shape
  x = x.reshape(B, G, plan.window, plan.window, d).transpose(2, 4, 3, 0, 1)
  return _padded(_lanes(x), -2, plan.taps)


def keys_back(plan: Plan, x, like):
  """Returns (k, d, taps, lanes) as (B, G, k^2, d)."""
  x = _entries(x[:, :, : plan.window], like).transpose(3, 4, 0, 2, 1)
  return x.reshape(*x.shape[:2], plan.window**2, -1)


def bias(plan: Plan, x):
  """Returns (k^2,) as (k, taps, 128), with `LEAST` where there is no tap."""
  x = jnp.broadcast_to(x.reshape(plan.window, -1, 1), (*[plan.window] * 2, LANES))
  return _padded(x, 1, plan.taps, LEAST)


def bias_back(plan: Plan, x, like):
  """Returns (k, taps, lanes) as (B, G, k^2)."""
  x = _entries(x[:, : plan.window], like).transpose(2, 3, 0, 1)
  return x.reshape(*x.shape[:2], -1)


def distances(plan: Plan, x, batch: int):
  """Returns (G, X, X) as (X, distances, lanes)."""
  x = jnp.moveaxis(x, 0, 2)[:, :, None]
  x = jnp.broadcast_to(x, (*x.shape[:2], batch, x.shape[3]))
  return _padded(_lanes(x), 1, plan.distances)


def distances_back(plan: Plan, x, like):
  """Returns (X, distances, lanes) as (B, G, X, X)."""
  return _entries(x[:, : x.shape[0]], like).transpose(2, 3, 0, 1)


def _lanes(x):
  """Returns (..., B, G) as (..., lanes)."""
  x = x.reshape(*x.shape[:-2], -1)
  return _padded(x, -1, ceil(x.shape[-1], LANES))


def _entries(x, like):
  """Returns (..., lanes) as (..., B, G) of a map, or of keys, `like`."""
  B, G = like.shape[0], like.shape[3 if like.ndim > 4 else 1]
  return x[..., : B * G].reshape(*x.shape[:-1], B, G)


def _padded(x, axis: int, size: int, fill=0):
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, size - x.shape[axis])
  return jnp.pad(x, widths, constant_values=fill)


def _cut(x, axis: int, starts, size: int, fresh: bool = False):
  """Cuts an axis into tiles that may overlap; their number is the first axis."""
  parts = [jax.lax.slice_in_dim(x, s, s + size, axis=axis) for s in starts]
  if fresh and len(starts) > 1:
    again = starts[-2] + size - starts[-1]
    rest = jax.lax.slice_in_dim(parts[-1], again, size, axis=axis)
    widths = [(0, 0)] * x.ndim
    widths[axis] = (again, 0)
    parts[-1] = jnp.pad(rest, widths)
  return jnp.stack(parts)


def _joined(tiles: Axis, x, axis: int):
  """Joins tiles along an axis of what follows the first one."""
  parts, starts = list(x), tiles.starts
  if len(starts) > 1:
    again = starts[-2] + tiles.size - starts[-1]
    parts[-1] = jax.lax.slice_in_dim(parts[-1], again, tiles.size, axis=axis)
  return jnp.concatenate(parts, axis)


def _added(tiles: Axis, x, axis: int):
  """Adds up halos along an axis of what follows the first one, in their order."""
  if len(x) == 1:
    return x[0]
  shape = list(x.shape[1:])
  shape[axis] = tiles.length
  total = jnp.zeros(shape, x.dtype)
  for start, part in zip(tiles.halo_starts, x, strict=True):
    place = [slice(None)] * part.ndim
    place[axis] = slice(start, start + tiles.halo)
    total = total.at[tuple(place)].add(part)
  return total
