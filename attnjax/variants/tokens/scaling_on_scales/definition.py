"""The definitions: taps and cells one by one, tiles in loops, normal equations."""

import math

import jax.numpy as jnp

from attnjax.core import definition


def reference_multiscale_forward(
  x,
  *,
  f,
  scales=(1, 2),
  sizes=(),
  max_split=0,
  resize_to=0,
  prefix=0,
  split_forward=False,
):
  """Computes the definition, a tile at a time."""
  del split_forward  # how it is computed, not what
  _, H, W, _ = x.shape
  grids = [(s, s) for s in sizes] or [(int(H * s), int(W * s)) for s in scales]
  firsts, maps, y = [], [], x
  for h, w in grids:
    n, m = math.ceil(h / (max_split or H)), math.ceil(w / (max_split or W))
    image = _cubic(_cubic(definition.wide(x), h, 1), w, 2).astype(x.dtype)
    rows, some = [], []
    for i in range(n):
      row = []
      for j in range(m):
        y, high, wide = image, h // n, w // m
        y = f(y[:, i * high : (i + 1) * high, j * wide : (j + 1) * wide])
        if isinstance(y, tuple):
          some.append(y[0])
          row.append(y[1])
        elif y.ndim == 4:
          row.append(y)
        else:
          side = round((y.shape[1] - prefix) ** 0.5)
          some.append(y[:, :prefix])
          row.append(y[:, prefix:].reshape(y.shape[0], side, side, y.shape[2]))
      rows.append(jnp.concatenate(row, axis=2))
    maps.append(jnp.concatenate(rows, axis=1))
    firsts.append(sum(some) / (n * m))
  _, high, wide, _ = maps[resize_to].shape
  found = jnp.concatenate([_cells(_cells(y, high, 1), wide, 2) for y in maps], axis=3)
  if isinstance(y, tuple):
    return jnp.concatenate(firsts, axis=2), found
  if y.ndim == 4:
    return found
  tokens = found.reshape(found.shape[0], high * wide, found.shape[3])
  return jnp.concatenate([jnp.concatenate(firsts, axis=2), tokens], axis=1)


def reference_linear_reconstruction(inputs, targets, *, ridge=1e-6):
  """Computes the definition, with the bias as the weight of a feature that is 1."""
  X, Y = definition.wide(inputs), definition.wide(targets)
  X = jnp.concatenate([X, jnp.ones_like(X[:, :1])], axis=1)
  penalty = jnp.diag(jnp.arange(X.shape[1]) < X.shape[1] - 1) * ridge
  gram = jnp.einsum("nc,nd->cd", X, X) / len(X) + penalty
  found = jnp.linalg.inv(gram) @ (jnp.einsum("nc,ne->ce", X, Y) / len(X))
  return found[:-1], found[-1]


def reference_information(inputs, targets, kernel, shift, constant):
  """Computes the definition: minus the log of a ratio of sums of squares."""
  X, Y = definition.wide(inputs), definition.wide(targets)
  guess = jnp.einsum("nc,ce->ne", X, definition.wide(kernel)) + definition.wide(shift)
  error, most = jnp.sum((guess - Y) ** 2), jnp.sum((definition.wide(constant) - Y) ** 2)
  return jnp.log(most / error)


def _cubic(x, number, axis):
  """Interpolates along an axis: four taps of each new point, edges repeated."""
  size, a, found = x.shape[axis], -0.75, []
  if number == size:
    return x
  for i in range(number):
    centre, point = (i + 0.5) * size / number - 0.5, 0
    for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
      t = abs(centre - j)
      if t <= 1:
        weight = (a + 2) * t**3 - (a + 3) * t**2 + 1
      else:
        weight = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
      point = point + weight * jnp.take(x, min(max(j, 0), size - 1), axis=axis)
    found.append(point)
  return jnp.stack(found, axis=axis)


def _cells(x, number, axis):
  """Averages along an axis over the cells that each new one covers."""
  size, found = x.shape[axis], []
  for i in range(number):
    cells = range(i * size // number, -(-(i + 1) * size // number))
    parts = [jnp.take(definition.wide(x), j, axis=axis) for j in cells]
    found.append(sum(parts) / len(parts))
  return jnp.stack(found, axis=axis).astype(x.dtype)
